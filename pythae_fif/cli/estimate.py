"""`run --dry-run`: the plan of a benchmark, and an estimate of its time."""

__all__ = ["print_estimate", "print_plan"]

import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from pythae.models import BaseAE
from rich.table import Table

from pythae_fif.benchmark.config import Experiment, length_of
from pythae_fif.benchmark.image_run import ImageSpec, extractor_of, trainer_of
from pythae_fif.cli.display import Display, Terminal, duration
from pythae_fif.cli.flags import AnyEngine
from pythae_fif.data import Splits
from pythae_fif.data.dataset import as_tensor
from pythae_fif.data.splits import SPLIT_NAMES
from pythae_fif.errors import counted
from pythae_fif.evaluation import Features, score_samples
from pythae_fif.runs.local import LocalEngine
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import line_of
from pythae_fif.sampling.models import embed
from pythae_fif.training import LOG_NAME, quiet_pythae, read_log

BATCHES, EPOCHS = 4, 3
"""Of a timed training; its first epoch warms up."""
SAMPLES = 500
"""Of a timed scoring."""


def print_plan(
    console: Terminal, experiment: Experiment, plan: list[ImageSpec], store: Store
) -> None:
    """Prints the runs of a plan, a line each, and what is the same for all."""
    table = Table("run id", "model", "configuration", "seed", "", box=None)
    done = [spec for spec in plan if spec.data_hash and store.is_done(spec)]
    for spec in plan:
        there = "there" if spec in done else ""
        run_id = spec.run_id if spec.data_hash else "–"  # it takes the data to know it
        table.add_row(run_id, spec.model, spec.configuration, str(spec.seed), there)
    console.print(f"{counted(len(plan), 'run')}, {len(plan) - len(done)} of them to do")
    console.print(table)
    console.say(
        f"{experiment.dataset}, {experiment.arch}, profile {experiment.profile}: "
        f"{length_of(experiment.in_use)}, samplers {', '.join(experiment.samplers)}, "
        f"extractor {experiment.extractor}"
    )


def print_estimate(
    display: Display, splits: Splits, plan: list[ImageSpec], engine: AnyEngine
) -> list[str]:
    """Times every model's first configuration and prints what all runs would take.

    Training is timed in a few steps of each model. Samplers and scores are timed with the model
    that trains fastest.

    Returns:
        What would stop runs: a line a model that cannot take these steps.
    """
    slots = (engine if isinstance(engine, LocalEngine) else LocalEngine()).slots()
    runs = Counter(spec.model for spec in plan)
    first = {spec.model: spec for spec in reversed(plan)}
    trained: dict[str, tuple[float, BaseAE]] = {}
    problems = []
    torch.set_num_threads(slots[0].threads)
    with display.stage("timing"), quiet_pythae(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a run's own go to its output.log
        for model in runs:
            try:
                trained[model] = _training(first[model], splits)
            except Exception as error:  # of somebody's model, anything
                problems.append(f"model {model} fails at once: {line_of(error)}")
        if not trained:
            return problems
        cheapest = min(trained, key=lambda model: trained[model][0])
        scoring, once = _scoring(first[cheapest], trained[cheapest][1], splits)
    table = Table("model", "runs", "training", "samplers, scores", "all its runs", box=None)
    of_runs = []
    for model, (training, _) in trained.items():
        scores = sum(scoring[name] for name in first[model].samplers if name in scoring)
        of_runs += runs[model] * [training + scores]
        row = (training, scores, runs[model] * (training + scores))
        table.add_row(model, str(runs[model]), *map(duration, row))
    display.console.print(table)
    least = max(sum(of_runs) / len(slots), *of_runs) + once
    display.console.say(
        f"estimate: {duration(sum(of_runs) + once)} one after the other, {duration(least)} with "
        f"{counted(len(slots), 'run')} at once. Timed: {BATCHES} steps of each model; samplers and "
        f"scores with {cheapest}. Not measured: the start of each run, a few seconds, and fits to "
        "codes of other models"
    )
    return problems


def _training(spec: ImageSpec, splits: Splits) -> tuple[float, BaseAE]:
    """Seconds that a run trains and evaluates, and the model after a few steps.

    Raises:
        NonFiniteError: The loss of one of the timed steps is NaN or infinite.
    """
    settings = spec.settings
    count = min(len(splits.train), BATCHES * settings.batch_size)
    held = max(10, round(len(splits.val) * count / len(splits.train)))  # as of all images
    part = splits.subset(train=count, val=min(held, len(splits.val)))
    few = settings.model_copy(update={"epochs": EPOCHS, "wall_clock": None})
    labels = (part.labels or {}) if spec.labels_hash else {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(spec.model_copy(update={"settings": few}), part, labels, Path(folder))
        trainer.train()
        epoch = min(row.seconds for row in read_log(Path(folder) / LOG_NAME)[1:])
    whole = epoch * len(splits.train) / count * (settings.epochs or 1)
    return settings.wall_clock or whole, trainer.model


def _scoring(spec: ImageSpec, model: BaseAE, splits: Splits) -> tuple[dict[str, float], float]:
    """Seconds of each sampler of a run with its scores, and once of the features of the data."""
    wanted = spec.settings.num_samples
    count = min(SAMPLES, wanted)
    part = splits.subset(**{split: min(count, len(splits[split])) for split in SPLIT_NAMES})
    few = spec.settings.model_copy(update={"num_samples": count})
    spec = spec.model_copy(update={"settings": few})
    device = str(next(model.parameters()).device)
    extractor = extractor_of(spec.extractor, splits, spec.where, device)
    extractor(as_tensor(part.test[:100]))  # which warms up
    start = time.perf_counter()
    known = {split: Features.of(as_tensor(part[split]), extractor) for split in SPLIT_NAMES}
    all_images, timed_images = (sum(len(of[s]) for s in SPLIT_NAMES) for of in (splits, part))
    once = (time.perf_counter() - start) * all_images / timed_images
    # Of a part of the codes as many as a run fits to.
    rows = np.arange(len(splits.train)) % len(part.train)
    labels = {"train": part.labels["train"]} if spec.labels_hash and part.labels else {}
    codes = embed(model, part.train, labels=labels.get("train"))[torch.from_numpy(rows)]
    labels = {split: of[rows] for split, of in labels.items()}
    references = {split: known[split] for split in ("val", "test")}
    seconds, scored = dict[str, float](), 0.0
    for sampler in (spec.samplers[0], *spec.samplers):  # the first time warms up
        start = time.perf_counter()
        samples, _ = spec.sample(sampler, model, codes, labels)
        seconds[sampler] = time.perf_counter() - start
        score_samples(samples, extractor, references, training=known["train"])
        scored = time.perf_counter() - start - seconds[sampler]
    drawn = min(seconds.values())  # by a sampler that is not fitted, if there is one
    more = (wanted / count - 1) * drawn + wanted / count * scored
    return {sampler: of + more for sampler, of in seconds.items()}, once
