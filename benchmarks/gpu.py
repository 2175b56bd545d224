"""Measures on a GPU what this package says of one, the hours of the published benchmark first.

    python benchmarks/gpu.py [--dataset celeba] [--minutes 20] [--output F]
    python benchmarks/gpu.py --device cpu --tiny      # seconds: whether this script runs

No data are needed: images are random, since no time depends on them. What fails is a line of the
page and not its end.

* **Hours.** Steps and evaluations of the six models of the published protocol, and from them the
  hours of its 42 trainings, one after the other.
* **Several runs at once.** Steps a second of FIF by 1, 2 and 4 processes on the GPU.
* **Ways.** An autoencoder, FIF by both surrogates, K = 2 and bfloat16: milliseconds and memory.
"""

import argparse
import contextlib
import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import command, markdown, peak_memory_mb, seconds
from step import NETS, VARIANTS, stepper

from pythae_fif.benchmark.config import Experiment, load_experiment
from pythae_fif.benchmark.image_run import ImageSpec, build_trainer
from pythae_fif.benchmark.plan import expand
from pythae_fif.data import Splits
from pythae_fif.errors import format_error
from pythae_fif.files import write_bytes
from pythae_fif.runs.provenance import processor
from pythae_fif.training import TrainingResult

IMAGES = {"mnist": (50_000, 10_000), "cifar10": (40_000, 10_000), "celeba": (162_770, 19_867),
          "digits": (1_197, 300)}  # fmt: skip
"""Training and validation images of a data set."""
SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32), "celeba": (3, 64, 64), "digits": (1, 8, 8)}
Row = dict[str, str]


def tried(name: str, row: Callable[[], Row], columns: list[str]) -> Row:
    """A row of a table, or one that says why there is none."""
    try:
        return row()
    except Exception as error:  # of memory, of a driver, of a net
        return {column: "" for column in columns} | {
            columns[0]: name,
            columns[1]: format_error(error),
        }


def random_splits(dataset: str, count: int) -> Splits:
    """Random images of a data set's shape."""
    draws = np.random.default_rng(0)
    images = {s: draws.integers(0, 256, (count, *SHAPES[dataset]), dtype=np.uint8)
              for s in ("train", "val", "test")}  # fmt: skip
    return Splits(dataset, **images, labels=None, source="random")


def trained(spec: ImageSpec, splits: Splits, epochs: int) -> TrainingResult:
    """A short training of a run."""
    settings = spec.settings.model_copy(update={"epochs": epochs, "wall_clock": None})
    short = spec.model_copy(update={"settings": settings})
    with tempfile.TemporaryDirectory() as folder:
        return build_trainer(short, splits, {}, Path(folder)).train()


def hours(dataset: str, tiny: bool) -> tuple[list[Row], str]:
    """Seconds of a step and an evaluation batch of each model, and hours of all its runs."""
    flags: dict[str, Any] = {"extractor": "pixels", "models": ["ae"] if tiny else None}
    experiment: Experiment = load_experiment(dataset, flags)
    batch = experiment.active_profile.batch_size
    splits = random_splits(dataset, 4 * batch)
    plan, total, rows = expand(experiment, splits), 0.0, []
    columns = ["model", "ms a step", "ms an evaluation batch", "runs", "hours of all runs"]
    train, val = IMAGES[dataset]
    for model in experiment.models:
        runs = [spec for spec in plan if spec.model == model]

        def row(model: str = model, runs: list = runs) -> Row:
            nonlocal total
            trained(runs[0], splits, 1)
            found = trained(runs[0], splits, 10)
            step, look = found.train_seconds / 40, (found.seconds - found.train_seconds) / 40
            epoch = math.ceil(train / batch) * step + math.ceil(val / batch) * look
            of_all = len(runs) * (experiment.active_profile.epochs or 1) * epoch / 3600
            total += of_all
            values = (f"{1e3 * step:.2f}", f"{1e3 * look:.2f}", str(len(runs)), f"{of_all:.2f}")
            return dict(zip(columns, (model, *values), strict=True))

        rows.append(tried(model, row, columns))
    return rows, f"{total:.1f} hours of training in all, of profile {experiment.profile}."


