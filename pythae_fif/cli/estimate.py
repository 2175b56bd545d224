"""`run --dry-run`: the plan of a benchmark, and an estimate of its time."""

import contextlib
import io
import math
import tempfile
import warnings
from collections import Counter
from datetime import timedelta
from typing import Any

import torch
from rich.table import Table

from pythae_fif.benchmark.config import Experiment, describe_length
from pythae_fif.benchmark.image_run import ImageSpec
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.cli.display import Terminal
from pythae_fif.data import Splits
from pythae_fif.data.splits import SPLIT_NAMES
from pythae_fif.errors import RunsLeftError, format_error, pluralized
from pythae_fif.runs.launch import Engine
from pythae_fif.runs.local import RUN_BYTES, LocalEngine
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import execute_run
from pythae_fif.training import quiet_pythae

IMAGES = 500  # that a model is trained on, and samples that are scored, to be timed
CONTEXT_BYTES = 2**30  # of a GPU: CUDA's own, and features that are not of training images


def print_plan(
    console: Terminal, experiment: Experiment, plan: list[ImageSpec], todo: list[ImageSpec]
) -> None:
    """Prints the runs of a plan, a line each, and what is the same for all."""
    table = Table("run id", "model", "configuration", "seed", "", box=None)
    for spec in plan:
        there = "" if spec in todo else "there"
        table.add_row(spec.run_id, spec.model, spec.configuration, str(spec.seed), there)
    console.print(table)
    console.say(
        f"{pluralized(len(plan), 'run')}, {len(todo)} of them to do: {experiment.dataset}, "
        f"{experiment.arch}, profile {experiment.profile}, "
        f"{describe_length(experiment.active_profile)}, "
        f"samplers {', '.join(experiment.samplers)}, extractor {experiment.extractor}"
    )


def print_estimate(
    console: Terminal, splits: Splits, plan: list[ImageSpec], engine: Engine, feature_bytes: int
) -> None:
    """Does a short run of every model, and prints what all runs would take; `feature_bytes` are
    those of the features of all training images, which a run holds.

    Raises:
        RunsLeftError: Short runs of some models fail, which the estimate lacks; a line each.
    """
    local = engine if isinstance(engine, LocalEngine) else LocalEngine()
    count, size = min(IMAGES, len(splits.train)), len(splits.train)
    held = max(10, len(splits.val) * count // size)  # the share of all images
    part = splits.subset(train=count, val=held, test=min(IMAGES, len(splits.test)))
    runs, problems, total = Counter(spec.model for spec in plan), [], 0.0
    table = Table("model", "runs", "training", "samplers, scores", "all its runs", box=None)
    torch.set_num_threads(local.slots()[0].threads)
    silent = contextlib.redirect_stderr(io.StringIO())  # a run's own words go to its output.log
    with console.stage("timing"), quiet_pythae(), warnings.catch_warnings(), silent:
        warnings.simplefilter("ignore")
        for model, number in runs.items():
            spec = next(spec for spec in plan if spec.model == model)
            try:
                epoch, scoring = _time_training(spec, part)
            except Exception as error:  # of somebody's model, anything
                problems.append(f"model {model} fails in a short run: {format_error(error)}")
                continue
            epochs, clock = spec.settings.epochs, spec.settings.wall_clock
            training = min(epoch * size / count * (epochs or math.inf), clock or math.inf)
            scores = scoring * len(spec.samplers)
            total += number * (training + scores)
            times = (training, scores, number * (training + scores))
            table.add_row(model, str(number), *map(_format_seconds, times))
    console.print(table)
    need, peak = RUN_BYTES, torch.cuda.max_memory_allocated()  # 0 without a GPU
    if peak:  # memorisation holds the features, and them in float64
        need = CONTEXT_BYTES + max(peak + feature_bytes, 3 * feature_bytes)
        console.say(f"by the memory of these short runs: {local.machine(need)}")
    at_once = min(len(local.slots(need)), len(plan))
    console.say(
        f"estimate: {_format_seconds(total)} one after the other, "
        f"{_format_seconds(total / at_once)} with "
        f"{pluralized(at_once, 'run')} at once, by a short run of each model on {count:,} images "
        "with one sampler; fits of other samplers come on top"
    )
    if problems:
        raise RunsLeftError(*problems)


def _format_seconds(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _time_training(spec: ImageSpec, part: Splits) -> tuple[float, float]:
    """Seconds of an epoch on a part of the data, and of all samples of a sampler with scores."""
    whole = spec.settings.num_samples
    count = min(IMAGES, whole)
    few: dict[str, Any] = {"epochs": 2, "wall_clock": None, "num_samples": count}
    few |= {f"{split}_size": len(part[split]) for split in SPLIT_NAMES}
    short = {
        "settings": spec.settings.model_copy(update=few),
        "samplers": spec.samplers[:1],
        "data_hash": part.content_hash,
        "labels_hash": spec.labels_hash and part.labels_hash,
    }
    with tempfile.TemporaryDirectory() as folder:
        spec, store = spec.model_copy(update=short), Store(folder)
        execute_run(spec, store)
        result = ImageResult.read(store, spec)
    assert result is not None
    epoch = result.training.result.log[-1].seconds  # the first one warms up
    (scores,), begun = result.scores.values(), result.training.provenance.seconds or 0.0
    seconds = (scores.provenance.seconds or 0.0) - begun
    return epoch, seconds * whole / count
