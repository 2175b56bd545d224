"""Records as data frames: a row a run and sampler, then one a chosen model and sampler."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas

from pythae_fif.benchmark.config import Experiment
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.evaluation.scores import Scores
from pythae_fif.names import SAMPLERS

TIED_RANK = 3  # rank of a number that is level with the lowest, which does not stand out
MAX_ERROR_RATIO = (
    0.98  # a model whose squared error is above this part of the mean image's did not learn
)
RUN_COLUMNS = ["label", "prior", "configuration", "latent_dim", "parameters", "candidates"]
SCORE_COLUMNS = [
    "frechet_val", "frechet_test", "frechet_error", "score", "kernel", "precision", "recall",
    "density", "coverage", "nearer", "authenticity", "reconstruction_mse",
    "tube", "tube_bits",
]  # fmt: skip
AVERAGED_COLUMNS = [*SCORE_COLUMNS, "divergence", "training_seconds", "images"]


def first_scores(results: Sequence[ImageResult]) -> Scores:
    """The first run's scores: how samples are scored is the same for all runs of a table."""
    return next(iter(results[0].scores.values())).result


def score_frame(experiment: Experiment, results: Iterable[ImageResult]) -> pandas.DataFrame:
    """All numbers of runs, a row a run and sampler; NaN where a record lacks one."""
    rows = []
    pairs = ((result, *found) for result in results for found in result.scores.items())
    for result, sampler, record in pairs:
        spec, training, evaluation = result.spec, result.training.result, result.evaluation.result
        entry, codes, scores = experiment.entry_for(spec.model), evaluation.codes, record.result
        copies, made = scores.memorisation, result.training.provenance
        rows.append(
            {
                "model": spec.model,
                "label": entry.label,
                "prior": entry.samplers[0],
                "configuration": spec.configuration,
                "setting": spec.model_copy(update={"seed": 0}).run_id,  # of all seeds
                "beta": spec.parameters.get("beta"),
                "vectors": spec.parameters.get("hutchinson_samples", 1),
                "seed": spec.seed,
                "run_id": spec.run_id,
                "latent_dim": spec.latent_dim,
                "parameters": evaluation.parameters,
                "reconstruction_mse": evaluation.reconstruction_mse["test"],
                "divergence": codes and codes.divergence,
                "machine": f"{made.device} with {made.cores} cores",
                "training_seconds": training.seconds,
                "images": training.images,
                "steps": training.images and training.images / spec.settings.batch_size,
                "sampler": sampler,
                "extractor_hash": scores.extractor_hash,
                "frechet_val": scores.frechet["val"],
                "frechet_test": scores.frechet["test"],
                "frechet_error": scores.frechet_error and scores.frechet_error["test"],
                "score": scores.score and scores.score.mean,
                "kernel": scores.kernel["test"].mean,
                **vars(scores.neighbours["test"]),
                "nearer": copies and copies.nearer["test"],
                "authenticity": copies and copies.authenticity,
                "tube": scores.tube and scores.tube["test"].nats,
                "tube_bits": scores.tube and scores.tube["test"].bits_per_dim,
            }
        )
    frame = pandas.DataFrame(rows).astype(dict.fromkeys(AVERAGED_COLUMNS, float))
    frame["beta"] = pandas.to_numeric(frame["beta"], errors="coerce")  # of 'auto' NaN
    return frame


def select(frame: pandas.DataFrame) -> pandas.DataFrame:
    """Of each model and sampler the rows of one configuration, and in `candidates` out of how many.

    It is that of lowest mean distance to validation data (appendix E.4). Only the configurations
    with the most finished seeds compete: one that failed with some must not win by the others. The
    test score has no part in it.
    """
    of, configuration = ["model", "sampler"], ["model", "sampler", "setting"]
    groups = frame.groupby(configuration, sort=False)["frechet_val"]
    means = groups.agg(["size", "mean"]).reset_index()
    complete = means[means["size"] == means.groupby(of)["size"].transform("max")]
    complete = complete.assign(candidates=complete.groupby(of)["size"].transform("size"))
    best = complete.sort_values("mean", kind="stable").drop_duplicates(of)
    chosen = frame.merge(best[[*configuration, "candidates"]], on=configuration)
    return chosen.sort_values(of, kind="stable", ignore_index=True)


