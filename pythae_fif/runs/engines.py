"""The engines that `--engine` offers. A new engine is a class and a line here."""

from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.names import import_object, is_user_object
from pythae_fif.runs.launch import Engine
from pythae_fif.runs.local import LocalEngine
from pythae_fif.runs.ray import RayEngine
from pythae_fif.runs.slurm import SlurmEngine

ENGINES: dict[str, type[Engine]] = {"local": LocalEngine, "ray": RayEngine, "slurm": SlurmEngine}
"""Name of an engine -> its class; the first one is the default."""


def find_engine(name: str) -> type[Engine]:
    """Returns the class of an engine.

    Args:
        name: A key of :data:`ENGINES`, or `module:Class` for a user's own.

    Raises:
        ConfigError: The name is unknown, or the object cannot be imported or is no engine.
    """
    if name in ENGINES:
        return ENGINES[name]
    if not is_user_object(name):
        raise ConfigError(
            f"engine {name!r} is unknown: {did_you_mean(name, ENGINES)}, or module:Class"
        )
    engine_class = import_object(name)
    if not (isinstance(engine_class, type) and issubclass(engine_class, Engine)):
        raise ConfigError(f"engine {name!r} is no subclass of pythae_fif.runs.launch.Engine")
    return engine_class
