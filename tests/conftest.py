"""Fixtures of all tests: real data next to the checkout, a separate cache, and fixed seeds."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import create_autospec

import pytest
import torch
from hypothesis import settings
from support.engines import InProcess
from support.experiments import write_tiny
from support.hub import Hub
from support.tabular_files import write_archive

from pythae_fif import cli
from pythae_fif.errors import FIFError
from pythae_fif.models import marginal_likelihood
from pythae_fif.models.marginal_likelihood import MarginalLikelihood
from pythae_fif.runs.local import LocalEngine, Slot
from pythae_fif.runs.store import Store

settings.register_profile("suite", max_examples=25, deadline=None)
settings.load_profile("suite")

if "PYTEST_XDIST_WORKER" in os.environ:  # the cores are shared by the workers
    torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    """Gives each worker one thread of OpenMP and OpenBLAS, because the workers share the cores."""
    if config.getoption("numprocesses", None):
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.setdefault(name, "1")


SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference gradients. Without it, the test is skipped."""
    if not SHARED.is_dir():
        pytest.skip("the folder `shared` is not next to the checkout")
    return SHARED


@pytest.fixture(scope="session")
def shared_data(shared: Path) -> Path:
    return Path(os.environ.get("PYTHAE_FIF_DATA", shared / "data"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests use a cache of the session, and neither read nor fill the user's cache."""
    monkeypatch.setenv("PYTHAE_FIF_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def errors_are_one_line(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Checks that every message of a FIFError that is raised in a test is one line."""
    messages: list[str] = []

    def record_messages(error: FIFError, *lines: object) -> None:
        super(FIFError, error).__init__(*lines)
        messages.extend(map(str, lines))

    monkeypatch.setattr(FIFError, "__init__", record_messages)
    yield
    assert not [message for message in messages if "\n" in message]


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seeds torch, so that a test draws the same numbers whichever tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A read-only folder in the format of the published tables, with random rows."""
    folder = tmp_path_factory.mktemp("archive")
    write_archive(folder)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch computes in one thread, for tests that need bitwise equal numbers."""
    thread_count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(thread_count)


@pytest.fixture
def float64() -> Iterator[None]:
    """Torch's default dtype is float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Replaces the Hugging Face hub by a folder; its client's functions keep their signatures."""
    import huggingface_hub

    hub = Hub(tmp_path / "hub")
    for owner, name in (
        (huggingface_hub.HfApi, "create_repo"),
        (huggingface_hub.HfApi, "upload_folder"),
        (huggingface_hub, "snapshot_download"),
        (huggingface_hub, "hf_hub_download"),
    ):
        replacement = create_autospec(getattr(owner, name), side_effect=getattr(hub, name))
        monkeypatch.setattr(owner, name, replacement)
    return hub


@pytest.fixture
def short_likelihoods(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs estimate marginal likelihoods by one step and two draws, which was most of their time.

    `models/test_likelihood.py` tests the estimate.
    """
    draw_few = functools.partialmethod(MarginalLikelihood.log_prob, samples=2)
    monkeypatch.setattr(MarginalLikelihood, "log_prob", draw_few)
    monkeypatch.setattr(marginal_likelihood, "SEARCH_STEPS", 1)
    monkeypatch.setattr(marginal_likelihood, "NEAR_FACTOR", 0)  # no second start is near


@pytest.fixture
def tiny(tmp_path):
    """Writes settings of a fast benchmark: tiny(key=value, ...) -> the path of their file."""
    return lambda *profile, **values: str(write_tiny(tmp_path, *profile, **values))


@pytest.fixture
def run(tmp_path, capsys, monkeypatch, one_thread, short_likelihoods):
    """Runs the program: run(*words) -> exit code, standard output, standard error.

    The runs are executed in this process. `run.executed` counts them, `run.engine` is the engine
    that the program made.
    """
    engine = InProcess(executed=[])

    def execute(local_engine, *arguments):
        call.engine = local_engine
        return engine.execute(*arguments)

    def call(*words):
        engine.executed.clear()
        code = cli.main([*map(str, words), "--results", str(call.results)])
        call.executed = len(engine.executed)
        return (code, *capsys.readouterr())

    monkeypatch.setattr(LocalEngine, "execute", execute)
    monkeypatch.setattr(LocalEngine, "slots", lambda *_: [Slot("cpu", 1)])
    monkeypatch.setenv("COLUMNS", "100")
    call.results = tmp_path / "results"
    return call
