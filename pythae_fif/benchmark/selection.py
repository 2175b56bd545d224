"""Of a model's runs, the configuration of lowest validation distance, for each sampler."""

__all__ = ["Choice", "select"]

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pythae_fif.benchmark.image_run import ImageSpec
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.evaluation.scores import Scores


@dataclass(frozen=True)
class Choice:
    """A model with a sampler, and its configuration of lowest mean validation distance.

    Attributes:
        model, sampler: Names.
        results: Of the chosen configuration, one a seed.
        candidates: Number of configurations that it was chosen from.
        left_out: Number of further ones, which have fewer seeds than these.
    """

    model: str
    sampler: str
    results: list[ImageResult]
    candidates: int
    left_out: int

    @property
    def spec(self) -> ImageSpec:
        """The specification of the first seed."""
        return self.results[0].spec

    def values(self, of: Callable[[Scores], float | None]) -> list[float]:
        """A number in this sampler's scores, one a seed that has it."""
        found = (of(result.scores[self.sampler].result) for result in self.results)
        return [value for value in found if value is not None]

    def distance(self, split: str) -> float:
        """Mean Frechet distance over the seeds; infinite if one of them is not finite."""
        mean = statistics.fmean(self.values(lambda scores: scores.frechet[split]))
        return mean if math.isfinite(mean) else math.inf


def select(results: Iterable[ImageResult]) -> list[Choice]:
    """Chooses among finished runs, for each sampler by itself (appendix E.4).

    Only the configurations with the most finished seeds compete: one that failed with some seeds
    must not win by the others. The test score has no part in it.

    Args:
        results: Runs of one experiment.

    Returns:
        A choice for every model and sampler that has a result, in the order of first appearance.
    """
    grouped: dict[str, dict[str, list[ImageResult]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        configuration = repr(sorted(result.spec.parameters.items()))
        grouped[result.spec.model][configuration].append(result)
    choices = []
    for model, configurations in grouped.items():
        runs = itertools.chain.from_iterable(configurations.values())
        for sampler in dict.fromkeys(name for run in runs for name in run.scores):
            scored = [
                [run for run in group if sampler in run.scores] for group in configurations.values()
            ]
            seeds = max(map(len, scored))
            complete = [group for group in scored if len(group) == seeds]
            fewer = sum(0 < len(group) < seeds for group in scored)
            possible = [Choice(model, sampler, g, len(complete), fewer) for g in complete]
            choices.append(min(possible, key=lambda choice: choice.distance("val")))
    return choices
