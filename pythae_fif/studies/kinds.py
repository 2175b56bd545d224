"""The kinds of runs that a store may hold, for those who read one, such as `verify`."""

__all__ = ["KINDS"]

from pythae_fif.benchmark.run import IMAGES
from pythae_fif.studies.parts import PARTS
from pythae_fif.studies.spectrum_run import SPECTRUM
from pythae_fif.studies.tabular_run import TABULAR

KINDS = (IMAGES, TABULAR, SPECTRUM, PARTS)
