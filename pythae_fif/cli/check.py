"""What a benchmark needs before its first long step: all that is missing, a line each."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from pythae_fif.benchmark.config import Experiment
from pythae_fif.data.names import CACHE_VARIABLE, cache_home
from pythae_fif.data.published import absent
from pythae_fif.errors import FIFError, ProblemsError, counted
from pythae_fif.evaluation.extractors import require_extractor
from pythae_fif.runs.launch import Engine
from pythae_fif.runs.local import RUN_BYTES, LocalEngine, cores


@contextlib.contextmanager
def noted(problems: list[str]) -> Iterator[None]:
    """An error of the block becomes one more line, or several."""
    try:
        yield
    except FIFError as error:
        problems += error.problems if isinstance(error, ProblemsError) else [str(error)]


def missing_to_start(
    experiment: Experiment, engine: Engine, results: Path, dry_run: bool
) -> list[str]:
    """What keeps data or results from being opened; a dry run neither downloads nor writes."""
    problems: list[str] = []
    with noted(problems):
        engine.check(results)
    if not (dry_run or _may_be_made(results.expanduser())):
        problems.append(f"{results} cannot be written: choose another folder with --results")
    with noted(problems):
        lacking = absent(experiment.dataset, experiment)
        if lacking is not None and (dry_run or experiment.offline):
            problems.append(str(lacking))
    return problems


def missing_to_run(experiment: Experiment) -> list[str]:
    """What keeps runs from being executed: no matter if none is to be done."""
    problems: list[str] = []
    with noted(problems):
        weights, offline = experiment.extractor_weights, experiment.offline
        require_extractor(experiment.extractor, weights=weights, offline=offline)
    if not _may_be_made(cache_home()):
        problems.append(f"{cache_home()} cannot be written: choose another by {CACHE_VARIABLE}")
    return problems


def _may_be_made(folder: Path) -> bool:
    """Whether a folder can be written, or made and written."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK)


def machine_line(engine: Engine) -> str:
    """Device, how many runs at once and why, in one line."""
    if not isinstance(engine, LocalEngine):
        return f"device: chosen by the nodes of {type(engine).__name__.removesuffix('Engine')}"
    slots = engine.slots()
    at_once = f"{counted(len(slots), 'run')} at once, {counted(slots[0].threads, 'thread')} each"
    if slots[0].device == "cpu":
        return f"device: CPU, {cores()} cores; {at_once}"
    why = f"at {RUN_BYTES / 1e9:.2g} GB a run, {cores()} cores and at most 4 a GPU"
    why = why if engine.runs_per_gpu is None else "as asked"
    cards = counted(len({slot.device for slot in slots}), "GPU")
    name = torch.cuda.get_device_name()
    return f"device: {cards}, {name}; {at_once} ({why}; --runs-per-gpu)"


def idle_gpu() -> str | None:
    """A line for a machine with a GPU that torch cannot use; else None."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")
    if hidden or torch.cuda.is_available() or shutil.which("nvidia-smi") is None:
        return None
    return (
        f"runs go to the CPU although nvidia-smi is here: torch {torch.__version__} sees no GPU "
        "(https://pytorch.org/get-started/locally)"
    )
