"""Runs: from a specification to a run folder to a sealed record, on any engine."""
