"""The benchmark: configuration, plan of runs, one run, and the records of its result.

The names below are imported when they are first used, because they need torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pythae_fif.benchmark.trained import best, load_trained

__all__ = ["best", "load_trained"]


def __getattr__(name: str) -> Any:  # PEP 562
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("pythae_fif.benchmark.trained"), name)
