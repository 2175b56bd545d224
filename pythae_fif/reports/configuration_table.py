"""What every configuration of FIF reached: figure 10 as numbers."""

__all__ = ["configuration_grid"]

import statistics
from collections.abc import Sequence

from pythae_fif.benchmark.selection import Result
from pythae_fif.reports.grid import Cell, Grid, number
from pythae_fif.reports.report import SAMPLER_LABELS


def configuration_grid(results: Sequence[Result]) -> Grid | None:
    """A row a configuration of FIF, with the distances of all samplers.

    Args:
        results: The finished runs of a report.

    Returns:
        None if FIF has not several configurations.
    """
    grouped: dict[tuple[int, float, str], list[Result]] = {}
    for result in results:
        if result.spec.model == "fif":
            given = result.spec.parameters
            order = given.get("hutchinson_samples", 1), given.get("beta", 0.0)
            grouped.setdefault((*order, result.spec.configuration), []).append(result)
    if len(grouped) < 2:
        return None
    of_fif = [result for found in grouped.values() for result in found]
    samplers = list(dict.fromkeys(name for r in of_fif for name in r.record.scores))
    rows = []
    for (_, _, configuration), found in sorted(grouped.items()):
        codes = [codes.divergence for r in found if (codes := r.record.codes)]
        scores = [[s[name] for r in found if name in (s := r.record.scores)] for name in samplers]
        cells = [_mean([of.frechet["test"] for of in column]) for column in scores]
        rows.append([Cell(configuration), Cell(str(len(found))), _mean(codes), *cells])
    return Grid(
        title="FIF's configurations (figure 10)",
        headings=[
            "configuration", "seeds", "KL, nats ↓", *(f"{SAMPLER_LABELS[s]} ↓" for s in samplers),
        ],
        align="lrr" + "r" * len(samplers),
        rows=rows,
        notes=[
            "Test distances of samples, and the divergence of the codes' Gaussian from the prior: "
            "means over the seeds and their standard deviation. They choose nothing: the table of "
            "scores takes the configuration of lowest validation distance."
        ],
    )  # fmt: skip


def _mean(values: Sequence[float]) -> Cell:
    if not values:
        return number(None)
    return number(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)
