"""What a benchmark needs before its first long step: all that is missing, a line each."""

__all__ = [
    "Space",
    "cuda_warning",
    "disk_problems",
    "machine_line",
    "may_be_made",
    "noted",
    "run_problems",
]

import contextlib
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import torch

from pythae_fif.benchmark.plan import RunSpec, build_model
from pythae_fif.errors import FIFError, counted
from pythae_fif.evaluation.extractors import require_extractor
from pythae_fif.runs.engines.common import Engine, cores
from pythae_fif.runs.engines.local import LocalEngine
from pythae_fif.runs.kind import Environment

SECONDS_TO_ANSWER = 10
GET_TORCH = "https://pytorch.org/get-started/locally"
COPIES_IN_A_CHECKPOINT = 4
"""Of a model's weights: they, Adam's two moments, the best so far."""


@contextlib.contextmanager
def noted(problems: list[str]) -> Iterator[None]:
    """An error of the block becomes one more problem, unless it is one already."""
    try:
        yield
    except FIFError as error:
        if str(error) not in problems:
            problems.append(str(error))


# ---------------------------------------------------------------- the machine


def machine_line(engine: Engine) -> str:
    """Device, runs at once and memory, in one line."""
    if not isinstance(engine, LocalEngine):
        return f"device: chosen by the nodes of {type(engine).__name__.removesuffix('Engine')}"
    slots = engine.slots()
    at_once = f"{counted(len(slots), 'run')} at once, {counted(slots[0].threads, 'thread')} each"
    if slots[0].device == "cpu":
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return f"device: CPU, {cores()} cores and {_size(memory)} of memory; {at_once}"
    visible = range(torch.cuda.device_count()) if engine.gpus is None else engine.gpus
    found = [torch.cuda.get_device_properties(gpu) for gpu in visible]
    kinds = Counter((of.name, _size(of.total_memory)) for of in found)
    devices = ", ".join(f"{n} x {name} with {memory}" for (name, memory), n in kinds.items())
    return f"device: {devices}; {at_once}"


def cuda_warning() -> str | None:
    """A line for a machine whose GPU torch cannot use, with what to install; else None."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")
    if hidden or torch.cuda.is_available() or shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        return f"runs go to the CPU: nvidia-smi does not answer ({error})"
    said = (done.stdout or done.stderr).strip().splitlines() or ["nothing"]
    if done.returncode != 0:
        return f"runs go to the CPU: nvidia-smi says {said[0]!r}; is the driver loaded?"
    if torch.version.cuda is None:
        why = "is built without CUDA: install one with it"
    else:
        why = f"cannot use it ({_failure('torch.cuda.init()') or 'now it could'})"
    return (
        f"runs go to the CPU although {said[0]} is here, for torch {torch.__version__} {why} "
        f"({GET_TORCH})"
    )


def cuda_problem(gpus: Sequence[int] | None = None) -> str | None:
    """A line if a GPU that torch sees cannot compute, else None.

    Args:
        gpus: Those that shall compute; all if None.
    """
    if gpus is None:
        gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    devices = [f"cuda:{gpu}" for gpu in gpus]
    code = f"for d in {devices}: assert (torch.ones(2, device=d) + 1).sum().item() == 4, d"
    if not devices or not (line := _failure(code)):
        return None
    return (
        f"torch {torch.__version__} sees a GPU that cannot compute ({line}): if it is busy, choose "
        f"others with --gpus; if torch lacks its kind, install one that has it ({GET_TORCH}); or "
        "hide it with CUDA_VISIBLE_DEVICES"
    )


def _failure(code: str) -> str | None:
    """Of code that uses GPUs, in a process of its own, its error as a line; None if it has none."""
    # The first line of the error: CUDA's own go on with advice on how to look for it.
    code = (
        f"import torch\ntry:\n  {code}\nexcept Exception as error:\n"
        "  raise SystemExit(f'{type(error).__name__}: {error}'.splitlines()[0])"
    )
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired as error:
        return f"no answer after {error.timeout} s"
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


# ---------------------------------------------------------------- what is missing


@dataclass(frozen=True)
class Space:
    """Room on a disk that is needed: where, how much, and for what."""

    folder: Path
    size: int
    what: str


def run_problems(
    plan: Sequence[RunSpec],
    input_dim: tuple[int, ...] | None,
    extractor: str,
    environment: Environment,
    engine: Engine | None,
    results: Path,
    room: Sequence[Space] = (),
) -> list[str]:
    """What keeps runs from being executed.

    Args:
        plan: The runs, if they are known.
        input_dim: Shape of an image, if it is known.
        extractor: Its name.
        environment: Of the runs.
        engine: Where they are executed.
        results: Their folder, on this machine.
        room: What else is needed on disks.
    """
    problems = [line for line in (_extractor_problem(extractor, environment),) if line]
    if isinstance(engine, LocalEngine) and (line := cuda_problem(engine.gpus)):
        problems.append(line)
    room = list(room)
    if plan and input_dim is not None:
        weights: dict[str, int] = {}
        saved: dict[str, int] = {}
        for spec in {spec.model: spec for spec in plan}.values():
            with torch.device("meta"):
                model = build_model(spec, input_dim)
            weights[spec.model] = saved[spec.model] = _weight_bytes(model)
            if not model.model_config.uses_default_encoder:  # Pythae pickles both networks besides
                saved[spec.model] += _weight_bytes(model.encoder) + _weight_bytes(model.decoder)
        slots = len(engine.slots()) if isinstance(engine, LocalEngine) else 1
        size = sum(saved[spec.model] for spec in plan)
        # A checkpoint is replaced by one that is written beside it.
        size += 2 * COPIES_IN_A_CHECKPOINT * min(slots, len(plan)) * max(weights.values())
        room.append(Space(results, size, "checkpoints and models (--results)"))
    return [*problems, *disk_problems(room)]


def _weight_bytes(module: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def _extractor_problem(name: str, environment: Environment) -> str | None:
    try:
        weights, offline = environment.extractor_weights, environment.offline
        url = require_extractor(name, weights=weights, offline=offline)
        if url and (silent := unreachable(url)):
            from pythae_fif.evaluation.inception import absent

            return str(absent(silent))
    except FIFError as error:
        return str(error)
    return None


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


def disk_problems(room: Sequence[Space]) -> list[str]:
    """A line for each disk that has not the room for all that goes there."""
    on_disk: dict[int, list[Space]] = {}
    for space in (space for space in room if space.size):
        there = _nearest(space.folder)
        on_disk.setdefault(os.stat(there).st_dev, []).append(Space(there, space.size, space.what))
    lines = []
    for spaces in on_disk.values():
        free, needed = shutil.disk_usage(spaces[0].folder).free, sum(s.size for s in spaces)
        if needed > free:
            for_what = ", ".join(f"{_size(s.size)} for {s.what}" for s in spaces)
            lines.append(
                f"the disk of {spaces[0].folder} has {_size(free)} free, needs {_size(needed)}: "
                f"{for_what}"
            )
    return lines


def may_be_made(folder: Path) -> bool:
    """Whether a folder can be written, or made and written."""
    there = _nearest(folder)
    return there.is_dir() and os.access(there, os.W_OK)


def _nearest(folder: Path) -> Path:
    """The folder, or the first above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _size(count: int) -> str:
    return f"{count / 1e9:.0f} GB" if count >= 1e10 else f"{count / 1e9:.2g} GB"