def chosen_frame(
    frame: pandas.DataFrame,
    elsewhere: pandas.DataFrame | None = None,
    constant_mse: float = math.inf,
) -> pandas.DataFrame:
    """The configurations of lowest validation distance, in the order of samplers and test distance.

    Args:
        frame: Of :func:`score_frame`.
        elsewhere: The same of runs that were made elsewhere, with which these are compared.
        constant_mse: Squared error of the mean image, by which is known who did not learn.

    Returns:
        Means over the seeds; `spread`, the standard deviation of the test distance over the seeds
        or, of one, over draws of samples; `noise`, twice the distance's standard error, from that
        and from how validation and test split differ; `rank`, see :func:`ranks`; `learned`;
        if not, the label has a dagger; `reference`, the largest difference from elsewhere.
    """
    picked = select(frame)
    picked["reference"] = math.nan if elsewhere is None else _differences(picked, elsewhere)
    groups = picked.groupby(["model", "sampler"], sort=False)
    whole = groups[AVERAGED_COLUMNS].agg(lambda of: of.mean(skipna=False))  # a mean is of all seeds
    table = groups[RUN_COLUMNS].first().join(whole)
    table["seeds"] = groups.size()
    table["run_ids"] = groups["run_id"].agg(" ".join)
    table["score_spread"] = groups["score"].std()
    # one seed that did not learn is enough to spoil the mean
    table["learned"] = groups["reconstruction_mse"].max() < MAX_ERROR_RATIO * constant_mse
    table.loc[~table["learned"], "label"] += " †"
    table["spread"] = groups["frechet_test"].std().fillna(table["frechet_error"])
    # Each seed draws its own samples, so a distance moves at least as much as those of draws do.
    moved = table[["spread", "frechet_error"]].max(axis=1).fillna(0) / np.sqrt(table["seeds"])
    # Other references move it too. The logarithm of the ratio of test to validation distance
    # spreads over a sampler's models by 1.5 median absolute deviations; both splits have a part.
    logs = np.log(table[["frechet_test", "frechet_val"]].clip(lower=1e-9))
    ratio = logs["frechet_test"] - logs["frechet_val"]
    away = (ratio - ratio.groupby("sampler").transform("median")).abs()
    of_split = 1.5 * away.groupby("sampler").transform("median") / math.sqrt(2)
    table["noise"] = 2 * np.hypot(of_split * table["frechet_test"], moved)
    if picked["reference"].notna().any():
        table["reference"] = groups["reference"].agg(lambda of: of.max(skipna=False))
    table = table.reset_index()
    table["rank"] = ranks(table["frechet_test"], table["noise"], table["sampler"])
    place = table["sampler"].map(list(SAMPLERS).index)
    return table.iloc[np.lexsort([table["frechet_test"], place])].reset_index(drop=True)


def _differences(frame: pandas.DataFrame, elsewhere: pandas.DataFrame) -> "pandas.Series[float]":
    """The largest relative difference of each row's scores from those of the same run elsewhere.

    NaN where the run is not there, infinite where an extractor of other weights scored it.
    """
    of = ["run_id", "sampler"]
    theirs = frame[of].merge(elsewhere, "left", of)
    here, there = frame[SCORE_COLUMNS], theirs[SCORE_COLUMNS]
    relative = (here - there).abs() / np.maximum(here.abs(), there.abs())
    largest = relative.max(axis=1)
    other = theirs["extractor_hash"].notna() & (theirs["extractor_hash"] != frame["extractor_hash"])
    return largest.mask(other, math.inf)


def ranks(
    values: pandas.Series, noise: pandas.Series, groups: pandas.Series | None = None
) -> pandas.Series:
    """1 for the lowest value of a group, or of all, and 2 for the second, 0 for all others.

    Where the lowest does not stand out from others, these are `TIED_RANK` with it and nothing
    else is ranked: two values differ if their difference is more than the root of the sum of both
    squared noises. A group of one has no ranks.
    """
    found = pandas.Series(0, index=values.index)
    for _, group in values.dropna().groupby((lambda _: 0) if groups is None else groups):
        best, places = group.idxmin(), group.rank(method="dense").astype(int)
        level = group - group[best] <= np.hypot(noise[group.index], noise[best])
        level[best] = True
        if len(group) > 1:
            alone = level.sum() == 1
            found[group.index] = places.where(places <= 2, 0) if alone else level * TIED_RANK
    return found
