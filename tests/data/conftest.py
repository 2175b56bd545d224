"""Fixtures of the data tests, which neither read a user's folders nor use the network."""

from pathlib import Path
from urllib.error import URLError

import gdown
import pytest
import torchvision


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: None) -> Path:
    """Gives every test an empty cache, and no data root from the environment."""
    monkeypatch.setenv("PYTHAE_FIF_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PYTHAE_FIF_DATA", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Returns an empty data root."""
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes downloads from Google Drive fail, and MNIST's from an address without a server."""

    def fail(*args: object, **kwargs: object) -> None:
        raise URLError("no route\nto host")

    monkeypatch.setattr(gdown, "download", fail)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
