"""Records as data frames: a row a run and sampler, then one a chosen model and sampler."""

__all__ = ["LEVEL", "chosen_frame", "first_scores", "ranks", "score_frame"]

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas

from pythae_fif.benchmark.config import Experiment
from pythae_fif.benchmark.models import read_entry
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.benchmark.selection import Choice
from pythae_fif.evaluation.scores import Scores
from pythae_fif.sampling import SAMPLERS

LEVEL = 3  # rank of a number that is level with the lowest, which does not stand out
LEARNT = 0.98  # a model whose squared error is above this part of the mean image's did not learn
OF_RUN = ["label", "prior", "configuration", "latent_dim", "parameters", "images"]
MEANS = [
    "frechet_val", "frechet_test", "frechet_error", "score", "kernel", "precision", "recall",
    "density", "coverage", "nearer", "authenticity", "reconstruction_mse", "divergence",
    "correlation", "training_seconds", "images_per_second",
]  # fmt: skip


def first_scores(results: Sequence[ImageResult]) -> Scores:
    """Of the first run: how samples are scored is the same for all runs of a table."""
    return next(iter(results[0].scores.values())).result


def score_frame(experiment: Experiment, results: Iterable[ImageResult]) -> pandas.DataFrame:
    """All numbers of runs, a row a run and sampler; NaN where a record lacks one.

    A distance that is not finite is infinite, so that no mean leaves it out.
    """
    rows = [
        _row(experiment, result, sampler, record.result)
        for result in results
        for sampler, record in result.scores.items()
    ]
    frame = pandas.DataFrame(rows).astype(dict.fromkeys(MEANS, float))
    distances = ["frechet_val", "frechet_test"]
    frame[distances] = frame[distances].fillna(math.inf)
    return frame


def _row(
    experiment: Experiment, result: ImageResult, sampler: str, scores: Scores
) -> dict[str, Any]:
    spec, training, evaluation = result.spec, result.training.result, result.evaluation.result
    codes, memorisation = evaluation.codes, scores.memorisation
    entry = experiment.entries.get(spec.model) or read_entry(spec.model)
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
        "parameters": evaluation.parameters,
        "reconstruction_mse": evaluation.reconstruction_mse["test"],
        "divergence": codes and codes.divergence,
        "correlation": codes and codes.total_correlation,
        "training_seconds": training.seconds,
        "images": training.images,
        "images_per_second": training.images_per_second,
        "sampler": sampler,
        "frechet_val": scores.frechet["val"],
        "frechet_test": scores.frechet["test"],
        "frechet_error": scores.frechet_error and scores.frechet_error["test"],
        "score": scores.score and scores.score.mean,
        "kernel": scores.kernel["test"].mean,
        **vars(scores.neighbours["test"]),
        "nearer": memorisation and memorisation.nearer["test"],
        "authenticity": memorisation and memorisation.authenticity,
    }


def chosen_frame(
    frame: pandas.DataFrame,
    choices: Sequence[Choice],
    references: Sequence[float] = (),
    constant_mse: float | None = None,
) -> pandas.DataFrame:
    """The configurations of lowest validation distance, in the order of samplers and test distance.

    Args:
        frame: Of :func:`score_frame`.
        choices: Of its runs.
        references: How far each choice is from the same runs elsewhere, if that is shown.
        constant_mse: Squared error of the mean image, by which is known who did not learn.

    Returns:
        Means over the seeds; `spread`, the standard deviation of the test distance over the seeds
        or, of one, over draws of samples; `noise`, twice the distance's standard error, from that
        and from how validation and test split differ; `rank`, as of :func:`ranks`; `learned`.
    """
    chosen = [
        (c.model, c.sampler, of.spec.run_id, c.candidates) for c in choices for of in c.results
    ]
    columns = ["model", "sampler", "run_id", "candidates"]
    picked = pandas.DataFrame(chosen, columns=columns).merge(frame, on=columns[:3])
    groups = picked.groupby(["model", "sampler"], sort=False)
    table = groups[[*OF_RUN, "candidates"]].first().join(groups[MEANS].mean())
    table["seeds"] = groups.size()
    table["run_ids"] = groups["run_id"].agg(" ".join)
    table["score_spread"] = groups["score"].std()
    # one seed that did not learn is enough to spoil the mean
    limit = math.inf if constant_mse is None else LEARNT * constant_mse
    table["learned"] = groups["reconstruction_mse"].max() < limit
    table["spread"] = groups["frechet_test"].std().fillna(table["frechet_error"])
    # Each seed draws its own samples, so a distance moves at least as much as those of draws do.
    moved = table[["spread", "frechet_error"]].max(axis=1).fillna(0) / np.sqrt(table["seeds"])
    of_split = _split_noise(table) * table["frechet_test"]
    table["noise"] = 2 * np.hypot(of_split, moved)
    if len(references):
        table["reference"] = list(references)
    table = table.reset_index()
    table["rank"] = ranks(table["frechet_test"], table["sampler"], table["noise"])
    place = table["sampler"].map(list(SAMPLERS).index)
    return table.iloc[np.lexsort([table["frechet_test"], place])].reset_index(drop=True)


def _split_noise(table: pandas.DataFrame) -> pandas.Series:
    """Standard deviation by which other references move a distance, relative to it.

    The logarithm of the ratio of test to validation distance spreads over the models of a sampler
    by 1.5 median absolute deviations. Both splits have a part in that, so each has 1 / sqrt(2).
    """
    logs = np.log(table[["frechet_test", "frechet_val"]].clip(lower=1e-9))
    ratio = (logs["frechet_test"] - logs["frechet_val"]).groupby("sampler")
    away = (ratio.obj - ratio.transform("median")).abs()
    return 1.5 * away.groupby("sampler").transform("median") / math.sqrt(2)


def ranks(values: pandas.Series, groups: pandas.Series, noise: pandas.Series) -> pandas.Series:
    """1 for the lowest value of a group and 2 for the second, 0 for all others.

    Where the lowest does not stand out from others, these are `LEVEL` with it and nothing else is
    ranked: two values differ if their difference is more than the root of the sum of both squared
    noises. A group of one has no ranks.
    """
    found = pandas.Series(0, index=values.index)
    for _, group in values.dropna().groupby(groups):
        best = group.idxmin()
        level = group - group[best] <= np.hypot(noise[group.index], noise[best])
        level[best] = True
        places = group.rank(method="dense").astype(int)
        if len(group) > 1:
            alone = places.where(places <= 2, 0)
            found[group.index] = alone if level.sum() == 1 else level.astype(int) * LEVEL
    return found
