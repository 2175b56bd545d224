"""No test of data reads a user's folders or the network."""

from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import gdown
import pytest
import torchvision
from support.web import Web, serving


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: None) -> Path:
    """A cache of each test's own, and no data root from the environment."""
    monkeypatch.setenv("PYTHAE_FIF_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PYTHAE_FIF_DATA", raising=False)
    return tmp_path / "cache" / "images"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A server in place of the network."""
    with serving(monkeypatch) as served:
        yield served


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every download fails as it does without a network."""

    def fail(*args: object, **kwargs: object) -> None:
        raise URLError("no route\nto host")

    for name in ("MNIST", "CIFAR10"):
        monkeypatch.setattr(getattr(torchvision.datasets, name), "download", fail)
    monkeypatch.setattr(gdown, "download", fail)
