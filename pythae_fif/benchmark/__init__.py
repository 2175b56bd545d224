"""The benchmark: its configuration, plan, runs and selection."""
