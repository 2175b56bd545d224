"""YAML files: where the package's own are, and their checked reading into dataclasses."""

__all__ = ["build_checked", "config_file", "configs_dir", "import_class", "names_in", "read_yaml"]

import dataclasses
import importlib
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

import pythae_fif
from pythae_fif.errors import ConfigError, did_you_mean


class _Loader(yaml.SafeLoader):
    """YAML 1.1, but 1e-3 is a number, as in YAML 1.2, and no text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def configs_dir() -> Path:
    """The folder of YAML files: the checkout's, or the copy inside an installed wheel."""
    package = Path(pythae_fif.__file__).parent
    checkout = package.parent / "benchmark_configs"
    return checkout if checkout.is_dir() else package / "configs"


def config_file(name: str) -> Path:
    """Where the file `benchmark_configs/<name>.yaml` is, if there is one."""
    return configs_dir() / f"{name}.yaml"


def names_in(folder: str = "") -> list[str]:
    """Names of the YAML files below `benchmark_configs/<folder>`."""
    return sorted(path.stem for path in (configs_dir() / folder).glob("*.yaml"))


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file whose top level is a mapping.

    Raises:
        ConfigError: It is missing, not YAML, or no mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = " ".join(str(error).split())
        raise ConfigError(f"{path} is not YAML: {line}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a mapping of keys to values is needed")
    return content


def build_checked(cls: Any, values: Mapping[str, Any], where: str) -> Any:
    """An instance of a dataclass from a mapping, with every key and type checked."""
    hints = get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise ConfigError(f"{where}: unknown key {key!r}: {did_you_mean(str(key), hints)}")
    for entry in dataclasses.fields(cls):
        required = (
            entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        )
        if required and entry.name not in values:
            raise ConfigError(f"{where}: key {entry.name!r} is missing")
    return cls(**{key: _convert(hints[key], v, f"{where}: {key}") for key, v in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    """A YAML value as the annotated type."""
    if get_origin(hint) in (Union, types.UnionType):
        options = [option for option in get_args(hint) if option is not type(None)]
        return None if value is None else _convert(options[0], value, where)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: a mapping is needed, not {value!r}")
        return build_checked(hint, value, where)
    if get_origin(hint) is list or hint is list:
        if not isinstance(value, list):
            raise ConfigError(f"{where}: a list is needed, not {value!r}")
        item = (get_args(hint) or (Any,))[0]
        return [_convert(item, v, where) for v in value]
    if get_origin(hint) is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: a mapping is needed, not {value!r}")
        item = (get_args(hint) or (Any, Any))[1]
        return {str(k): _convert(item, v, f"{where}: {k}") for k, v in value.items()}
    if hint is Any:
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and number:
        return float(value)
    if hint is int and number and float(value).is_integer():
        return int(value)
    if hint in (str, bool) and isinstance(value, hint):
        return value
    raise ConfigError(f"{where}: {hint.__name__} is needed, not {value!r}")


def import_class(path: str, where: str) -> Any:
    """The object at a dotted path.

    Raises:
        ConfigError: There is none; ``where`` begins the message.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{where}: cannot import {path!r} ({error})") from error
