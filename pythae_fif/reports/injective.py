"""Table 2 of the paper, injective flows under one wall clock: measured numbers beside published."""

__all__ = ["table2"]

from pythae_fif.benchmark.config import Experiment, length_of, parse_duration
from pythae_fif.benchmark.selection import Choice, Result
from pythae_fif.reports.comparison import (
    failed_notes,
    headings_of,
    measured_rows,
    name_cell,
    number_cells,
    rank_column,
)
from pythae_fif.reports.grid import DASH, Cell, Grid
from pythae_fif.reports.published import load_published
from pythae_fif.reports.table import SAMPLER_LABELS, Report


def table2(experiment: Experiment, results: list[Result], report: Report) -> Grid | None:
    """Table 2: injective flows under one wall clock, with their sizes.

    Args:
        experiment: What was asked for.
        results: Specification and record of its finished runs.
        report: Its table.

    Returns:
        A row for every row of table 2; the published columns are there for its data set alone.
        None where none of the flows that FIF is compared with was measured.
    """
    published = load_published(2)
    chosen = {(c.model, c.sampler): c for c in report.choices}
    if not any((row[0].at["model"], "normal") in chosen for row in published.rows[:2]):
        return None
    beside = experiment.dataset == published.rows[0][0].at["dataset"]
    measured = measured_rows(report)
    reasons = _not_table2(experiment, results)
    distance, score = headings_of(report, reasons)
    samplers = ("normal", "gmm")
    rows = []
    for line in published.rows:
        model = line[0].at["model"]
        shown = [measured.get((model, sampler)) for sampler in samplers]
        cells = [name_cell(line[0].row, *shown), *_size(chosen.get((model, "normal")))]
        if beside:
            cells.insert(3, Cell(f"{line[0].text}M", line[0].value))
        for sampler, row in zip(samplers, shown, strict=True):
            fid, inception = (
                published.find(model=model, sampler=sampler, metric=metric)[0]
                for metric in ("FID", "IS")
            )
            pairs = number_cells(row, fid, inception, same=False)
            cells += pairs if beside else pairs[::2]
        rows.append(cells)
    headings = ["Model", "d", "# parameters", "images seen"]
    if beside:
        headings.insert(3, "# parameters published")
    first = len(headings)
    for sampler in samplers:
        label = SAMPLER_LABELS[sampler]
        pairs_of_headings = (f"{distance} ↓", "FID published ↓", f"{score} ↑", "IS published ↑")
        headings += [f"{label}: {h}" for h in pairs_of_headings[:: 1 if beside else 2]]
    width = (len(headings) - first) // 2
    for column in (first, first + width):
        rank_column(rows, column, ["all"] * len(rows))
        if beside:
            rank_column(rows, column + 1, ["all"] * len(rows))
    return Grid(
        title=f"Table 2: {experiment.dataset}, {length_of(experiment.settings)}",
        headings=headings,
        align="l" + "r" * (len(headings) - 1),
        rows=rows,
        notes=[
            f"Published: {published.source}, CelebA, {published.note}; latent dimensions 512, 192 "
            "and 64.",
            "Not the published quantity: " + ", ".join(reasons) + ". Only the order of the models "
            "within a column can be compared.",
            *failed_notes(rows),
        ],
    )


def _size(choice: Choice | None) -> list[Cell]:
    """Latent dimension, millions of parameters and images seen in training, of the first seed."""
    if choice is None:
        return [Cell(DASH)] * 3
    record = choice.results[0][1]
    images = record["training"].get("images")
    return [
        Cell(str(choice.spec.latent_dim), choice.spec.latent_dim),
        Cell(f"{record['parameters'] / 1e6:.2f}M", record["parameters"]),
        Cell(DASH) if images is None else Cell(f"{images:,}", images),
    ]


def _not_table2(experiment: Experiment, results: list[Result]) -> list[str]:
    """Why the measured numbers are another quantity than table 2's: always the programs."""
    reasons = ["DNF and Trumpet are our programs, not their authors'"]
    for _, record in results:
        scores = record["scores"].values()
        reasons += [f"extractor `{s['extractor']}`" for s in scores]
        reasons += [f"{s['num_samples']:,} samples" for s in scores]
        reasons.append(f"{record['provenance']['device']} instead of an NVIDIA A40")
        if record["data"]["partial"]:
            reasons.append("partial data")
    if experiment.dataset != "celeba":
        reasons.append(f"data set {experiment.dataset}")
    wall_clock = experiment.settings.wall_clock
    if wall_clock is None or parse_duration(wall_clock) != parse_duration("5h"):
        reasons.append(f"{length_of(experiment.settings)} instead of five hours")
    if experiment.image_size not in (None, 64):
        reasons.append(f"image size {experiment.image_size}")
    return list(dict.fromkeys(reasons))
