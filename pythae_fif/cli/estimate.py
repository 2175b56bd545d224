"""`run --dry-run`: the plan of a benchmark, and an estimate of its time."""

import tempfile
import time
import warnings
from collections import Counter
from datetime import timedelta
from pathlib import Path

import torch
from pythae.models import BaseAE
from rich.table import Table

from pythae_fif.benchmark.config import Experiment, length_of
from pythae_fif.benchmark.image_run import ImageSpec, extractor_of, trainer_of
from pythae_fif.cli.display import Terminal
from pythae_fif.data import Splits
from pythae_fif.data.dataset import as_tensor
from pythae_fif.data.splits import SPLIT_NAMES
from pythae_fif.errors import ConfigError, counted, one_line
from pythae_fif.evaluation import Features, score_samples
from pythae_fif.runs.launch import Engine
from pythae_fif.runs.local import LocalEngine
from pythae_fif.sampling.models import embed
from pythae_fif.training import quiet_pythae

IMAGES = 500
"""That a model is trained on, and samples that are scored, to be timed."""


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
        f"{counted(len(plan), 'run')}, {len(todo)} of them to do: {experiment.dataset}, "
        f"{experiment.arch}, profile {experiment.profile}, {length_of(experiment.in_use)}, "
        f"samplers {', '.join(experiment.samplers)}, extractor {experiment.extractor}"
    )


def print_estimate(
    console: Terminal, splits: Splits, plan: list[ImageSpec], engine: Engine
) -> None:
    """Times a few steps of every model, and a scoring with one, and prints what all would take.

    Raises:
        ConfigError: Models cannot take these steps; a line each.
    """
    slots = (engine if isinstance(engine, LocalEngine) else LocalEngine()).slots()
    count, size = min(IMAGES, len(splits.train)), len(splits.train)
    held = max(10, len(splits.val) * count // size)  # as of all images
    part = splits.subset(train=count, val=held, test=min(IMAGES, len(splits.test)))
    runs = Counter(spec.model for spec in plan)
    first = {spec.model: spec for spec in reversed(plan)}
    trained: dict[str, tuple[float, BaseAE]] = {}
    problems = []
    torch.set_num_threads(slots[0].threads)
    with console.stage("timing"), quiet_pythae(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a run's own go to its output.log
        for model in runs:
            try:
                trained[model] = _training(first[model], part, size)
            except Exception as error:  # of somebody's model, anything
                problems.append(f"model {model} fails at once: {one_line(error)}")
        if problems:
            raise ConfigError(*problems)
        timed = min(trained, key=lambda model: trained[model][0])
        scoring = _scoring(first[timed], trained[timed][1], splits, part)
    table = Table("model", "runs", "training", "samplers, scores", "all its runs", box=None)
    total = 0.0
    for model, (training, _) in trained.items():
        scores = scoring * len(first[model].samplers)
        of_all = runs[model] * (training + scores)
        table.add_row(model, str(runs[model]), *map(_time, (training, scores, of_all)))
        total += of_all
    console.print(table)
    console.say(
        f"estimate: {_time(total)} one after the other, {_time(total / len(slots))} with "
        f"{counted(len(slots), 'run')} at once, by an epoch of each model on {count:,} images and "
        f"a sampler of {timed} with its scores; fits of samplers and features of data come on top"
    )


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _training(spec: ImageSpec, part: Splits, size: int) -> tuple[float, BaseAE]:
    """Seconds that a run trains and evaluates, and the model after the timed epochs."""
    few = spec.settings.model_copy(update={"epochs": 2, "wall_clock": None})
    short = spec.model_copy(update={"settings": few})
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(short, part, spec.labels_in(part), Path(folder))
        epoch = trainer.train().log[-1].seconds  # the first one warms up
    whole = epoch * size / len(part.train) * (spec.settings.epochs or 1)
    return spec.settings.wall_clock or whole, trainer.model


def _scoring(spec: ImageSpec, model: BaseAE, splits: Splits, part: Splits) -> float:
    """Seconds of a run's first sampler with its scores."""
    count = min(IMAGES, spec.settings.num_samples)
    few = spec.settings.model_copy(update={"num_samples": count})
    device, labels = str(next(model.parameters()).device), spec.labels_in(part)
    extractor = extractor_of(spec.extractor, splits, spec.where, device)
    known = {split: Features.of(as_tensor(part[split]), extractor) for split in SPLIT_NAMES}
    references = {split: known[split] for split in ("val", "test")}
    codes = embed(model, part.train, labels=labels.get("train"))
    start = time.perf_counter()
    timed = spec.model_copy(update={"settings": few})
    samples, _ = timed.sample(spec.samplers[0], model, codes, labels)
    score_samples(samples, extractor, references, training=known["train"])
    return (time.perf_counter() - start) * spec.settings.num_samples / count
