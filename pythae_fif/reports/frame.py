"""Records as data frames: first one row per run and sampler, then one per model and sampler."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import ttest_ind_from_stats

from pythae_fif.benchmark.config import Experiment
from pythae_fif.benchmark.results import Result, read, select
from pythae_fif.evaluation.score_types import Scores
from pythae_fif.evaluation.scores import SCORE_COLUMNS, ScoreColumn
from pythae_fif.runs.store import Store
from pythae_fif.sampling.catalog import sampler_position

TIED_RANK = 3
"""Rank of a value that is tied with the lowest one: the difference is within the noise."""
MAX_ERROR_RATIO = 0.98
"""A model did not learn if its squared error exceeds this fraction of the mean image's error."""
FEW_STEPS = 1000
"""A shorter training shows little."""
SIGNIFICANCE = 0.05
"""Of Welch's t-test over the seeds."""
RUN_COLUMNS = ["label", "usual_sampler", "configuration", "latent_dim", "parameters", "candidates"]
COST_COLUMNS = ["training_seconds", "images"]


def first_scores(results: Sequence[Result]) -> Scores:
    """Returns the scores of the first run; how they were computed is the same for all runs."""
    return next(iter(results[0].scores.values())).result.scores


LIKELIHOODS = ["log_likelihood", "bits_per_dim"]
"""Scores that depend on `MarginalLikelihoodScore.codes`."""


