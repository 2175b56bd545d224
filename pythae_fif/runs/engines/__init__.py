"""Where runs are executed: this machine, a Ray cluster, Slurm; each calls `execute(run_dir)`."""

__all__ = ["Engine", "EngineOptions", "LocalEngine", "Outcome", "Slot", "build_engine"]

from pythae_fif.runs.engines.common import Engine, Outcome
from pythae_fif.runs.engines.local import LocalEngine, Slot
from pythae_fif.runs.engines.options import EngineOptions, build_engine
