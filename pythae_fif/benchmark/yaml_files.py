"""YAML files: where those of the package are, and how they are read."""

__all__ = ["config_file", "configs_dir", "import_class", "names_in", "read_yaml"]

import importlib
import re
from pathlib import Path
from typing import Any

import yaml

import pythae_fif
from pythae_fif.errors import ConfigError


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
