"""YAML files: where those of the package are, and how they are read."""

__all__ = ["config_file", "configs_dir", "import_class", "names_in", "own_model", "read_yaml"]

import re
from pathlib import Path
from typing import Any

import yaml

import pythae_fif
from pythae_fif.data.locations import own_configs, set_own_configs
from pythae_fif.errors import ConfigError, one_line
from pythae_fif.lazy import import_named


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
    """Where the file `benchmark_configs/<name>.yaml` is, if there is one, or the user's own."""
    shipped = configs_dir() / f"{name}.yaml"
    for path in () if shipped.is_file() else own_configs():
        if (path / f"{name}.yaml").is_file():
            return path / f"{name}.yaml"
        if path.suffix == ".yaml" and f"models/{path.stem}" == name:
            return path
    return shipped


def names_in(folder: str = "") -> list[str]:
    """Names of the YAML files below `benchmark_configs/<folder>`, and of the user's own."""
    folders = (configs_dir(), *own_configs())
    found = {path.stem for of in folders for path in (of / folder).glob("*.yaml")}
    if folder == "models":
        found |= {path.stem for path in own_configs() if path.suffix == ".yaml"}
    return sorted(found)


def own_model(name: Any) -> Any:
    """The name of a model whose YAML file is given; any other value as it is.

    Raises:
        ConfigError: There is no such file, or its name is that of another model.
    """
    if not isinstance(name, str) or not name.endswith(".yaml"):
        return name
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise ConfigError(f"--models {name}: no such file")
    if path.stem not in names_in("models"):
        set_own_configs([*own_configs(), path])  # for the processes of runs, too
    elif config_file(f"models/{path.stem}").resolve() != path:
        raise ConfigError(f"--models {name}: {path.stem!r} is a model already: rename the file")
    return path.stem


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file whose top level is a mapping.

    Raises:
        ConfigError: It is missing, not YAML, or no mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # it may be no text, and a date no date
        raise ConfigError(f"{path} is not YAML: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a mapping of keys to values is needed")
    return content


def import_class(path: str, where: str) -> Any:
    """The object at a dotted path, of a package or of a module in the working directory.

    Raises:
        ConfigError: There is none; ``where`` begins the message.
    """
    module, _, name = path.rpartition(".")
    try:
        return import_named(module, name)
    except Exception as error:  # the user's own module raises anything
        raise ConfigError(f"{where}: cannot import {path!r} ({error})") from error
