"""A specification -> a run's folder -> sealed records, wherever the runs are executed."""
