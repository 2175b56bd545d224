"""The benchmark's main program: `python run_benchmark.py --help`."""

import sys

from pythae_fif.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
