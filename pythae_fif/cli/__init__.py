"""The command line: `python run_benchmark.py` and `pythae-fif` run this program."""

__all__ = ["main"]

from pythae_fif.cli.main import main
