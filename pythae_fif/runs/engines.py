"""The engines that `--engine` offers. A new engine is a class and a line here."""

from pythae_fif.runs.launch import Engine
from pythae_fif.runs.local import LocalEngine
from pythae_fif.runs.ray import RayEngine
from pythae_fif.runs.slurm import SlurmEngine

ENGINES: dict[str, type[Engine]] = {"local": LocalEngine, "ray": RayEngine, "slurm": SlurmEngine}
"""Name of an engine -> its class; the first one is the default."""
