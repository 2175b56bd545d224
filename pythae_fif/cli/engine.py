"""The flags that say where runs are executed, of the commands that make some."""

__all__ = ["ENGINE_FLAGS", "EngineFlags", "add_engine_flags", "read_engine"]

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pythae_fif.benchmark.yaml_files import read_yaml
from pythae_fif.cli.parsing import Parser, add_flags, flags_in
from pythae_fif.errors import ConfigError
from pythae_fif.runs.engines.options import ENGINES, EngineOptions
from pythae_fif.validation import Checked, Flag, flag_of, name_of, read_checked

EngineName = Annotated[str, name_of(lambda: ENGINES)]


class EngineFlags(Checked):
    """Which engine; its own options are its class in :data:`ENGINES`."""

    engine: Annotated[EngineName, Flag("local (default), ray or slurm")] = "local"
    engine_config: Annotated[str | None, Flag("YAML file with these as keys", "FILE")] = None


_CLASSES: tuple[type[Checked], ...] = (EngineFlags, *ENGINES.values())
ENGINE_FLAGS = {name for cls in _CLASSES for name in flags_in(cls)}
"""Names of all of them."""


def add_engine_flags(parser: Parser) -> None:
    """Adds the flags of all engines, as a group."""
    group = parser.add_argument_group("engine", "where the runs are executed")
    add_flags(group, EngineFlags)
    for option in dict.fromkeys(name for cls in ENGINES.values() for name in flags_in(cls)):
        takers = [engine for engine, cls in ENGINES.items() if option in cls.model_fields]
        prefix = "" if len(takers) == len(ENGINES) else f"{', '.join(takers)}: "
        add_flags(group, ENGINES[takers[0]], (option,), prefix)


def read_engine(given: Mapping[str, Any]) -> EngineOptions:
    """The options of the YAML file, overlaid by the flags that are given.

    Args:
        given: Field -> value; what is no flag of engines is passed over.

    Raises:
        ConfigError: An unknown engine, key or value, or an option of another engine.
    """
    own = {name: value for name, value in given.items() if name in EngineFlags.model_fields}
    options = {k: v for k, v in given.items() if k in ENGINE_FLAGS and k not in own}
    file = own.get("engine_config")
    in_file = {} if file is None else read_yaml(Path(file))
    of_file = {"engine": in_file.pop("engine")} if "engine" in in_file else {}
    name = read_checked(EngineFlags, {**of_file, **own}, str(file or "engine"), flags=own).engine
    for option in (option for option in options if option not in ENGINES[name].model_fields):
        takers = [other for other, cls in ENGINES.items() if option in cls.model_fields]
        raise ConfigError(f"engine {name}: {flag_of(option)} is for --engine {' or '.join(takers)}")
    if "sbatch" in options:
        options["sbatch"] = dict(options["sbatch"])
    where = f"engine {name}" if file is None else f"{file}: engine {name}"
    return read_checked(ENGINES[name], {**in_file, **options}, where, flags=options)
