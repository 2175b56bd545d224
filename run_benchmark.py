"""Starts the benchmark: `python run_benchmark.py --help` shows how."""

import sys

from pythae_fif.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
