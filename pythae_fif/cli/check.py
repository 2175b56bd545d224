"""What a benchmark needs before its first long step: all that is missing, a line each."""

__all__ = ["Checked", "check", "gpu_problem", "idle_gpu", "machine_line", "noted"]

import contextlib
import math
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import torch

from pythae_fif.benchmark.config import Experiment
from pythae_fif.benchmark.image_run import ImageSpec, Where
from pythae_fif.benchmark.models import import_named
from pythae_fif.benchmark.plan import Announced, expand
from pythae_fif.cli.flags import AnyEngine, Request
from pythae_fif.data.load import absent
from pythae_fif.data.locations import CACHE_VARIABLE, cache_home
from pythae_fif.errors import ConfigError, FIFError, ProblemsError, counted
from pythae_fif.evaluation.extractors import require_extractor
from pythae_fif.runs.local import RUN_BYTES, LocalEngine, cores

SECONDS_TO_ANSWER = 10
GET_TORCH = "https://pytorch.org/get-started/locally"
CHECKPOINT = 4
"""Copies of a model's weights in a checkpoint: they, Adam's two moments, the best so far."""
FEATURES = {"inception": 2048, "tf-inception": 2048, "efficientnet-lite0": 1280}
"""Width of large extractors."""
SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
IMAGES = {"mnist": 70_000, "cifar10": 60_000, "celeba": 202_599}


class Space(NamedTuple):
    """Room on a disk that is needed: where, how much, and for what."""

    folder: Path
    size: int
    what: str


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
    """Looks for all that may be missing.

    Args:
        request: What is asked.
        where: The data of its runs.
    """
    found, experiment = Checked(), request.experiment
    results = Path(request.flags.results).expanduser()
    with noted(found.data):
        request.engine.check(results)
    if not (request.flags.dry_run or _may_be_made(results)):
        found.data.append(f"{results} cannot be written: choose another folder with --results")
    room: list[Space] = []
    with noted(found.data):
        shape = _check_data(experiment, where, found.data, room)
        if shape is not None and not any(e.conditional for e in experiment.entries.values()):
            found.plan = expand(experiment, Announced(shape), where)
            room += _room_of_runs(found.plan, shape, request.engine, results)
        else:
            for entry in experiment.entries.values():
                for name in (entry.model, entry.config, entry.trainer):
                    import_named(name)
    with noted(found.runs):
        _check_extractor(experiment.extractor, where)
    if not found.data and isinstance(request.engine, LocalEngine):
        found.runs += filter(None, [gpu_problem(request.engine)])
    if not _may_be_made(cache_home()):
        found.runs.append(f"{cache_home()} cannot be written: choose another by {CACHE_VARIABLE}")
    found.runs += _full_disks(room)
    return found


def _check_data(
    experiment: Experiment, where: Where, problems: list[str], room: list[Space]
) -> tuple[int, ...] | None:
    """Looks for the data; their shape, where it is known without reading them."""
    name, side = experiment.dataset, experiment.image_size or 64
    crop = experiment.settings_of(experiment.models[0]).crop
    shape = {**SHAPES, "celeba": (3, side, side), "folder": (3, side, side)}.get(name)
    with noted(problems):
        lacking = absent(name, where, image_size=experiment.image_size, crop=crop)
        if lacking is not None:
            if silent := unreachable(lacking.url):
                problems.append(f"{lacking}; {silent}")
            size = IMAGES.get(name, 0) * math.prod(shape or ())
            room.append(Space(cache_home(), size, f"decoded images ({CACHE_VARIABLE})"))
    return shape


def _check_extractor(name: str, where: Where) -> None:
    """Raises a ConfigError if packages or weights of an extractor are missing."""
    name, weights = where.own_extractor or name, where.extractor_weights
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


# ---------------------------------------------------------------- disks


def _room_of_runs(
    plan: Sequence[ImageSpec], shape: tuple[int, ...], engine: AnyEngine, results: Path
) -> list[Space]:
    """What models, the checkpoints of those under way, and features of the data take."""
    size = {spec.model: _weight_bytes(spec, shape) for spec in plan}
    at_once = min(len(plan), len(engine.slots()) if isinstance(engine, LocalEngine) else len(plan))
    # A checkpoint is replaced by one that is written beside it.
    models = sum(size[spec.model] for spec in plan)
    models += 2 * CHECKPOINT * at_once * max(size.values())
    first = plan[0]
    cut = (first.settings.train_size, first.settings.val_size, first.settings.test_size)
    images = sum(part for part in cut if part) if all(cut) else IMAGES.get(first.dataset, 0)
    features = 4 * images * FEATURES.get(first.extractor, 0)
    return [
        Space(results, models, "checkpoints and models (--results)"),
        Space(cache_home(), features, f"features of the data ({CACHE_VARIABLE})"),
    ]


