"""Measured numbers beside published ones: the paper's tables 2, 3 and 8 for one experiment.

A measured number never stands under a published heading. Where it is another quantity than the
published one, its column bears its own name and no difference is formed.
"""

__all__ = ["not_comparable", "table2", "table3", "table8"]

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pythae_fif.benchmark.config import length_of, load_experiment
from pythae_fif.benchmark.plan import configurations
from pythae_fif.benchmark.selection import Choice
from pythae_fif.reports.agreement import order_agreement
from pythae_fif.reports.grid import DASH, Cell, Grid, measured, number, rank_column
from pythae_fif.reports.published import (
    TABLE_3,
    PublishedCell,
    PublishedTable,
    load_published,
    printed,
)
from pythae_fif.reports.report import Report, Row
from pythae_fif.sampling import FITTED, SAMPLERS
from pythae_fif.validation import parse_duration

INCEPTION = ("inception", "tf-inception")
PUBLISHED_SAMPLES = 10_000
COMPARED = ("normal", "gmm")
"""Those of tables 2 and 3; between the two stands `gaussian` where it was measured."""
METRICS = ("FID", "IS")

MARKS = (
    "Bold is the lowest distance of a column, for a sampler, underlined the second; `=` marks "
    "measured ones that are level, as in the table of scores."
)
FEWEST_MODELS = 5  # that have an order
ORDER_ALONE = "Only the order of the models within a column can be compared."


def not_comparable(report: Report) -> list[str]:
    """Why the measured numbers are another quantity than table 8's; empty if they are the same.

    The same needs Inception features, 10,000 samples, the data set's own profile `paper` and all
    its configurations, the whole data set, its image size and the published latent dimension.
    """
    experiment, choices = report.experiment, report.choices
    shipped = load_experiment(experiment.dataset, None, {})
    published = load_published(8).find(dataset=experiment.dataset, arch=experiment.arch)
    reasons = _reasons_of_scores(report)
    if experiment.profile != "paper":
        reasons.append(f"profile `{experiment.profile}`")
    elif experiment.settings != shipped.profiles.get("paper"):
        reasons.append("a profile `paper` of your own")
    elif any(c.candidates < len(configurations(experiment.settings, c.model)) for c in choices):
        reasons.append("not all configurations")
    if experiment.image_size not in (None, shipped.image_size):
        reasons.append(f"image size {experiment.image_size}")
    if published and str(experiment.latent_dim) != published[0].at["latent_dim"]:
        reasons.append(f"latent dimension {experiment.latent_dim}")
    return reasons


def _reasons_of_scores(report: Report) -> list[str]:
    """Extractors, numbers of samples and partial data that are not the paper's."""
    reasons = []
    for result in report.results:
        for scores in result.record.scores.values():
            if scores.extractor not in INCEPTION:
                reasons.append(f"extractor `{scores.extractor}`")
            if scores.num_samples != PUBLISHED_SAMPLES:
                reasons.append(f"{scores.num_samples:,} samples")
        if result.record.data.partial:
            reasons.append("partial data")
    return list(dict.fromkeys(reasons))


