"""Fixtures shared by all tests: the real data beside the checkout, and caches of a test's own."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from support.hub import Hub
from support.tabular_files import write_archive

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
def one_thread() -> Iterator[None]:
    """Torch computes in one thread: for tests whose numbers must be the same bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of this machine; `huggingface_hub` reads its address when it is imported."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
            del sys.modules[name]

    with Hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hub")))
        monkeypatch.setenv("HF_TOKEN", "hf_token")
        monkeypatch.setenv("NO_PROXY", "*")
        forget()
        yield server
        server.shutdown()
    forget()
