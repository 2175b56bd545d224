"""How Gaussian every model's codes are, and what that costs its samples."""

__all__ = ["code_grid"]

import statistics
from collections.abc import Sequence

from pythae_fif.benchmark.model_entry import read_model_entry
from pythae_fif.benchmark.selection import Choice
from pythae_fif.evaluation.codes import CodeScores
from pythae_fif.reports.grid import DASH, Cell, Grid, measured, number
from pythae_fif.reports.report import SAMPLER_LABELS

SAMPLERS = ("normal", "gaussian", "gmm")


def code_grid(choices: Sequence[Choice]) -> Grid | None:
    """A row a model whose records know its codes, all of the configuration chosen for the prior.

    Args:
        choices: Of a report.

    Returns:
        None if no model's codes are known.
    """
    rows = []
    for choice in choices:
        codes = [codes for result in choice.results if (codes := result.record.codes)]
        if choice.sampler == "normal" and codes:
            rows.append(_row(choice, codes))
    if not rows:
        return None
    names = [SAMPLER_LABELS[name] for name in SAMPLERS]
    return Grid(
        title="Codes",
        headings=[
            "Model", "KL, nats ↓", "of it correlation", *(f"{name} ↓" for name in names),
            "closed by two moments",
        ],
        align="lrrrrrr",
        rows=rows,
        notes=[
            "Of the configuration chosen for the prior, means over its seeds. KL: divergence from "
            "the prior of the Gaussian that has the mean and covariance of the training codes; "
            "correlation is what their marginals leave of it. Then test distances of samples from "
            "the prior (N), from that Gaussian, and from a mixture; last, how much of the gap "
            "between prior and mixture the Gaussian closes.",
        ],
    )  # fmt: skip


def _row(choice: Choice, codes: Sequence[CodeScores]) -> list[Cell]:
    distances = []
    for name in SAMPLERS:
        scores = [result.record.scores.get(name) for result in choice.results]
        known = [found.frechet["test"] for found in scores if found is not None]
        distances.append(statistics.fmean(known) if known else None)
    prior, gaussian, mixture = distances
    share = None
    if prior is not None and gaussian is not None and mixture is not None and mixture < prior:
        share = (prior - gaussian) / (prior - mixture)
    return [
        Cell(read_model_entry(choice.model).label),
        number(statistics.fmean(of.divergence for of in codes)),
        number(statistics.fmean(of.total_correlation for of in codes)),
        *map(number, distances),
        Cell(DASH) if share is None else measured(share, ".0%"),
    ]