@dataclass(frozen=True)
class _Beside:
    """How the measured numbers of a report stand beside published ones.

    Attributes:
        rows: Model and sampler -> measured row.
        distance, score: What the measured numbers are called.
        same: Whether they are the published quantity.
    """

    rows: dict[tuple[str, str], Row]
    distance: str
    score: str
    same: bool

    @classmethod
    def of(cls, report: Report, reasons: Sequence[str]) -> "_Beside":
        """For a report, with the reasons why it is another quantity."""
        keys = ((choice.model, choice.sampler) for choice in report.choices)
        rows = dict(zip(keys, report.rows, strict=True))
        if not reasons:
            return cls(rows, "FID measured", "IS measured", True)
        samples = {
            result.record.scores[choice.sampler].num_samples
            for choice in report.choices
            for result in choice.results
        }
        count = ", ".join(f"{n:,} samples" for n in sorted(samples))
        score = f"{report.score}, {count}" if report.score else "score"
        return cls(rows, f"{report.distance}, {count}", score, False)

    @property
    def samplers(self) -> list[str]:
        """Those of tables 2 and 3, with the Gaussian where it was measured."""
        known = {sampler for _, sampler in self.rows}
        return [s for s in ("normal", "gaussian", "gmm") if s in COMPARED or s in known]

    def headings(self, prefix: str = "", published: bool = True) -> list[str]:
        """Of a group of columns: distance and score, measured and, of most, published."""
        if not published:
            return [f"{prefix}{self.distance} ↓", f"{prefix}{self.score} ↑"]
        difference = ["difference"] if self.same else []
        pairs = [f"{self.distance} ↓", "FID published ↓", *difference]
        pairs += [f"{self.score} ↑", "IS published ↑", *difference]
        return [prefix + heading for heading in pairs]

    def cells(
        self, row: Row | None, fid: PublishedCell | None, inception: PublishedCell | None
    ) -> list[Cell]:
        """The cells below these headings."""
        cells = []
        for cell, published in zip(self.measured(row), (fid, inception), strict=True):
            cells += [cell, printed(published)]
            if self.same:
                cells.append(_difference(cell.value, published))
        return cells

    def measured(self, row: Row | None) -> list[Cell]:
        """Distance and score."""
        if row is None:
            return [Cell(DASH)] * 2
        return [
            number(row.frechet_test, row.frechet_test_std, row.frechet_test_noise),
            number(row.score, row.score_std),
        ]

    def both_samplers(
        self, name: str, variants: Sequence[str], published: PublishedTable, **where: str
    ) -> list[Cell]:
        """A row of table 2 or 3: name, and with each sampler the variant of lowest distance.

        Args:
            name: The heading of the row.
            variants: Models.
            published: The table that the printed numbers are from.
            **where: Coordinates of its cells.
        """
        shown: list[Row | None] = []
        cells: list[Cell] = []
        for sampler in self.samplers:
            measured_rows = [self.rows.get((model, sampler)) for model in variants]
            known = [row for row in measured_rows if row is not None]
            shown.append(min(known, key=lambda row: row.frechet_test, default=None))
            if sampler not in COMPARED:
                cells += self.measured(shown[-1])
                continue
            pairs = [
                [published.find(**where, model=m, sampler=sampler, metric=x)[0] for x in METRICS]
                for m in variants
            ]
            fid, inception = min(pairs, key=lambda pair: pair[0].value)
            cells += self.cells(shown[-1], fid, inception)
        return [_name(name, shown), *cells]


def _difference(value: float | None, published: PublishedCell | None) -> Cell:
    """Measured minus published, to the one decimal place that is published."""
    if value is None or published is None or published.at["sampler"] in FITTED:
        return Cell(DASH)
    return measured(value - published.value, "+.1f")


def _name(label: str, rows: Iterable[Row | None]) -> Cell:
    """A model's name, with a dagger if one of its measured rows is of a run that did not learn."""
    failed = any(row is not None and not row.learned for row in rows)
    return Cell(f"{label} †" if failed else label)


def _failed_notes(rows: list[list[Cell]]) -> list[str]:
    dagger = any(row[0].text.endswith("†") for row in rows)
    return ["† did not learn: see the table of scores."] if dagger else []


def _note(reasons: Sequence[str]) -> str:
    if reasons:
        return (
            "No difference is formed, for the measured numbers are not the published quantity: "
            f"{', '.join(reasons)}. {ORDER_ALONE}"
        )
    return (
        "Differences are measured minus published; none for 2-stage and MAF, whose fit to the "
        "codes is not the published one."
    )


