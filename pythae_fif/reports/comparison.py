"""Measured numbers beside published ones: the paper's tables 8 and 3 for one experiment.

A measured number never stands under a published heading. Where it is another quantity than the
published one, its column bears its own name and no difference is formed.
"""

__all__ = [
    "failed_notes", "headings_of", "measured_rows", "name_cell", "not_comparable", "number_cells",
    "rank_column", "table3", "table8",
]  # fmt: skip

from collections.abc import Iterable

from pythae_fif.benchmark.config import Experiment, load_experiment
from pythae_fif.benchmark.selection import Result
from pythae_fif.reports.grid import DASH, Cell, Grid, number, ranks
from pythae_fif.reports.published import PublishedCell, load_published
from pythae_fif.reports.table import SAMPLER_LABELS, Report, Row
from pythae_fif.sampling import FITTED

INCEPTION = ("inception", "tf-inception")
PUBLISHED_SAMPLES = 10_000
Measured = dict[tuple[str, str], Row]
"""Model and sampler -> row of the experiment's table."""


def not_comparable(experiment: Experiment, results: Iterable[Result]) -> list[str]:
    """Why the measured numbers are another quantity than table 8's; empty if they are the same.

    The same quantity needs Inception features, 10,000 samples, the published training (profile
    `paper` as the data set's YAML file has it), the whole data set, its image size and the
    published latent dimension.
    """
    shipped = load_experiment(experiment.dataset, None, {})
    published = load_published(8).find(dataset=experiment.dataset, arch=experiment.arch)
    reasons = []
    for _, record in results:
        scores = record["scores"].values()
        reasons += [f"extractor `{s['extractor']}`" for s in scores]
        reasons += [f"{s['num_samples']:,} samples" for s in scores]
        if record["data"]["partial"]:
            reasons.append("partial data")
    if experiment.profile != "paper":
        reasons.append(f"profile `{experiment.profile}`")
    elif experiment.settings != shipped.profiles.get("paper"):
        reasons.append("a profile `paper` of your own")
    if experiment.image_size not in (None, shipped.image_size):
        reasons.append(f"image size {experiment.image_size}")
    if published and str(experiment.latent_dim) != published[0].at["latent_dim"]:
        reasons.append(f"latent dimension {experiment.latent_dim}")
    same = [*(f"extractor `{name}`" for name in INCEPTION), f"{PUBLISHED_SAMPLES:,} samples"]
    return [reason for reason in dict.fromkeys(reasons) if reason not in same]


def measured_rows(report: Report) -> Measured:
    return {
        (choice.model, choice.sampler): row
        for choice, row in zip(report.choices, report.rows, strict=True)
    }


def headings_of(report: Report, reasons: list[str]) -> tuple[str, str]:
    """Headings of a measured distance and score."""
    samples = {
        record["scores"][choice.sampler]["num_samples"]
        for choice in report.choices
        for _, record in choice.results
    }
    if not reasons:
        return "FID measured", "IS measured"
    count = ", ".join(f"{n:,} samples" for n in sorted(samples))
    score = f"{report.score}, {count}" if report.score else "score"
    return f"{report.distance}, {count}", score


def name_cell(label: str, *rows: Row | None) -> Cell:
    """A model's name, with a dagger if one of its measured rows is of a run that did not learn."""
    failed = any(row is not None and not row.learned for row in rows)
    return Cell(f"{label} †" if failed else label)


def failed_notes(rows: list[list[Cell]]) -> list[str]:
    dagger = any(row[0].text.endswith("†") for row in rows)
    return ["† did not learn: see the table of scores."] if dagger else []


def _note(reasons: list[str]) -> str:
    if reasons:
        return (
            "No difference is formed, for the measured numbers are not the published quantity: "
            + ", ".join(reasons)
            + ". Only the order of the models within a column can be compared."
        )
    return (
        "Differences are measured minus published; none for 2-stage and MAF, whose fit to the "
        "codes is not the published one."
    )


def _pair(
    measured: float | None, std: float | None, published: PublishedCell | None, same: bool
) -> list[Cell]:
    """A measured and a published number and, where they are the same quantity, the difference."""
    cells = [number(measured, std)]
    cells.append(Cell(DASH) if published is None else Cell(published.text, published.value))
    if same:
        cells.append(_difference(measured, published))
    return cells


def _difference(measured: float | None, published: PublishedCell | None) -> Cell:
    """Measured minus published, to the one decimal place that is published."""
    if measured is None or published is None or published.at["sampler"] in FITTED:
        return Cell(DASH)
    difference = measured - published.value
    return Cell(f"{difference:+.1f}", difference)


def rank_column(rows: list[list[Cell]], column: int, groups: list[str]) -> None:
    """Marks best and second best of the numbers of a column, group by group; no group, no mark."""
    found = ranks(
        (index, group, row[column].value)  # type: ignore[misc]
        for index, (row, group) in enumerate(zip(rows, groups, strict=True))
        if group and row[column].value is not None
    )
    for index, rank in found.items():
        cell = rows[index][column]
        rows[index][column] = Cell(cell.text, cell.value, rank)


