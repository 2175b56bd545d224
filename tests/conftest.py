"""Fixtures shared by all tests: the real data beside the checkout, and caches of a test's own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:  # the cores are shared by the workers
    torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference gradients; tests that need it are skipped without."""
    if not SHARED.is_dir():
        pytest.skip("the folder `shared` is not beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def shared_data(shared: Path) -> Path:
    return Path(os.environ.get("PYTHAE_FIF_DATA", shared / "data"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's cache; all tests of a session share one."""
    monkeypatch.setenv("PYTHAE_FIF_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test draws the same numbers whichever tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch computes in one thread: for tests whose numbers must be the same bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