def table8(report: Report) -> Grid | None:
    """The columns of table 8 that are this data set's and architecture's, measured ones beside.

    Args:
        report: The scores of the experiment.

    Returns:
        A row for every row of table 8, then one for every other model and sampler measured; None
        where the paper has no column for the data set and architecture.
    """
    experiment, published = report.experiment, load_published(8)
    where = {"dataset": experiment.dataset, "arch": experiment.arch}
    distances = published.find(**where, metric="FID")
    if not distances:
        return None
    reasons = not_comparable(report)
    beside = _Beside.of(report, reasons)
    left = dict(beside.rows)
    rows, groups, compared = [], [], []
    for fid, inception in zip(distances, published.find(**where, metric="IS"), strict=True):
        row = left.pop((fid.at["model"], fid.at["sampler"]), None)
        sampler = SAMPLERS[fid.at["sampler"]].label
        name = fid.row if fid.compared else f"{fid.row} (not compared)"
        rows.append([_name(name, [row]), Cell(sampler), *beside.cells(row, fid, inception)])
        groups.append(sampler)
        compared.append(sampler if fid.compared else "")
    for row in left.values():
        rows.append([_name(row.model, [row]), Cell(row.sampler), *beside.cells(row, None, None)])
        groups.append(row.sampler)
        compared.append("")
    rank_column(rows, 2, groups)
    rank_column(rows, 3, compared)
    headings = ["Model", "Sampler", *beside.headings()]
    return Grid(
        title=f"Table 8: {experiment.dataset}, {experiment.arch}",
        headings=headings,
        align="ll" + "r" * (len(headings) - 2),
        rows=rows,
        notes=[
            f"Published: {published.source}; all rows but FIF's are Chadebec et al. "
            f"2022's; {PUBLISHED_SAMPLES:,} samples, Inception features, test split. VAEGAN is "
            "outside the published comparison.",
            _note(reasons),
            *_order_notes(rows, compared),
            f"{MARKS} {DASH} was not measured, or not published.",
            *_failed_notes(rows),
        ],
        groups=frozenset(i for i in range(1, len(rows)) if rows[i][0].text != rows[i - 1][0].text),
    )


def _order_notes(rows: list[list[Cell]], compared: list[str]) -> list[str]:
    """How the order of the measured distances, column 2, is that of the published, column 3.

    Args:
        rows: Of table 8.
        compared: The sampler of each; "" of those outside the comparison.
    """
    found = []
    for sampler in (SAMPLERS[name].label for name in COMPARED):
        pairs = [
            (row[2].value, row[3].value)
            for row, of in zip(rows, compared, strict=True)
            if of == sampler and None not in (row[2].value, row[3].value)
        ]
        if len(pairs) >= FEWEST_MODELS:
            agreement = order_agreement(*zip(*pairs, strict=True))
            found.append(f"{sampler} {agreement} ({len(pairs)} models)")
    if not found:
        return []
    return [
        "Order of the models, measured against published, as Spearman's correlation, with the "
        f"range of 95% of random orders: {'; '.join(found)}."
    ]


def table3(report: Report) -> Grid | None:
    """Table 3's summary: models of several variants merged to their best, two samplers.

    Its published columns are table 8's, merged in the same way; the paper prints it for CelebA.

    Args:
        report: The scores of the experiment.

    Returns:
        A row for every row of table 3; None where table 8 has no column for the experiment.
    """
    experiment = report.experiment
    where = {"dataset": experiment.dataset, "arch": experiment.arch}
    published = load_published(8)
    if not published.find(**where):
        return None
    source = published.source
    if experiment.dataset == "celeba":
        source = source.replace("table 8", "table 3")
    reasons = not_comparable(report)
    beside = _Beside.of(report, reasons)
    return _ranked(
        f"Table 3: {experiment.dataset}, {experiment.arch}",
        ["Model", *_both_headings(beside)],
        [
            beside.both_samplers(name, models.split(), published, **where)
            for name, models in TABLE_3.items()
        ],
        [
            f"Published: {source}. Of the variants in brackets the one of lowest test distance is "
            "shown, as in the paper, with its score; VAMP, VAEGAN and disentangled β-VAE are in "
            "table 8 alone.",
            _note(reasons),
        ],
    )


