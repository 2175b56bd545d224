"""Compares arms of paired trainings: differences, their noise, and tables.

All differences are of log-densities of the same test points, with the same seeds.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t as student_t
from scipy.stats import ttest_1samp

from pythae_fif.evaluation.score_types import DASH, number
from pythae_fif.reports.tables import Table
from studies.paired.training import PRIORS, PairedResult, PairedScores, Results

PRIOR_LABELS = {"mixture": "mixture", "normal": "N"}
CONFIDENCE = 0.9


class Difference(NamedTuple):
    """The mean difference of two arms' likelihoods, in nats.

    Attributes:
        mean: Mean over seeds and test points.
        seeds: Number of seeds for which neither arm failed.
        failures: Number of failed runs of each arm.
        seed_error: Standard error over seeds; NaN for one seed.
        point_error: Standard error over test points, of differences averaged over seeds.
        p: Two-sided p-value of a paired t-test over seeds; NaN for one seed.
    """

    mean: float
    seeds: int
    failures: tuple[int, int]
    seed_error: float
    point_error: float
    p: float

    @property
    def margin(self) -> float:
        """Half the length of the 90 % interval, from the noise of seeds and of test points."""
        quantile = student_t.ppf((1 + CONFIDENCE) / 2, self._freedom)
        return float(quantile) * self._standard_error

    @property
    def p_with_points(self) -> float:
        """Two-sided p-value of a t-test with the noise of seeds and of test points."""
        return float(2 * student_t.sf(abs(self.mean) / self._standard_error, self._freedom))

    @property
    def _standard_error(self) -> float:
        return math.hypot(self.seed_error, self.point_error)

    @property
    def _freedom(self) -> float:
        """Satterthwaite's degrees of freedom, with those of the points taken as infinite."""
        return (self.seeds - 1) * self._standard_error**4 / self.seed_error**4


def compare(
    first: Mapping[int, PairedResult], second: Mapping[int, PairedResult], prior: str
) -> Difference | None:
    """Compares two arms' likelihoods, paired over seeds and test points.

    Args:
        first: Results of the arm that is compared, by seed.
        second: Results of the other arm.
        prior: One of `PRIORS`.

    Returns:
        The first arm's likelihood minus the second's; None without a common seed.
    """
    valid_scores = []
    failures = []
    for results in (first, second):
        scores = {seed: result.valid_scores for seed, result in results.items()}
        valid_scores.append(
            {
                seed: np.array(item.point_nats[prior])
                for seed, item in scores.items()
                if item is not None
            }
        )
        common_seeds = first.keys() & second.keys()
        failures.append(sum(scores[seed] is None for seed in common_seeds))

    difference = paired_difference(*valid_scores)
    return difference and difference._replace(failures=(failures[0], failures[1]))


