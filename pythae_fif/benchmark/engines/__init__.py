"""Where runs are executed: this machine, a Ray cluster, Slurm; each calls `execute(run_dir)`."""

__all__ = ["Engine", "EngineOptions", "LocalEngine", "Outcome", "Slot", "build_engine"]

from .common import Engine, Outcome
from .local import LocalEngine, Slot
from .options import EngineOptions, build_engine
