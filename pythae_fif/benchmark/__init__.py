"""Configuration -> plan -> one run of the benchmark -> the best of a model's configurations."""
