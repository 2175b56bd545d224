"""Of a model's runs, the configuration of lowest validation distance, for each sampler."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from pythae_fif.benchmark.record import ImageResult


@dataclass(frozen=True)
class Choice:
    """A model with a sampler, and its configuration of lowest mean validation distance.

    Attributes:
        model, sampler: Names.
        results: Of the chosen configuration, one a seed.
        candidates: Number of configurations that it was chosen from.
    """

    model: str
    sampler: str
    results: list[ImageResult]
    candidates: int


def select(results: Iterable[ImageResult]) -> list[Choice]:
    """Chooses among finished runs, for each sampler by itself (appendix E.4).

    Only the configurations with the most finished seeds compete: one that failed with some seeds
    must not win by the others. The test score has no part in it.

    Args:
        results: Runs of one experiment.

    Returns:
        A choice for every model and sampler that has a result, in the order of first appearance.
    """
    grouped: dict[str, dict[str, dict[str, list[ImageResult]]]] = {}
    for result in results:
        configuration = repr(sorted(result.spec.parameters.items()))
        samplers = grouped.setdefault(result.spec.model, {})
        for sampler in result.scores:
            runs = samplers.setdefault(sampler, defaultdict(list))[configuration]
            runs.append(result)
    choices = []
    for model, samplers in grouped.items():
        for sampler, configurations in samplers.items():
            seeds = max(map(len, configurations.values()))
            complete = [runs for runs in configurations.values() if len(runs) == seeds]
            best = min(complete, key=lambda runs: _distance(runs, sampler))
            choices.append(Choice(model, sampler, best, len(complete)))
    return choices


def _distance(runs: Iterable[ImageResult], sampler: str) -> float:
    """Mean Frechet distance to validation data; infinite if one of them is not finite."""
    mean = statistics.fmean(run.scores[sampler].result.frechet["val"] for run in runs)
    return mean if math.isfinite(mean) else math.inf