def _steps(net: str, device: str, lasting: float, ready: Any, counts: Any) -> None:
    """A process that steps for some seconds once all others are ready, and says how often."""
    step = stepper(net, VARIANTS["replayed"], device)
    step()
    ready.wait()
    end, count = time.monotonic() + lasting, 0
    while time.monotonic() < end:
        seconds(step, device)
        count += 1
    counts.put(count)


def at_once(net: str, device: str, processes: int, lasting: float) -> Row:
    """Steps a second of several processes on one device."""
    context = multiprocessing.get_context("spawn")
    ready, counts = context.Barrier(processes), context.Queue()
    asked = (net, device, lasting, ready, counts)
    running = [context.Process(target=_steps, args=asked) for _ in range(processes)]
    for process in running:
        process.start()
    total = sum(counts.get(timeout=300) for _ in running)
    for process in running:
        process.join()
    return {"processes": str(processes), "steps a second": f"{total / lasting:.1f}"}


def way(net: str, name: str, device: str, rounds: int) -> Row:
    """Milliseconds and memory of a step."""
    start = peak_memory_mb(device, reset=True)
    step = stepper(net, VARIANTS[name], device)
    step()
    median = statistics.median(seconds(step, device) for _ in range(rounds))
    peak = peak_memory_mb(device) - start
    return {"net": net, "way": name, "ms": f"{1e3 * median:.2f}", "MB": f"{peak:.0f}"}


def main(arguments: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--dataset", choices=IMAGES, default="celeba")
    p.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    p.add_argument("--minutes", type=float, default=20, help="nothing more is begun after these")
    p.add_argument("--tiny", action="store_true", help="digits, one model, one round")
    p.add_argument("--output", help="Markdown file to write the page to")
    flags = p.parse_args(arguments)
    end = time.monotonic() + 60 * flags.minutes
    dataset, rounds = ("digits", 1) if flags.tiny else (flags.dataset, 10)
    nets = ["digits-convnet"] if flags.tiny else [n for n in NETS if n != "digits-convnet"]
    names = ["AE", "replayed"] if flags.tiny else list(VARIANTS)
    one = nets[0] if flags.tiny else "celeba-resnet"
    rows, sentence = hours(dataset, flags.tiny)
    tables = {f"Hours of {dataset}": rows}
    counts = (1,) if flags.tiny else (1, 2, 4)
    parts: list[tuple[str, str, list[str], Callable[[], Row]]] = [
        (f"Several runs at once: {one}", str(n), ["processes", "steps a second"],
         lambda n=n: at_once(one, flags.device, n, 1 if flags.tiny else 10)) for n in counts
    ]  # fmt: skip
    parts += [("Ways", name, ["way", "ms"], lambda net=net, name=name:
               way(net, name, flags.device, rounds)) for net in nets for name in names]  # fmt: skip
    for title, name, columns, part in parts:
        if time.monotonic() < end:
            tables.setdefault(title, []).append(tried(name, part, columns))
            with contextlib.suppress(AttributeError, RuntimeError):
                torch.cuda.empty_cache()
    card = torch.cuda.get_device_name() if flags.device == "cuda" else processor()
    text = f"# {card}\n\n{sentence} Random images; torch {torch.__version__}. "
    text += f"Made by `{command(flags.output)}`.\n"
    for title, found in tables.items():
        keys = list(dict.fromkeys(key for row in found for key in row))
        text += f"\n## {title}\n\n{markdown([{k: row.get(k, '') for k in keys} for row in found])}"
    print(text)
    if flags.output:
        write_bytes(Path(flags.output), text.encode())


if __name__ == "__main__":
    main()
