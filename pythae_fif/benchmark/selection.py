"""The best configuration of every model and sampler, by its validation score."""

__all__ = ["Choice", "Result", "select"]

import itertools
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pythae_fif.benchmark.plan import RunSpec
from pythae_fif.benchmark.record import ImageRecord
from pythae_fif.evaluation.scores import Scores
from pythae_fif.runs.kind import Finished

Result = Finished[RunSpec, ImageRecord]


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
    results: list[Result]
    candidates: int
    left_out: int

    @property
    def spec(self) -> RunSpec:
        """The specification of the first seed."""
        return self.results[0].spec

    def distance(self, split: str) -> float:
        """Mean Frechet distance over the seeds."""
        return statistics.fmean(r.record.scores[self.sampler].frechet[split] for r in self.results)

    def mean(self, of: Callable[[Scores], float | None]) -> float | None:
        """Mean over the seeds of a number in this sampler's scores, or None if there is none."""
        values = self._values(of)
        return statistics.fmean(values) if values else None

    def std(self, of: Callable[[Scores], float | None]) -> float | None:
        """Standard deviation over the seeds, or None for a single one."""
        values = self._values(of)
        return statistics.stdev(values) if len(values) > 1 else None

    def _values(self, of: Callable[[Scores], float | None]) -> list[float]:
        found = (of(result.record.scores[self.sampler]) for result in self.results)
        return [value for value in found if value is not None]


def select(results: Iterable[Result]) -> list[Choice]:
    """Chooses among finished runs, for each sampler by itself (appendix E.4).

    Only the configurations with the most finished seeds compete: one that failed with some seeds
    must not win by the others. The test score has no part in it.

    Args:
        results: Runs of one experiment; a sampler that a record has no scores of failed in that
            run, or is still to come.

    Returns:
        A choice for every model and sampler that has a result, in the order of first appearance.
    """
    grouped: dict[str, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        configuration = repr(sorted(result.spec.parameters.items()))
        grouped[result.spec.model][configuration].append(result)
    choices = []
    for model, configurations in grouped.items():
        runs = itertools.chain.from_iterable(configurations.values())
        for sampler in dict.fromkeys(name for run in runs for name in run.spec.samplers):
            scored = [
                [run for run in group if sampler in run.record.scores]
                for group in configurations.values()
            ]
            seeds = max(map(len, scored))
            if seeds == 0:
                continue
            complete = [group for group in scored if len(group) == seeds]
            fewer = sum(0 < len(group) < seeds for group in scored)
            possible = [Choice(model, sampler, g, len(complete), fewer) for g in complete]
            choices.append(min(possible, key=lambda choice: choice.distance("val")))
    return choices
