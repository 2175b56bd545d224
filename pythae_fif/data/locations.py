"""Where data are looked for and kept."""

__all__ = ["CACHE_VARIABLE", "DATA_VARIABLE", "cache_home", "data_home"]

import os
from pathlib import Path

from pythae_fif.errors import DataError

DATA_VARIABLE = "PYTHAE_FIF_DATA"
CACHE_VARIABLE = "PYTHAE_FIF_CACHE"


def cache_home() -> Path:
    """The cache folder: ``PYTHAE_FIF_CACHE``, else ``~/.cache/pythae-fif``; it need not exist."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/pythae-fif").expanduser()


def data_home(data_root: str | Path | None = None) -> Path:
    """The folder below which data sets are looked for and downloaded to.

    Args:
        data_root: The folder, or None for ``PYTHAE_FIF_DATA``, else ``~/.cache/pythae-fif/data``.

    Raises:
        DataError: A folder that was asked for does not exist; the default one may be missing.
    """
    asked = data_root or os.environ.get(DATA_VARIABLE)
    root = Path(asked or "~/.cache/pythae-fif/data").expanduser()
    if asked and not root.is_dir():
        raise DataError(
            f"the data folder {root} (--data-root or {DATA_VARIABLE}) does not exist: create it"
        )
    return root