def _weight_bytes(spec: ImageSpec, shape: tuple[int, ...]) -> int:
    try:
        with torch.device("meta"):
            model = spec.build(shape)
    except RuntimeError:  # some networks read numbers of tensors
        model = spec.build(shape)
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _full_disks(room: Sequence[Space]) -> list[str]:
    """A line for each disk that has not the room for all that goes there."""
    on_disk: dict[int, list[Space]] = defaultdict(list)
    for space in (space for space in room if space.size):
        there = _nearest(space.folder)
        on_disk[os.stat(there).st_dev].append(space._replace(folder=there))
    lines = []
    for spaces in on_disk.values():
        free, needed = shutil.disk_usage(spaces[0].folder).free, sum(s.size for s in spaces)
        if needed > free:
            for_what = ", ".join(f"{_size(s.size)} for {s.what}" for s in spaces)
            where = f"the disk of {spaces[0].folder}"
            lines.append(f"{where} has {_size(free)} free, needs {_size(needed)}: {for_what}")
    return lines


def _may_be_made(folder: Path) -> bool:
    """Whether a folder can be written, or made and written."""
    there = _nearest(folder)
    return there.is_dir() and os.access(there, os.W_OK)


def _nearest(folder: Path) -> Path:
    """The folder, or the first above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _size(count: int) -> str:
    return f"{count / 1e9:.0f} GB" if count >= 1e10 else f"{count / 1e9:.2g} GB"


# ---------------------------------------------------------------- the machine


def machine_line(engine: AnyEngine) -> str:
    """Device, memory, how many runs at once and why, in one line."""
    if not isinstance(engine, LocalEngine):
        return f"device: chosen by the nodes of {type(engine).__name__.removesuffix('Engine')}"
    slots = engine.slots()
    at_once = f"{counted(len(slots), 'run')} at once, {counted(slots[0].threads, 'thread')} each"
    if slots[0].device == "cpu":
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return f"device: CPU, {cores()} cores and {_size(memory)} of memory; {at_once}"
    visible = range(torch.cuda.device_count()) if engine.gpus is None else engine.gpus
    cards = [torch.cuda.get_device_properties(gpu) for gpu in visible]
    kinds = Counter((card.name, _size(card.total_memory)) for card in cards)
    devices = ", ".join(f"{n} x {name} with {memory}" for (name, memory), n in kinds.items())
    why = f"at {_size(RUN_BYTES)} a run, {cores()} cores and at most 4"
    why = why if engine.runs_per_gpu is None else "as asked"
    per_gpu = f"{len(slots) // len(cards)} a GPU ({why}; --runs-per-gpu)"
    return f"device: {devices}; {at_once}, {per_gpu}"


def idle_gpu() -> str | None:
    """A line for a machine with a GPU that torch cannot use; else None."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")
    if hidden or torch.cuda.is_available() or shutil.which("nvidia-smi") is None:
        return None
    built = "sees none" if torch.version.cuda else "is built without CUDA"
    return (
        "runs go to the CPU although nvidia-smi is here, which lists GPUs: torch "
        f"{torch.__version__} {built} ({GET_TORCH})"
    )


def gpu_problem(engine: LocalEngine) -> str | None:
    """A line if a GPU that torch sees cannot compute, else None."""
    gpus = engine.gpus
    if gpus is None:
        gpus = list(range(torch.cuda.device_count() if torch.cuda.is_available() else 0))
    if not gpus:
        return None
    # In a process of its own: what CUDA has begun it holds. Its errors end with pages of advice.
    code = (
        f"import torch\ntry:\n for g in {gpus}: (torch.ones(2, device=f'cuda:{{g}}') + 1).sum()"
        ".item()\nexcept Exception as error: raise SystemExit(str(error).splitlines()[0])"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
        if done.returncode == 0:
            return None
        line = (done.stderr.decode().splitlines() or [f"exit code {done.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        line = "no answer"
    return (
        f"torch {torch.__version__} sees a GPU that cannot compute ({line}): choose others with "
        f"--gpus, hide it with CUDA_VISIBLE_DEVICES, or install a torch that has it ({GET_TORCH})"
    )
