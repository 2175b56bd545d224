"""The built-in data sets. Each module defines a `DATASET`; its name is the name of the set."""
