"""The benchmark: configuration, plan of runs, one run, and the records of its result."""