def paired_difference(
    first: Mapping[int, np.ndarray], second: Mapping[int, np.ndarray]
) -> Difference | None:
    """Compares the likelihoods of test points of two models, paired over seeds and points.

    Args:
        first: Seed -> likelihoods (N,) of the model that is compared.
        second: The same of the other model.

    Returns:
        The first model's likelihood minus the second's; None without a common seed.
    """
    differences = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
    if not differences:
        return None

    by_point = np.mean(differences, 0)
    by_seed = np.mean(differences, 1)
    seeds = len(by_seed)
    has_spread = seeds > 1
    return Difference(
        mean=float(by_seed.mean()),
        seeds=seeds,
        failures=(0, 0),
        seed_error=float(by_seed.std(ddof=1)) / math.sqrt(seeds) if has_spread else math.nan,
        point_error=float(by_point.std(ddof=1)) / math.sqrt(len(by_point)),
        p=float(ttest_1samp(by_seed, 0).pvalue) if has_spread else math.nan,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values for their number by Holm's method; a NaN counts as 1."""
    values = np.nan_to_num(np.asarray(p_values, float), nan=1.0)
    order = np.argsort(values)
    factors = np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.maximum.accumulate(factors * values[order]).clip(max=1)
    return adjusted.tolist()


def level_table(results: Results, datasets: Iterable[str], labels: Mapping[str, str]) -> Table:
    """Makes a table of all arms: means and standard deviations over seeds.

    Args:
        results: The results.
        datasets: Names of the data sets.
        labels: Arm -> its label.
    """
    lines = []
    for dataset in datasets:
        for arm, label in labels.items():
            arm_results = results.get(dataset, {}).get(arm, {}).values()
            valid_scores = [result.valid_scores for result in arm_results]
            scores = [item for item in valid_scores if item is not None]
            if scores:
                failures = len(arm_results) - len(scores)
                cells = _level_cells(scores) | {
                    "seeds (failed)": f"{len(arm_results)} ({failures})"
                }
                lines.append({"data": dataset, "arm": label, **cells})

    return Table(
        "All arms",
        pd.DataFrame(lines),
        notes=[
            "± is the standard deviation over seeds. Failed runs are left out.",
            f"Data: {'; '.join(_describe_data(results))}.",
        ],
    )


def _describe_data(results: Results) -> list[str]:
    """Returns the descriptions of the data of all results."""
    by_arm = [by_seed for arms in results.values() for by_seed in arms.values()]
    return sorted({result.data for by_seed in by_arm for result in by_seed.values()})


def _level_cells(scores: Sequence[PairedScores]) -> dict[str, str]:
    cells = {}
    for prior in PRIORS:
        cells[f"nats, {PRIOR_LABELS[prior]} ↑"] = format_spread(
            [item.nats[prior] for item in scores]
        )
    for prior in PRIORS:
        cells[f"distance, {PRIOR_LABELS[prior]} ↓"] = format_spread(
            [item.distance[prior] for item in scores]
        )
    cells["squared error ↓"] = format_spread([item.mse for item in scores])
    cells["tr f'g'/d"] = format_spread([item.trace for item in scores])
    cells["beta"] = format_spread([item.beta for item in scores if item.beta is not None])
    cells["training, CPU s"] = f"{np.mean([item.train_seconds for item in scores]):.0f}"
    return cells


def format_spread(values: list[float]) -> str:
    """Formats mean and standard deviation over seeds; a dash if there are no values."""
    if not values:
        return DASH
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return number(float(np.mean(values)), deviation)


def format_p(p: float) -> str:
    """Formats a p-value with two digits; tiny ones are as inexact as their assumptions."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def difference_cells(difference: Difference | None) -> dict[str, str]:
    """Returns the cells of a difference, by heading."""
    if difference is None:
        headings = ("nats", "± seeds", "± points", "90 %", "p", "pairs", "failed")
        return dict.fromkeys(headings, DASH)

    low = difference.mean - difference.margin
    high = difference.mean + difference.margin
    cells = {
        "nats": f"{difference.mean:.3f}",
        "± seeds": f"{difference.seed_error:.3f}",
        "± points": f"{difference.point_error:.3f}",
        "90 %": f"{low:.3f} to {high:.3f}",
        "p": format_p(difference.p),
        "pairs": str(difference.seeds),
        "failed": "{} + {}".format(*difference.failures),
    }
    return {heading: DASH if "nan" in text else text for heading, text in cells.items()}


def missing_seeds(
    results: Results, arms: Sequence[str], seeds: Mapping[str, Sequence[int]]
) -> list[str]:
    """Describes the data sets that are not finished, such as 'power 3 of 10 seeds'.

    Args:
        results: The results.
        arms: Names of the arms.
        seeds: Data set -> the seeds that its criterion needs.
    """
    missing = []
    for dataset, dataset_seeds in seeds.items():
        finished = set(dataset_seeds)
        for arm in arms:
            finished &= results.get(dataset, {}).get(arm, {}).keys()
        if len(finished) < len(dataset_seeds):
            missing.append(f"{dataset} {len(finished)} of {len(dataset_seeds)} seeds")
    return missing


def restrict(results: Results, seeds: Mapping[str, Sequence[int]]) -> Results:
    """Returns the results of some seeds.

    Args:
        results: The results.
        seeds: Data set -> its seeds.
    """
    return {
        dataset: {
            arm: {seed: result for seed, result in by_seed.items() if seed in seeds[dataset]}
            for arm, by_seed in arms.items()
        }
        for dataset, arms in results.items()
    }
