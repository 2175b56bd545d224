"""Tables, figures and the page of an experiment, drawn from records alone."""

__all__ = [
    "Failure",
    "build_report",
    "constant_error",
    "load_published",
    "score_terminal",
    "write_experiment",
]

from typing import TYPE_CHECKING

from pythae_fif.lazy import lazily

if TYPE_CHECKING:
    from pythae_fif.reports.experiment import Failure, constant_error, write_experiment
    from pythae_fif.reports.published import load_published
    from pythae_fif.reports.report import build_report
    from pythae_fif.reports.score_table import score_terminal
else:
    __getattr__ = lazily(__name__)
