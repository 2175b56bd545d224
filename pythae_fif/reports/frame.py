"""Records as data frames: a row a run and sampler, then one a chosen model and sampler."""

__all__ = ["LEVEL", "chosen_frame", "entry_of", "first_scores", "ranks", "score_frame"]

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas

from pythae_fif.benchmark.config import Experiment
from pythae_fif.benchmark.models import ModelEntry, read_entry
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.benchmark.selection import Choice
from pythae_fif.evaluation.scores import Scores
from pythae_fif.sampling import SAMPLERS

LEVEL = 3
"""Rank of a number that is level with the lowest, which does not stand out."""

LEARNT = 0.98
"""A model whose squared error is above this part of the mean image's did not learn."""


def entry_of(experiment: Experiment, model: str) -> ModelEntry:
    """The entry of a model, of the experiment or of another one whose runs are alike."""
    return experiment.entries.get(model) or read_entry(model)


def first_scores(results: Sequence[ImageResult]) -> Scores:
    """Of the first run: how samples are scored is the same for all runs of a table."""
    return next(iter(results[0].scores.values())).result


def score_frame(experiment: Experiment, results: Iterable[ImageResult]) -> pandas.DataFrame:
    """All numbers of runs, a row a run and sampler; NaN where a record lacks one.

    A distance that is not finite is infinite, so that no mean leaves it out.
    """
    rows = [
        {**_of_run(experiment, result), "sampler": sampler, **_of_scores(record.result)}
        for result in results
        for sampler, record in result.scores.items()
    ]
    frame = pandas.DataFrame(rows)
    distances = ["frechet_val", "frechet_test"]
    frame[distances] = frame[distances].fillna(math.inf)
    return frame


def _of_run(experiment: Experiment, result: ImageResult) -> dict[str, Any]:
    spec, training, evaluation = result.spec, result.training, result.evaluation
    codes = evaluation.result.codes
    entry = entry_of(experiment, spec.model)
    return {
        "model": spec.model,
        "label": entry.label,
        "prior": entry.samplers[0],
        "configuration": spec.configuration,
        "beta": spec.parameters.get("beta"),
        "vectors": spec.parameters.get("hutchinson_samples", 1),
        "seed": spec.seed,
        "run_id": spec.run_id,
        "latent_dim": spec.latent_dim,
        "parameters": evaluation.result.parameters,
        "reconstruction_mse": evaluation.result.reconstruction_mse["test"],
        "divergence": math.nan if codes is None else codes.divergence,
        "correlation": math.nan if codes is None else codes.total_correlation,
        "training_seconds": training.result.seconds,
        "images": training.result.images,
        "images_per_second": training.result.images_per_second,
    }


def _of_scores(scores: Scores) -> dict[str, Any]:
    test, memorisation = scores.neighbours["test"], scores.memorisation
    return {
        "frechet_val": scores.frechet["val"],
        "frechet_test": scores.frechet["test"],
        "frechet_error": (scores.frechet_error or {}).get("test", math.nan),
        "score": math.nan if scores.score is None else scores.score.mean,
        "kernel": scores.kernel["test"].mean,
        "precision": test.precision,
        "recall": test.recall,
        "density": test.density,
        "coverage": test.coverage,
        "nearer": math.nan if memorisation is None else memorisation.nearer["test"],
        "authenticity": math.nan if memorisation is None else memorisation.authenticity,
    }


OF_RUN = ["label", "prior", "configuration", "latent_dim", "parameters", "images"]
MEANS = [
    "frechet_val", "frechet_test", "frechet_error", "score", "kernel", "precision", "recall",
    "density", "coverage", "nearer", "authenticity", "reconstruction_mse", "divergence",
    "correlation", "training_seconds", "images_per_second",
]  # fmt: skip


