"""Imports that wait until a name is used.

The command line's `--help` must not wait for torch, which most modules import.
"""

import ast
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from pythae_fif.errors import ConfigError, one_line


def lazily(package: str) -> Callable[[str], Any]:
    """The `__getattr__` of a package (PEP 562) whose imports stand below `if TYPE_CHECKING:`.

    A module must not have the name of what is imported from it: it would hide that.
    """
    module = sys.modules[package]
    homes = {
        alias.name: str(line.module)
        for block in ast.parse(Path(str(module.__file__)).read_text("utf-8")).body
        if isinstance(block, ast.If)
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(homes[name]), name)
        setattr(module, name, value)
        return value

    return get


def import_named(path: str) -> Any:
    """The object at a dotted path, of a package or of a module in the working directory.

    Raises:
        ConfigError: There is none.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except Exception as error:  # the user's own module raises anything
        raise ConfigError(f"cannot import {path!r} ({one_line(error)})") from error