def make_frames(
    experiment: Experiment,
    results: Sequence[Result],
    columns: Sequence[ScoreColumn],
    reference: Store | None = None,
    constant_mse: float = np.inf,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Makes the frames of :func:`score_frame` and :func:`chosen_frame`.

    Args:
        experiment: The experiment.
        results: Results of its runs.
        columns: The scores.
        reference: A store with the same runs, made elsewhere.
        constant_mse: See :func:`chosen_frame`.
    """
    frame = score_frame(experiment, results, columns)

    reference_frame = None
    if reference is not None:
        stored = [read(reference, result.job) for result in results]
        reference_results = [result for result in stored if result is not None]
        if reference_results:
            reference_frame = score_frame(experiment, reference_results, columns)
    return frame, chosen_frame(frame, reference_frame, constant_mse, columns)


def score_frame(
    experiment: Experiment,
    results: Iterable[Result],
    columns: Sequence[ScoreColumn] = SCORE_COLUMNS,
) -> pd.DataFrame:
    """Collects all numbers of runs.

    Args:
        experiment: The experiment of the runs.
        results: The results of the runs.
        columns: The scores.

    Returns:
        One row per run and sampler, with NaN where a record lacks a number.
    """
    rows = [
        _score_row(experiment, result, sampler, columns)
        for result in results
        for sampler in result.scores
    ]
    averaged_columns = [*(column.name for column in columns), *COST_COLUMNS]
    frame = pd.DataFrame(rows).astype(dict.fromkeys(averaged_columns, float))
    frame["beta"] = pd.to_numeric(frame["beta"], errors="coerce")  # NaN for 'auto'
    return frame


def _score_row(
    experiment: Experiment, result: Result, sampler: str, columns: Sequence[ScoreColumn]
) -> dict[str, Any]:
    """Returns the numbers of a run and sampler."""
    run = result.job.training
    entry = experiment.entries[run.model]
    training = result.training.result
    provenance = result.training.provenance
    evaluation = result.evaluation.result
    scores = result.scores[sampler].result.scores
    likelihoods = scores.marginal_likelihood or {}

    return {
        "model": run.model,
        "label": entry.label,
        "usual_sampler": entry.samplers[0],
        "configuration": result.job.configuration,
        "beta": run.parameters.get("beta"),
        "vectors": run.parameters.get("hutchinson_samples", 1),
        "seed": run.seed,
        "run_id": run.run_id,
        "latent_dim": run.latent_dim,
        "parameters": evaluation.parameters,
        "machine": f"{provenance.device} with {provenance.cores} cores",
        "training_seconds": training.seconds,
        "images": training.images,
        "steps": training.images / run.batch_size,
        "sampler": sampler,
        "extractor_hash": scores.extractor_hash,
        "likelihood_codes": next((score.codes for score in likelihoods.values()), ""),
        **{
            column.name: column.read(scores, evaluation)
            if column.read
            else scores.extra.get(column.name, {}).get("test")
            for column in columns
        },
    }


def chosen_frame(
    frame: pd.DataFrame,
    reference: pd.DataFrame | None = None,
    constant_mse: float = np.inf,
    columns: Sequence[ScoreColumn] = SCORE_COLUMNS,
) -> pd.DataFrame:
    """Averages the selected configuration of each model and sampler over its seeds.

    Args:
        frame: One row per run and sampler, from :func:`score_frame`.
        reference: The same of reference runs, which the runs are compared with.
        constant_mse: Squared error of the mean image. A model that is hardly better did not learn.
        columns: The scores of the frame.

    Returns:
        One row per model and sampler, in the order of samplers and test distance. A mean is over
        the seeds that have the score. There are these columns in addition to the means:

        * `learned`: whether the model learned with every seed; if not, its label has a dagger;
        * `<score>_spread` and `training_seconds_spread`: standard deviation over the seeds, if any
          row has several seeds;
        * `frechet_test_spread`: the same or, for a single seed, over draws of samples;
        * `noise`: twice the standard error of the test distance;
        * `reference`: the largest relative difference of a score from the reference runs;
        * `is_short`: whether a training of the frame is too short to show much;
        * `rank`: see :func:`ranks`;
        * `<score>_seeds`: number of seeds that have the score, if only some of them have it.
    """
    names = [column.name for column in columns]
    selected = select(frame)
    selected["reference"] = (
        np.nan if reference is None else _largest_differences(selected, reference, names)
    )

    groups = selected.groupby(["model", "sampler"], sort=False)
    shown_names = [*(column.name for column in columns if column.heading), "training_seconds"]
    spreads = groups[shown_names].std().dropna(axis="columns", how="all").add_suffix("_spread")
    counts = groups[names].count().add_suffix("_seeds")
    is_partial = counts.gt(0) & counts.lt(groups.size(), axis="index")
    table = (
        groups[RUN_COLUMNS]
        .first()
        .join(groups[names].agg(lambda values: values.mean()))
        .join(groups[COST_COLUMNS].agg(lambda values: values.mean(skipna=False)))
        .join(counts.loc[:, is_partial.any()])
        .join(spreads)
        .assign(
            seeds=groups.size(),
            run_ids=groups["run_id"].agg(" ".join),
            frechet_test_spread=groups["frechet_test"].std(),
            # A single seed that did not learn is enough to spoil the mean.
            learned=groups["reconstruction_mse"].max() < MAX_ERROR_RATIO * constant_mse,
        )
    )
    table.loc[~table["learned"], "label"] += " †"

    table["frechet_test_spread"] = table["frechet_test_spread"].fillna(table["frechet_error"])
    table["noise"] = _noise(table)
    if selected["reference"].notna().any():
        table["reference"] = groups["reference"].agg(lambda values: values.max(skipna=False))

    table = table.reset_index()
    table["is_short"] = bool(frame["steps"].astype(float).min() < FEW_STEPS)
    table["rank"] = ranks(table, table["sampler"])
    table["position"] = table["sampler"].map(sampler_position)
    return table.sort_values(["position", "frechet_test"], kind="stable", ignore_index=True).drop(
        columns="position"
    )


def _noise(table: pd.DataFrame) -> "pd.Series[float]":
    """Returns twice the standard error of the test distance.

    The error has two parts. One is the spread over seeds and draws of samples. The other is the
    choice of the test images, estimated from how validation and test distance differ.
    """
    # Each seed draws its own samples, so the spread over seeds includes the one over draws.
    spread = table[["frechet_test_spread", "frechet_error"]].max(axis=1).fillna(0)
    sampling_error = spread / np.sqrt(table["seeds"])

    # 1.5 median absolute deviations estimate the standard deviation of the logarithm of the ratio
    # of test to validation distance, over the models of a sampler. Both splits contribute to it.
    distances = table[["frechet_test", "frechet_val"]].clip(lower=1e-9)
    log_ratio = np.log(distances["frechet_test"]) - np.log(distances["frechet_val"])
    deviation = (log_ratio - log_ratio.groupby("sampler").transform("median")).abs()
    relative_split_error = 1.5 * deviation.groupby("sampler").transform("median") / np.sqrt(2)

    return 2 * np.hypot(relative_split_error * table["frechet_test"], sampling_error)


def _largest_differences(
    frame: pd.DataFrame, reference: pd.DataFrame, names: list[str]
) -> "pd.Series[float]":
    """Returns the largest relative difference of each row's scores from the same reference run.

    It is NaN if the reference lacks the run, and infinite if other weights of the extractor scored
    the reference. Likelihoods of other codes are not compared.
    """
    keys = ["run_id", "sampler"]
    matched = frame[keys].merge(reference, "left", keys)
    scores = frame[names]
    reference_scores = matched[names]
    larger = np.maximum(scores.abs(), reference_scores.abs())
    relative = (scores - reference_scores).abs() / larger
    other_codes = matched["likelihood_codes"] != frame["likelihood_codes"]
    relative.loc[other_codes, relative.columns.intersection(LIKELIHOODS)] = np.nan
    differences = relative.max(axis=1)

    reference_hash = matched["extractor_hash"]
    other_weights = reference_hash.notna() & (reference_hash != frame["extractor_hash"])
    return differences.mask(other_weights, np.inf)


def ranks(rows: pd.DataFrame, groups: "pd.Series[Any] | None" = None) -> "pd.Series[int]":
    """Ranks the lowest test distances of each group.

    Two distances are tied if they differ by at most the root of the sum of their squared noises.

    Args:
        rows: Rows of :func:`chosen_frame`, at least its columns `frechet_test`, `noise`,
            `frechet_test_spread`, `seeds` and `is_short`.
        groups: Group of each row; a single group if None.

    Returns:
        1 for the lowest distance and 2 for the second lowest if the lead is beyond doubt, and 0 for
        the others. If other distances are tied with the lowest, all of these have `TIED_RANK`, and
        the others 0. A group of one row is not ranked.
    """
    result = pd.Series(0, index=rows.index)
    if groups is None:
        groups = result

    for _, group in rows.dropna(subset=["frechet_test"]).groupby(groups):
        distances = group["frechet_test"]
        if len(group) == 1:
            continue
        lowest = distances.idxmin()
        noise = np.hypot(group["noise"], group.loc[lowest, "noise"])
        tied = distances - distances[lowest] <= noise
        tied[lowest] = True  # even if its noise is unknown
        if tied.sum() > 1:
            result[group.index] = tied * TIED_RANK
        elif not doubt_of_lead(group):
            dense_ranks = distances.rank(method="dense").astype(int)
            result[group.index] = dense_ranks.where(dense_ranks <= 2, 0)
    return result


def doubt_of_lead(rows: pd.DataFrame) -> str:
    """Returns why the lowest distance may be the lowest by chance; empty if it is not.

    Args:
        rows: At least two rows of one sampler, as for :func:`ranks`.
    """
    if rows["is_short"].any():
        return "trainings are short"
    if rows["seeds"].min() < 2:
        return "one seed does not show the noise of training"

    names = ["frechet_test", "frechet_test_spread", "seeds"]
    moments = rows.sort_values("frechet_test")[names].to_numpy(float).T  # (3, models)
    result = ttest_ind_from_stats(*moments[:, 0], *moments[:, 1:], equal_var=False)
    is_significant = (result.pvalue < SIGNIFICANCE).all()
    return "" if is_significant else f"a t-test at {SIGNIFICANCE:.0%} does not tell them apart"
