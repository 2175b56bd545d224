"""No test of data reads a user's folders or the network."""

from pathlib import Path
from urllib.error import URLError

import gdown
import pytest
import torchvision


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: None) -> Path:
    """A cache of each test's own, and no data root from the environment."""
    monkeypatch.setenv("PYTHAE_FIF_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PYTHAE_FIF_DATA", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing comes from Google Drive, and MNIST from an address where nobody listens."""

    def fail(*args: object, **kwargs: object) -> None:
        raise URLError("no route\nto host")

    monkeypatch.setattr(gdown, "download", fail)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
