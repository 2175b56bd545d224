"""The kinds of runs that studies keep, for those who read a store, such as `verify`."""

__all__ = ["STUDY_KINDS"]

from pythae_fif.studies.parts import PARTS
from pythae_fif.studies.spectrum_run import SPECTRUM
from pythae_fif.studies.tabular_run import TABULAR

STUDY_KINDS = (TABULAR, SPECTRUM, PARTS)
"""All of them."""
