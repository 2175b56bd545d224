"""Where runs are executed: this machine, a Ray cluster, Slurm; each calls `execute(run_dir)`."""

__all__ = [
    "Batch",
    "Engine",
    "EngineOptions",
    "LocalEngine",
    "LocalOptions",
    "Outcome",
    "RayOptions",
    "Slot",
    "SlurmOptions",
    "build_engine",
]

from typing import TYPE_CHECKING

from pythae_fif.lazy import lazily

if TYPE_CHECKING:
    from pythae_fif.runs.engines.common import Batch, Engine, Outcome
    from pythae_fif.runs.engines.local import LocalEngine, Slot
    from pythae_fif.runs.engines.options import (
        EngineOptions,
        LocalOptions,
        RayOptions,
        SlurmOptions,
        build_engine,
    )
else:
    __getattr__ = lazily(__name__)
