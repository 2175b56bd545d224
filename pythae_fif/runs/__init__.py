"""Executes runs: from a specification to a folder of checksummed records, on any engine."""
