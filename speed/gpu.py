"""Measures on a GPU what this package says of one, the hours of the published benchmark first.

    python speed/gpu.py [--dataset celeba] [--minutes 20] [--output F]
    python speed/gpu.py --device cpu --tiny      # seconds: whether this script runs

No data are needed: images are random, since no time depends on them. If a measurement fails, its
line says why, and the others follow.

* **Hours.** Steps and evaluations of the six models of the published protocol, and from them the
  hours of its 42 trainings, one after the other.
* **Several runs at once.** Steps a second of FIF by 1, 2 and 4 processes on the GPU.
* **Ways.** An autoencoder, FIF by both surrogates, K = 2 and bfloat16: milliseconds and memory.
"""

import argparse
import contextlib
import functools
import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from machine import command, markdown, peak_memory_mb, seconds
from step import NETS, VARIANTS, stepper

from pythae_fif.benchmark.build import build_trainer
from pythae_fif.benchmark.config import Experiment
from pythae_fif.benchmark.load import load_experiment
from pythae_fif.benchmark.plan import plan
from pythae_fif.benchmark.training import Training
from pythae_fif.data import Splits
from pythae_fif.errors import format_error
from pythae_fif.files import write_bytes
from pythae_fif.runs.provenance import processor
from pythae_fif.training import TrainingResult

IMAGES = {
    "mnist": (50_000, 10_000),
    "cifar10": (40_000, 10_000),
    "celeba": (162_770, 19_867),
    "digits": (1_197, 300),
}
"""Training and validation images of a data set."""

SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32), "celeba": (3, 64, 64), "digits": (1, 8, 8)}

EPOCH_BATCHES = 4
"""Training and validation batches in an epoch of the short trainings."""

TIMED_EPOCHS = 10

HOURS = "hours of all runs"

Row = dict[str, str]


class Measurement(NamedTuple):
    """A line of a table.

    Attributes:
        title: The table.
        name: The line's first cell if the measurement fails.
        columns: Headings of the first two cells.
        measure: Returns the line.
    """

    title: str
    name: str
    columns: list[str]
    measure: Callable[[], Row]

    def row(self) -> Row:
        """Returns the line, or one that says why there is none."""
        try:
            return self.measure()
        except Exception as error:  # out of memory, or an error of a driver or a network
            empty = dict.fromkeys(self.columns, "")
            return {
                **empty,
                self.columns[0]: self.name,
                self.columns[1]: format_error(error),
            }


def random_splits(dataset: str, count: int) -> Splits:
    """Returns random images with the shape of a data set's.

    Args:
        dataset: A key of `SHAPES`.
        count: Number of images in each split.
    """
    rng = np.random.default_rng(0)
    images = {}
    for split in ("train", "val", "test"):
        images[split] = rng.integers(0, 256, (count, *SHAPES[dataset]), dtype=np.uint8)
    return Splits(dataset, **images, labels=None, source="random")


def train_briefly(training: Training, splits: Splits, epochs: int) -> TrainingResult:
    """Trains a model for some epochs.

    Args:
        training: The training.
        splits: Its data.
        epochs: Number of epochs, in place of its own length.
    """
    short_training = training.model_copy(update={"epochs": epochs, "wall_clock": None})
    with tempfile.TemporaryDirectory() as folder:
        return build_trainer(short_training, splits, {}, Path(folder)).train()


def measure_model(model: str, experiment: Experiment, splits: Splits) -> Row:
    """Measures a model's steps and evaluation batches, and the hours of all its runs.

    Args:
        model: Its name.
        experiment: The published protocol.
        splits: Random data, `EPOCH_BATCHES` batches in each split.
    """
    jobs = plan(experiment, splits)
    runs = [job.training for job in jobs if job.training.model == model]
    train_briefly(runs[0], splits, 1)  # the first training also compiles and allocates
    result = train_briefly(runs[0], splits, TIMED_EPOCHS)
    batches = EPOCH_BATCHES * TIMED_EPOCHS
    step_seconds = result.train_seconds / batches
    evaluation_seconds = (result.seconds - result.train_seconds) / batches

    profile = experiment.active_profile
    train_images, val_images = IMAGES[splits.name]
    epoch_seconds = math.ceil(train_images / profile.batch_size) * step_seconds
    epoch_seconds += math.ceil(val_images / profile.batch_size) * evaluation_seconds
    hours = len(runs) * (profile.epochs or 1) * epoch_seconds / 3600
    return {
        "model": model,
        "ms a step": f"{1e3 * step_seconds:.2f}",
        "ms an evaluation batch": f"{1e3 * evaluation_seconds:.2f}",
        "runs": str(len(runs)),
        HOURS: f"{hours:.2f}",
    }


def plan_models(experiment: Experiment, dataset: str) -> list[Measurement]:
    """Lists the measurements of the first table.

    Args:
        experiment: The published protocol.
        dataset: A key of `SHAPES`.
    """
    splits = random_splits(dataset, EPOCH_BATCHES * experiment.active_profile.batch_size)
    columns = ["model", "ms a step", "ms an evaluation batch", "runs", HOURS]
    return [
        Measurement(
            f"Hours of {dataset}",
            model,
            columns,
            functools.partial(measure_model, model, experiment, splits),
        )
        for model in experiment.models
    ]