def chosen_frame(
    frame: pandas.DataFrame,
    choices: Sequence[Choice],
    references: Iterable[float] = (),
    constant_mse: float | None = None,
) -> pandas.DataFrame:
    """The configurations of lowest validation distance, in the order of samplers and test distance.

    Args:
        frame: Of :func:`score_frame`.
        choices: Of its runs.
        references: How far each choice is from the same runs elsewhere; none to leave it out.
        constant_mse: Squared error of the mean image, by which a model that did not learn is
            known; None leaves that out.

    Returns:
        Means over the seeds; `spread`, the standard deviation of the test distance over the seeds
        or, of one, over draws of samples; `noise`, twice the distance's standard error, from that
        and from how validation and test split differ; `rank`, as of :func:`ranks`; `learned`.
    """
    picked = pandas.DataFrame(
        {"model": c.model, "sampler": c.sampler, "run_id": result.spec.run_id,
         "candidates": c.candidates}
        for c in choices for result in c.results
    ).merge(frame, on=["model", "sampler", "run_id"])  # fmt: skip
    groups = picked.groupby(["model", "sampler"], sort=False)
    table = pandas.concat([groups[[*OF_RUN, "candidates"]].first(),
                           groups[MEANS].mean()], axis=1)  # fmt: skip
    table["seeds"] = groups.size()
    table["run_ids"] = groups["run_id"].agg(" ".join)
    table["score_spread"] = groups["score"].std()
    table["learned"] = True
    if constant_mse is not None:  # one seed that did not learn is enough to spoil the mean
        table["learned"] = groups["reconstruction_mse"].max() < LEARNT * constant_mse
    draws = table["frechet_error"]
    table["spread"] = groups["frechet_test"].std().where(table["seeds"] > 1, draws)
    # Each seed draws its own samples, so a distance moves at least as much as those of draws do.
    moved = table[["spread", "frechet_error"]].max(axis=1).fillna(0) / np.sqrt(table["seeds"])
    of_split = _split_noise(table) * table["frechet_test"]
    table["noise"] = 2 * np.hypot(of_split, moved)
    if known := list(references):
        table["reference"] = known
    table = table.reset_index()
    table["rank"] = ranks(table["frechet_test"], table["sampler"], table["noise"])
    place = {name: number for number, name in enumerate(SAMPLERS)}
    order = [table["sampler"].map(place), table["frechet_test"]]
    return table.iloc[np.lexsort(order[::-1])].reset_index(drop=True)


def _split_noise(table: pandas.DataFrame) -> pandas.Series:
    """Standard deviation by which other references move a distance, relative to it.

    The logarithm of the ratio of test to validation distance spreads over the models of a sampler
    by 1.5 median absolute deviations. Both splits have a part in that, so each has 1 / sqrt(2).
    """
    logs = np.log(table[["frechet_test", "frechet_val"]].clip(lower=1e-9))
    ratio = (logs["frechet_test"] - logs["frechet_val"]).groupby("sampler")
    away = (ratio.obj - ratio.transform("median")).abs()
    return 1.5 * away.groupby("sampler").transform("median") / math.sqrt(2)


def ranks(
    values: pandas.Series, groups: pandas.Series, noise: pandas.Series | None = None
) -> pandas.Series:
    """1 for the lowest value of a group and 2 for the second, equals alike, 0 for all others.

    Where the lowest does not stand out from others, these are `LEVEL` with it and nothing else is
    ranked: two values differ if their difference is more than the root of the sum of both squared
    noises. A group of one has no ranks.

    Example:
        >>> one = pandas.Series(["N"] * 3)
        >>> list(ranks(pandas.Series([3.0, 1.0, 1.0]), one))
        [2, 1, 1]
        >>> list(ranks(pandas.Series([1.0, 1.4, 2.0]), one, pandas.Series([0.5] * 3)))
        [3, 3, 0]
    """
    found = pandas.Series(0, index=values.index)
    for _, group in values.dropna().groupby(groups):
        if len(group) < 2:
            continue
        places = group.rank(method="dense").astype(int)
        marks = places.where(places <= 2, 0)
        if noise is not None:
            best = group.idxmin()
            reach = np.hypot(noise[group.index], noise[best])
            level = group - group[best] <= reach.where(group.index != best, math.inf)
            if level.sum() > 1:
                marks = level.astype(int) * LEVEL
        found[group.index] = marks
    return found
