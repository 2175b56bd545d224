"""Fixtures shared by all tests: the real data beside the checkout, and caches of a test's own."""

import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import create_autospec

import pytest
import torch
from hypothesis import settings
from support.hub import Hub
from support.tabular_files import write_archive

from pythae_fif.errors import FIFError
from pythae_fif.runs.store import Store

settings.register_profile("suite", max_examples=25, deadline=None)
settings.load_profile("suite")

if "PYTEST_XDIST_WORKER" in os.environ:  # the cores are shared by the workers
    torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    """Of workers, which share the cores, each has one thread of OpenMP and OpenBLAS, too."""
    if config.getoption("numprocesses", None):
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.setdefault(name, "1")


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
def errors_are_one_line(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every error of ours that is raised in a test, whatever that is about."""
    told: list[str] = []

    def note(error: FIFError, *lines: object) -> None:
        super(FIFError, error).__init__(*lines)
        told.extend(map(str, lines))

    monkeypatch.setattr(FIFError, "__init__", note)
    yield
    assert not [line for line in told if "\n" in line]


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test draws the same numbers whichever tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the published tables' form, with random rows; nobody writes into it."""
    folder = tmp_path_factory.mktemp("archive")
    write_archive(folder)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch computes in one thread: for tests whose numbers must be the same bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def float64() -> Iterator[None]:
    """Torch's numbers are of double precision where nothing says another."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """In place of the Hugging Face hub; its client's functions take what they always take."""
    import huggingface_hub

    hub = Hub(tmp_path / "hub")
    for owner, name in (
        (huggingface_hub.HfApi, "create_commit"),
        (huggingface_hub, "snapshot_download"),
        (huggingface_hub, "hf_hub_download"),
    ):
        replacement = create_autospec(getattr(owner, name), side_effect=getattr(hub, name))
        monkeypatch.setattr(owner, name, replacement)
    return hub
