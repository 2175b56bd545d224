"""The benchmark: configuration, plan of runs, one run, and the records of its result.

The names below are imported when they are first used, because they need torch.
"""

from typing import TYPE_CHECKING

from pythae_fif.register import lazy_names

if TYPE_CHECKING:
    from pythae_fif.benchmark.trained import best, load_trained

__all__ = ["best", "load_trained"]

__getattr__ = lazy_names(__name__, dict.fromkeys(__all__, "pythae_fif.benchmark.trained"))
