"""The benchmark: its configuration, plan, runs and selection."""

__all__ = ["Experiment", "RunSpec", "execute", "expand", "load_experiment", "select"]

from typing import TYPE_CHECKING

from pythae_fif.lazy import lazily

if TYPE_CHECKING:
    from pythae_fif.benchmark.config import Experiment, load_experiment
    from pythae_fif.benchmark.plan import RunSpec, expand
    from pythae_fif.benchmark.run import execute
    from pythae_fif.benchmark.selection import select
else:
    __getattr__ = lazily(__name__)
