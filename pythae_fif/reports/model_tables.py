"""What a report says of its models beside their scores: configurations, codes and cost."""

__all__ = ["code_grid", "configuration_grid", "cost_grid"]

import statistics
from collections.abc import Iterable, Sequence

from pythae_fif.benchmark.model_entry import read_model_entry
from pythae_fif.benchmark.record import ImageRecord
from pythae_fif.benchmark.selection import Choice, Result
from pythae_fif.evaluation.codes import CodeScores
from pythae_fif.reports.grid import DASH, Cell, Grid, measured, number, spread
from pythae_fif.reports.report import Report
from pythae_fif.sampling import SAMPLERS

THREE = ("normal", "gaussian", "gmm")
"""The samplers that the table of codes compares."""
LEAST_GAP = 0.01  # between prior and mixture, of the prior's distance: a share of less is noise


def configuration_grid(report: Report) -> Grid | None:
    """A row a configuration of FIF, with the distances of all samplers: figure 10 as numbers.

    Returns:
        None if FIF has not several configurations.
    """
    grouped: dict[tuple[int, float, str], list[Result]] = {}
    for result in report.results:
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
        cells = [spread([of.frechet["test"] for of in column]) for column in scores]
        rows.append([Cell(configuration), Cell(str(len(found))), spread(codes), *cells])
    return Grid(
        title="FIF's configurations (figure 10)",
        headings=[
            "configuration", "seeds", "KL, nats ↓", *(f"{SAMPLERS[s].label} ↓" for s in samplers),
        ],
        align="lrr" + "r" * len(samplers),
        rows=rows,
        notes=[
            "Test distances of samples, and the divergence of the codes' Gaussian from the prior: "
            "means over the seeds and their standard deviation. They choose nothing: the table of "
            "scores takes the configuration of lowest validation distance."
        ],
    )  # fmt: skip


def code_grid(report: Report) -> Grid | None:
    """A row a model whose records know its codes, all of the configuration chosen for the prior.

    Returns:
        None if no model's codes are known.
    """
    rows = []
    for choice in report.choices:
        codes = [codes for result in choice.results if (codes := result.record.codes)]
        if choice.sampler == "normal" and codes:
            rows.append(_codes(choice, codes))
    if not rows:
        return None
    names = [SAMPLERS[name].label for name in THREE]
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
            f"between prior and mixture the Gaussian closes, if that is above {LEAST_GAP:.0%}.",
        ],
    )  # fmt: skip


def _codes(choice: Choice, codes: Sequence[CodeScores]) -> list[Cell]:
    distances = []
    for name in THREE:
        scores = [result.record.scores.get(name) for result in choice.results]
        known = [found.frechet["test"] for found in scores if found is not None]
        distances.append(statistics.fmean(known) if known else None)
    prior, gaussian, mixture = distances
    share = None
    if prior is not None and gaussian is not None and mixture is not None:
        gap = prior - mixture
        share = (prior - gaussian) / gap if gap > LEAST_GAP * prior else None
    return [
        Cell(read_model_entry(choice.model).label),
        number(statistics.fmean(of.divergence for of in codes)),
        number(statistics.fmean(of.total_correlation for of in codes)),
        *map(number, distances),
        Cell(DASH) if share is None else measured(share, ".0%"),
    ]


def cost_grid(report: Report) -> Grid:
    """A row a model; seconds, speed and memory are means over its finished runs."""
    models: dict[str, list[ImageRecord]] = {}
    for result in report.results:
        models.setdefault(result.spec.model, []).append(result.record)
    machines = dict.fromkeys(
        f"{p.machine}; threads of a run: {p.threads or DASH}"
        for p in (result.record.provenance for result in report.results)
    )
    things = report.experiment.things
    return Grid(
        title="Cost",
        headings=[
            "Model",
            "parameters",
            "runs",
            "train s",
            f"{things}/s",
            "peak memory MiB",
            "all h",
        ],
        align="lrrrrrr",
        rows=[_cost(name, records) for name, records in models.items()],
        notes=[
            "Means over the finished runs of a model: seconds of training without sampling and "
            f"scoring, training {things} a second, and the largest memory of the process (of the "
            "GPU where there is one). `all h` is the wall-clock time of these runs, with sampling "
            "and scoring, without what attempts took that were cut off before their first score.",
            f"On {', '.join(machines)}; what else ran on the machine at the time is not known.",
        ],
    )


def _cost(name: str, records: list[ImageRecord]) -> list[Cell]:
    training = [record.training for record in records]
    provenance = [record.provenance for record in records]
    later = [list(record.later_provenance.values()) for record in records]
    attempts = [
        {(made.started, made.seconds): made for made in (first, *more)}
        for first, more in zip(provenance, later, strict=True)
    ]
    hours = sum(made.seconds or 0 for of in attempts for made in of.values()) / 3600
    return [
        Cell(read_model_entry(name).label),
        measured(records[0].parameters, ",d"),
        measured(len(records), "d"),
        _mean(t.seconds for t in training),
        _mean(t.images_per_second for t in training),
        _mean(p.peak_gpu_memory_mb or p.peak_memory_mb for p in provenance),
        measured(hours or None, ".2f"),
    ]


def _mean(values: Iterable[float | None]) -> Cell:
    known = [value for value in values if value is not None]
    return measured(statistics.fmean(known) if known else None, ",.0f")
