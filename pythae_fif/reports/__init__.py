"""Tables and figures, drawn from records alone."""

__all__ = ["build_report", "sample_figure", "write_report"]

from .figures import sample_figure
from .table import build_report, write_report