def _count_steps(net: str, device: str, duration: float, barrier: Any, counts: Any) -> None:
    """Trains for some seconds after all processes are ready, and reports the number of steps."""
    step = stepper(net, VARIANTS["replayed"], device)
    step()
    barrier.wait()

    count = 0
    end = time.monotonic() + duration
    while time.monotonic() < end:
        seconds(step, device)
        count += 1
    counts.put(count)


def measure_processes(net: str, device: str, process_count: int, duration: float) -> Row:
    """Measures the steps a second of several processes on one device.

    Args:
        net: A key of `NETS`.
        device: 'cuda' or 'cpu'.
        process_count: Number of processes.
        duration: Seconds for which they train.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(process_count)
    counts = context.Queue()
    arguments = (net, device, duration, barrier, counts)
    processes = [context.Process(target=_count_steps, args=arguments) for _ in range(process_count)]
    for process in processes:
        process.start()
    total = sum(counts.get(timeout=300) for _ in processes)
    for process in processes:
        process.join()
    return {"processes": str(process_count), "steps a second": f"{total / duration:.1f}"}


def measure_way(net: str, variant: str, device: str, rounds: int) -> Row:
    """Measures milliseconds and memory of a step.

    Args:
        net: A key of `NETS`.
        variant: A key of `VARIANTS`.
        device: 'cuda' or 'cpu'.
        rounds: How often the step is timed.
    """
    start = peak_memory_mb(device, reset=True)
    step = stepper(net, VARIANTS[variant], device)
    step()
    median = statistics.median(seconds(step, device) for _ in range(rounds))
    peak = peak_memory_mb(device) - start
    return {"net": net, "way": variant, "ms": f"{1e3 * median:.2f}", "MB": f"{peak:.0f}"}


def plan_measurements(device: str, tiny: bool) -> list[Measurement]:
    """Lists the measurements of the second and third table.

    Args:
        device: 'cuda' or 'cpu'.
        tiny: Whether to take the smallest network, two variants and one round.
    """
    tiny_net = "digits-convnet"
    shared_net = tiny_net if tiny else "celeba-resnet"
    duration = 1 if tiny else 10
    measurements = []
    for process_count in (1,) if tiny else (1, 2, 4):
        measure = functools.partial(measure_processes, shared_net, device, process_count, duration)
        title = f"Several runs at once: {shared_net}"
        columns = ["processes", "steps a second"]
        measurements.append(Measurement(title, str(process_count), columns, measure))

    rounds = 1 if tiny else 10
    nets = [tiny_net] if tiny else [net for net in NETS if net != tiny_net]
    variants = ["AE", "replayed"] if tiny else list(VARIANTS)
    for net in nets:
        for variant in variants:
            measure = functools.partial(measure_way, net, variant, device, rounds)
            measurements.append(Measurement("Ways", variant, ["way", "ms"], measure))
    return measurements


def format_table(title: str, rows: list[Row]) -> str:
    """Formats a table in which rows may lack columns.

    Args:
        title: The heading above it.
        rows: The lines.
    """
    columns = dict.fromkeys(column for row in rows for column in row)
    full_rows = [{column: row.get(column, "") for column in columns} for row in rows]
    return f"\n## {title}\n\n{markdown(full_rows)}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dataset", choices=IMAGES, default="celeba")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument(
        "--minutes", type=float, default=20, help="start no measurement after this time"
    )
    parser.add_argument("--tiny", action="store_true", help="digits, one model, one round")
    parser.add_argument("--output", help="Markdown file to write the page to")
    flags = parser.parse_args(arguments)

    end = time.monotonic() + 60 * flags.minutes
    dataset = "digits" if flags.tiny else flags.dataset
    models = {"models": ["ae"]} if flags.tiny else {}
    experiment = load_experiment(dataset, {"extractor": "pixels", **models})
    tables: dict[str, list[Row]] = {}
    for measurement in plan_models(experiment, dataset):
        tables.setdefault(measurement.title, []).append(measurement.row())
    hours = sum(float(row[HOURS] or 0) for row in tables[f"Hours of {dataset}"])

    for measurement in plan_measurements(flags.device, flags.tiny):
        if time.monotonic() < end:
            tables.setdefault(measurement.title, []).append(measurement.row())
            with contextlib.suppress(AttributeError, RuntimeError):
                torch.cuda.empty_cache()

    card = torch.cuda.get_device_name() if flags.device == "cuda" else processor()
    text = (
        f"# {card}\n\n{hours:.1f} hours of training in all, of profile {experiment.profile}. "
        f"Random images; torch {torch.__version__}. Made by `{command(flags.output)}`.\n"
    )
    for title, rows in tables.items():
        text += format_table(title, rows)
    print(text)
    if flags.output:
        write_bytes(Path(flags.output), text.encode())


if __name__ == "__main__":
    main()
