"""What a benchmark needs before its first long step: all that is missing, a line each."""

__all__ = ["Checked", "check", "idle_gpu", "machine_line", "noted"]

import contextlib
import math
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import torch

from pythae_fif.benchmark.config import Experiment
from pythae_fif.benchmark.image_run import ImageSpec, Where
from pythae_fif.benchmark.plan import Announced, expand
from pythae_fif.cli.flags import AnyEngine, Request
from pythae_fif.data.load import absent
from pythae_fif.data.locations import CACHE_VARIABLE, cache_home
from pythae_fif.errors import ConfigError, FIFError, ProblemsError, counted
from pythae_fif.evaluation.extractors import require_extractor
from pythae_fif.runs.local import RUN_BYTES, LocalEngine, cores

SECONDS_TO_ANSWER = 10
SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
IMAGES = {"mnist": 70_000, "cifar10": 60_000, "celeba": 202_599}
FEATURE_BYTES = 4 * 2048
"""Of an image, by the widest extractor."""


@dataclass
class Checked:
    """What was found before any work.

    Attributes:
        plan: The runs, whose ids do not count; empty if it takes the data to know them.
        data: Lines on what keeps data or results from being opened.
        runs: Lines on what keeps runs from being executed: no matter if none is to be done.
    """

    plan: list[ImageSpec] = field(default_factory=list)
    data: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)


@contextlib.contextmanager
def noted(problems: list[str]) -> Iterator[None]:
    """An error of the block becomes one more line, or several, unless they are there already."""
    try:
        yield
    except FIFError as error:
        lines = error.problems if isinstance(error, ProblemsError) else [str(error)]
        problems += [line for line in lines if line not in problems]


def check(request: Request, where: Where) -> Checked:
    """Looks for all that may be missing."""
    found, experiment = Checked(), request.experiment
    results = Path(request.flags.results).expanduser()
    with noted(found.data):
        request.engine.check(results)
    if not (request.flags.dry_run or _may_be_made(results)):
        found.data.append(f"{results} cannot be written: choose another folder with --results")
    with noted(found.data):
        shape = _check_data(experiment, where, found)
        if shape is not None and not any(e.conditional for e in experiment.entries.values()):
            found.plan = expand(experiment, Announced(shape), where)
    with noted(found.runs):
        _check_extractor(experiment.extractor, where)
    if not _may_be_made(cache_home()):
        found.runs.append(f"{cache_home()} cannot be written: choose another by {CACHE_VARIABLE}")
    return found


def _check_data(experiment: Experiment, where: Where, found: Checked) -> tuple[int, ...] | None:
    """Looks for the data and room for them; their shape, where it is known before they are read."""
    name, side = experiment.dataset, experiment.image_size or 64
    shape = {**SHAPES, "celeba": (3, side, side), "folder": (3, side, side)}.get(name)
    with noted(found.data):
        lacking = absent(name, where)
        if lacking is not None:
            if silent := unreachable(lacking.url):
                found.data.append(f"{lacking}; {silent}")
            needed = IMAGES.get(name, 0) * (math.prod(shape or ()) + FEATURE_BYTES)
            cache = _nearest(cache_home())
            if needed > (free := shutil.disk_usage(cache).free):
                found.runs.append(
                    f"the disk of {cache} has {_size(free)} free, and {name}'s images and features "
                    f"need {_size(needed)}: choose another by {CACHE_VARIABLE}"
                )
    return shape


def _check_extractor(name: str, where: Where) -> None:
    """Raises a ConfigError if packages or weights of an extractor are missing."""
    weights = where.extractor_weights
    address = require_extractor(name, weights=weights, offline=where.offline)
    if address and (silent := unreachable(address)):
        try:
            require_extractor(name, weights=weights, offline=True)
        except ConfigError as error:  # which says where to put them
            raise ConfigError(f"{error}; {silent}") from error


def unreachable(url: str) -> str | None:
    """Why the host of an address does not answer, or None if it does, whatever it says."""
    host = urlsplit(url).netloc
    asked = urllib.request.Request(f"https://{host}/", method="HEAD")
    try:
        urllib.request.urlopen(asked, timeout=SECONDS_TO_ANSWER).close()
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError) as error:
        return f"{host} cannot be reached ({getattr(error, 'reason', error)})"
    return None


def _may_be_made(folder: Path) -> bool:
    """Whether a folder can be written, or made and written."""
    there = _nearest(folder)
    return there.is_dir() and os.access(there, os.W_OK)


def _nearest(folder: Path) -> Path:
    """The folder, or the first above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _size(count: int) -> str:
    return f"{count / 1e9:.0f} GB" if count >= 1e10 else f"{count / 1e9:.2g} GB"


def machine_line(engine: AnyEngine) -> str:
    """Device, how many runs at once and why, in one line."""
    if not isinstance(engine, LocalEngine):
        return f"device: chosen by the nodes of {type(engine).__name__.removesuffix('Engine')}"
    slots = engine.slots()
    at_once = f"{counted(len(slots), 'run')} at once, {counted(slots[0].threads, 'thread')} each"
    if slots[0].device == "cpu":
        return f"device: CPU, {cores()} cores; {at_once}"
    why = f"at {_size(RUN_BYTES)} a run, {cores()} cores and at most 4 a GPU"
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
