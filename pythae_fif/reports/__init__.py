"""Tables, figures and the page of an experiment, drawn from records alone."""

__all__ = [
    "build_report",
    "constant_error",
    "load_published",
    "published_value",
    "to_terminal",
    "write_experiment",
]

from pythae_fif.reports.experiment import constant_error, write_experiment
from pythae_fif.reports.published import load_published, published_value
from pythae_fif.reports.table import build_report, to_terminal
