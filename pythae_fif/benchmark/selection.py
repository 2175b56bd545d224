"""The best configuration of every model and sampler, by its validation score."""

__all__ = ["Choice", "select"]

import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pythae_fif.benchmark.plan import RunSpec

Result = tuple[RunSpec, dict[str, Any]]


@dataclass(frozen=True)
class Choice:
    """A model with a sampler, and its configuration of lowest mean validation distance.

    Attributes:
        model, sampler: Names.
        results: Specification and record of the chosen configuration, one a seed.
        candidates: Number of configurations that it was chosen from.
    """

    model: str
    sampler: str
    results: list[Result]
    candidates: int

    @property
    def spec(self) -> RunSpec:
        """The specification of the first seed."""
        return self.results[0][0]

    def mean(self, *path: str) -> float | None:
        """Mean over the seeds of a number in this sampler's scores, or None if there is none."""
        values = self._values(path)
        return statistics.fmean(values) if values else None

    def std(self, *path: str) -> float | None:
        """Standard deviation over the seeds, or None for a single one."""
        values = self._values(path)
        return statistics.stdev(values) if len(values) > 1 else None

    def _values(self, path: tuple[str, ...]) -> list[float]:
        found = []
        for _, record in self.results:
            value: Any = record["scores"][self.sampler]
            for key in path:
                value = None if value is None else value.get(key)
            if value is not None:
                found.append(value)
        return found


def select(results: Iterable[Result]) -> list[Choice]:
    """Chooses among finished runs, for each sampler by itself (appendix E.4).

    Only the configurations with the most finished seeds compete: one that failed with some seeds
    must not win by the others. The test score has no part in it.

    Args:
        results: Specification and record of finished runs of one experiment; a sampler that a
            record has no scores of failed in that run.

    Returns:
        A choice for every model and sampler that has a result, in the order of first appearance.
    """
    grouped: dict[str, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for spec, record in results:
        grouped[spec.model][repr(sorted(spec.parameters.items()))].append((spec, record))
    choices = []
    for model, configurations in grouped.items():
        runs = itertools.chain.from_iterable(configurations.values())
        for sampler in dict.fromkeys(name for spec, _ in runs for name in spec.samplers):
            scored = [
                [(spec, record) for spec, record in group if sampler in record["scores"]]
                for group in configurations.values()
            ]
            seeds = max(map(len, scored))
            if seeds == 0:
                continue
            complete = [group for group in scored if len(group) == seeds]

            def validation(group: list[Result], sampler: str = sampler) -> float:
                return statistics.fmean(r["scores"][sampler]["frechet"]["val"] for _, r in group)

            best = min(complete, key=validation)
            choices.append(Choice(model, sampler, best, len(complete)))
    return choices