def _both_headings(beside: _Beside) -> list[str]:
    return [
        heading
        for name in beside.samplers
        for heading in beside.headings(f"{SAMPLERS[name].label}: ", published=name in COMPARED)
    ]


def _ranked(title: str, headings: list[str], rows: list[list[Cell]], notes: list[str]) -> Grid:
    """Table 2 or 3, with ranks in the columns of distances."""
    for column, heading in enumerate(headings):
        if heading.endswith("↓"):
            rank_column(rows, column, ["all"] * len(rows))
    align = "l" + "r" * (len(headings) - 1)
    return Grid(title, headings, align, rows, [*notes, MARKS, *_failed_notes(rows)])


def table2(report: Report) -> Grid | None:
    """Table 2: injective flows under one wall clock, with their sizes.

    Args:
        report: The scores of the experiment.

    Returns:
        A row for every row of table 2; the published columns are there for its data set alone.
        None where none of the flows that FIF is compared with was measured.
    """
    experiment, published = report.experiment, load_published(2)
    chosen = {choice.model: choice for choice in report.choices if choice.sampler == "normal"}
    if not any(row[0].at["model"] in chosen for row in published.rows[:2]):
        return None
    reasons = _not_table2(report)
    beside = _Beside.of(report, reasons)
    headings = ["Model", "d", "# parameters", "# parameters published", "images seen"]
    headings += _both_headings(beside)
    rows = []
    for line in published.rows:
        model = line[0].at["model"]
        name, *scores = beside.both_samplers(line[0].row, [model], published)
        latent_dim, parameters, images = _size(chosen.get(model))
        size = [latent_dim, parameters, Cell(f"{line[0].text}M", line[0].value), images]
        rows.append([name, *size, *scores])
    if experiment.dataset != published.rows[0][0].at["dataset"]:
        kept = [index for index, heading in enumerate(headings) if "published" not in heading]
        headings = [headings[index] for index in kept]
        rows = [[row[index] for index in kept] for row in rows]
    return _ranked(
        f"Table 2: {experiment.dataset}, {length_of(experiment.settings)}",
        headings,
        rows,
        [
            f"Published: {published.source}, CelebA, {published.note}; latent dimensions 512, 192 "
            "and 64.",
            f"Not the published quantity: {', '.join(reasons)}. {ORDER_ALONE}",
        ],
    )


def _size(choice: Choice | None) -> list[Cell]:
    """Latent dimension, millions of parameters and images seen in training, of the first seed."""
    if choice is None:
        return [Cell(DASH)] * 3
    record = choice.results[0].record
    return [
        measured(choice.spec.latent_dim, "d"),
        Cell(f"{record.parameters / 1e6:.2f}M", record.parameters),
        measured(record.training.images, ",d"),
    ]


def _not_table2(report: Report) -> list[str]:
    """Why the measured numbers are another quantity than table 2's: always the programs."""
    experiment = report.experiment
    reasons = ["DNF and Trumpet are our programs, not their authors'", *_reasons_of_scores(report)]
    devices = dict.fromkeys(result.record.provenance.device for result in report.results)
    reasons += [f"{device} instead of an NVIDIA A40" for device in devices]
    if experiment.dataset != "celeba":
        reasons.append(f"data set {experiment.dataset}")
    wall_clock = experiment.settings.wall_clock
    if wall_clock is None or parse_duration(wall_clock) != parse_duration("5h"):
        reasons.append(f"{length_of(experiment.settings)} instead of five hours")
    if experiment.image_size not in (None, 64):
        reasons.append(f"image size {experiment.image_size}")
    return reasons