def table8(experiment: Experiment, report: Report, reasons: list[str]) -> Grid | None:
    """The columns of table 8 that are this data set's and architecture's, measured ones beside.

    Args:
        experiment: What was asked for.
        report: Its table.
        reasons: Of :func:`not_comparable`.

    Returns:
        A row for every row of table 8, then one for every other model and sampler measured; None
        where the paper has no column for the data set and architecture.
    """
    where = {"dataset": experiment.dataset, "arch": experiment.arch}
    distances = load_published(8).find(**where, metric="FID")
    scores = load_published(8).find(**where, metric="IS")
    if not distances:
        return None
    same = not reasons
    measured = measured_rows(report)
    rows, groups, published_groups = [], [], []
    for fid, inception in zip(distances, scores, strict=True):
        row = measured.pop((fid.at["model"], fid.at["sampler"]), None)
        sampler = SAMPLER_LABELS[fid.at["sampler"]]
        name = fid.row if fid.compared else f"{fid.row} (not compared)"
        rows.append([name_cell(name, row), Cell(sampler), *number_cells(row, fid, inception, same)])
        groups.append(sampler)
        published_groups.append(sampler if fid.compared else "")
    for row in measured.values():
        rows.append(
            [name_cell(row.model, row), Cell(row.sampler), *number_cells(row, None, None, same)]
        )
        groups.append(row.sampler)
        published_groups.append("")
    rank_column(rows, 2, groups)
    rank_column(rows, 3, published_groups)
    distance, score = headings_of(report, reasons)
    difference = ["difference"] if same else []
    return Grid(
        title=f"Table 8: {experiment.dataset}, {experiment.arch}",
        headings=["Model", "Sampler", f"{distance} ↓", "FID published ↓", *difference,
                  f"{score} ↑", "IS published ↑", *difference],
        align="ll" + "r" * (6 if same else 4),
        rows=rows,
        notes=[
            f"Published: {load_published(8).source}; all rows but FIF's are Chadebec et al. "
            f"2022's; {PUBLISHED_SAMPLES:,} samples, Inception features, test split. VAEGAN is "
            "outside the published comparison.",
            _note(reasons),
            "Bold is the lowest distance of a column and sampler, underlined the second; "
            f"{DASH} was not measured, or not published.",
            *failed_notes(rows),
        ],
        groups=frozenset(i for i in range(1, len(rows)) if rows[i][0].text != rows[i - 1][0].text),
    )  # fmt: skip


def number_cells(
    row: Row | None, fid: PublishedCell | None, inception: PublishedCell | None, same: bool
) -> list[Cell]:
    if row is None:
        return [*_pair(None, None, fid, same), *_pair(None, None, inception, same)]
    return [
        *_pair(row.frechet_test, row.frechet_test_std, fid, same),
        *_pair(row.score, row.score_std, inception, same),
    ]


def table3(experiment: Experiment, report: Report, reasons: list[str]) -> Grid | None:
    """Table 3's summary: models of several variants merged to their best, two samplers.

    The paper prints it for CelebA; for the other data sets its published columns are table 8's,
    merged in the same way.

    Args:
        experiment: What was asked for.
        report: Its table.
        reasons: Of :func:`not_comparable`.

    Returns:
        A row for every row of table 3; None where table 8 has no column for the experiment.
    """
    where = {"dataset": experiment.dataset, "arch": experiment.arch}
    if not load_published(8).find(**where):
        return None
    same = not reasons
    measured = measured_rows(report)
    rows = []
    for line in load_published(3).rows:
        variants = line[0].at["model"].split()
        cells: list[Cell] = []
        shown = []
        for sampler in ("normal", "gmm"):
            fid, inception = _published_best(variants, sampler, where)
            found = [measured[m, sampler] for m in variants if (m, sampler) in measured]
            best = min(found, key=lambda row: row.frechet_test, default=None)
            shown.append(best)
            cells += number_cells(best, fid, inception, same)
        rows.append([name_cell(line[0].row, *shown), *cells])
    distance, score = headings_of(report, reasons)
    difference = ["difference"] if same else []
    headings = [
        f"{SAMPLER_LABELS[sampler]}: {heading}"
        for sampler in ("normal", "gmm")
        for heading in (f"{distance} ↓", "FID published ↓", *difference,
                        f"{score} ↑", "IS published ↑", *difference)
    ]  # fmt: skip
    width = (len(headings)) // 2
    for column in (1, 2, 1 + width, 2 + width):
        rank_column(rows, column, ["all"] * len(rows))
    source = load_published(3 if experiment.dataset == "celeba" else 8).source
    return Grid(
        title=f"Table 3: {experiment.dataset}, {experiment.arch}",
        headings=["Model", *headings],
        align="l" + "r" * len(headings),
        rows=rows,
        notes=[
            f"Published: {source}. Of the variants in brackets the one of lowest test distance is "
            "shown, as in the paper, with its score; VAMP, VAEGAN and disentangled β-VAE are in "
            "table 8 alone.",
            _note(reasons),
            *failed_notes(rows),
        ],
    )


def _published_best(
    variants: list[str], sampler: str, where: dict[str, str]
) -> tuple[PublishedCell, PublishedCell]:
    """Published FID and IS of the variant of lowest FID: table 3's own, else from table 8."""
    table = load_published(3 if where["dataset"] == "celeba" else 8)
    key = {**where, "sampler": sampler}
    found = [
        pair
        for model in variants
        for pair in zip(
            table.find(**key, model=model, metric="FID"),
            table.find(**key, model=model, metric="IS"),
            strict=True,
        )
    ]
    return min(found, key=lambda pair: pair[0].value)
