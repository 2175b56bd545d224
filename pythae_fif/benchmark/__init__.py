"""Configuration, plan, engine, run, store and selection of the benchmark."""

__all__ = ["Experiment", "RunSpec", "Store", "execute", "expand", "load_experiment", "select"]

from .config import Experiment, load_experiment
from .plan import RunSpec, expand
from .run import execute
from .selection import select
from .store import Store
