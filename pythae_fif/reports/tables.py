"""Tables of an experiment: texts with the best values marked, as Markdown, HTML and LaTeX."""

import html
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from pythae_fif.evaluation.score_types import DASH, number
from pythae_fif.evaluation.scores import SCORE_COLUMNS, ScoreColumn
from pythae_fif.reports.frame import TIED_RANK, ranks
from pythae_fif.sampling.catalog import find_sampler, sampler_position

USUAL = "usual"  # the column of each model's usual sampler
CONFIGURATION = "chosen configuration"
LEGEND = (
    " Bold: below all others beyond the noise; underlined: then the second lowest; italic: tied "
    "with the lowest within the noise."
)
NUMBER_PATTERN = rf"(?:< )?[-+]?\d|nan\b|-?inf\b|{DASH}"  # start of a number, or of a missing one


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        title: Its title.
        cells: Texts, under their headings.
        ranks: Heading -> rank of each cell: 1 is shown bold, 2 underlined, `TIED_RANK` with `=`.
        notes: Sentences below the table, with `code` as in Markdown.
    """

    title: str
    cells: pd.DataFrame
    ranks: Mapping[str, "pd.Series[int]"] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def numeric_columns(self) -> list[bool]:
        """Whether each column holds only numbers, which are aligned to the right."""
        return [bool(cells.str.match(NUMBER_PATTERN).all()) for _, cells in self.cells.items()]

    def mark_ranks(
        self, escape: Callable[[str], str], best: str, second: str, tied: str = "{} ="
    ) -> pd.DataFrame:
        """Escapes all cells and headings, and marks the ranked cells.

        Args:
            escape: Escapes a text.
            best: Format of the lowest value, such as `<b>{}</b>`.
            second: Format of the second lowest value.
            tied: Format of values that are tied with the lowest.
        """
        formats = {0: "{}", 1: best, 2: second, TIED_RANK: tied}
        cells = self.cells.map(escape)
        for heading, column in self.ranks.items():
            pairs = zip(cells[heading], column, strict=True)
            cells[heading] = [formats[rank].format(text) for text, rank in pairs]
        return cells.rename(columns=escape)

    def to_markdown(self) -> str:
        """Returns the table as Markdown, with its title and notes."""
        cells = self.mark_ranks(escape_markdown, "**{}**", "<u>{}</u>")
        rule = ["--:" if numeric else "---" for numeric in self.numeric_columns]
        lines = [cells.columns, rule, *cells.itertuples(index=False)]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        notes = "".join(f"* {escape_markdown(note)}\n" for note in self.notes)
        return f"## {escape_markdown(self.title)}\n\n{text}\n\n{notes}"

    def to_latex(self, page_notes: Sequence[str] = ()) -> str:
        r"""Returns a `table` of LaTeX with booktabs, caption and notes, for `\input`.

        Args:
            page_notes: Notes of the table's page, which follow the table's own.
        """
        cells = self.mark_ranks(
            _escape_latex, r"\textbf{{{}}}", r"\underline{{{}}}", r"\textit{{{}}}"
        )
        notes = [rf"{_escape_latex(note)}\par" for note in (*self.notes, *page_notes)]
        table = cells.to_latex(
            index=False,
            column_format="".join("r" if numeric else "l" for numeric in self.numeric_columns),
            escape=False,
            caption=f"{_escape_latex(self.title)}.{LEGEND if self.ranks else ''}",
            position="tb",
        )
        end = r"\end{table}"
        foot = "\n".join([r"\par\medskip{\footnotesize", *notes, "}", end])
        return table.replace(end, foot)


def escape_markdown(text: str) -> str:
    """Escapes HTML, links and pictures, so that foreign text cannot add any; keeps `code`."""
    line = " ".join(text.split())
    line = re.sub(r"&(?=[#\w]+;)", "&amp;", line)
    return line.replace("<", "&lt;").replace("](", "]\\(").replace("|", "\\|")


def to_html(text: str) -> str:
    """Escapes a line for HTML; text between backticks becomes code."""
    line = re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))
    return re.sub(r" ([↑↓])", r"&nbsp;\1", line)


_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "β": r"$\beta$", "↓": r"$\downarrow$", "↑": r"$\uparrow$",
    "×": r"$\times$", "³": r"\textsuperscript{3}", "–": "--", "†": r"\textdagger{}",
    "<": r"\textless{}", ">": r"\textgreater{}",
})  # fmt: skip


def _escape_latex(text: str) -> str:
    """Escapes a line for LaTeX; text between backticks becomes code."""
    line = text.translate(_LATEX)
    return re.sub(r"`([^`]*)`", r"\\texttt{\1}", line)


def format_column(frame: pd.DataFrame, name: str, form: str = "", *, scale: float = 1) -> list[str]:
    """Formats a column of numbers, with their standard deviations if the frame has them.

    Args:
        frame: The numbers, and their standard deviations in a column `<name>_spread`.
        name: Name of the column.
        form: See :func:`number`.
        scale: Factor of the numbers.
    """
    spreads = frame.get(f"{name}_spread", pd.Series(math.nan, frame.index))
    return [
        number(scale * value, scale * spread, form)
        for value, spread in zip(frame[name], spreads, strict=True)
    ]


def overview_table(table: pd.DataFrame, distance: str, requested: Sequence[str]) -> Table:
    """Makes a table of one row per model, with its distance for up to three samplers.

    Args:
        table: One row per model and sampler, from :func:`~pythae_fif.reports.frame.chosen_frame`.
        distance: Name of the distance.
        requested: Samplers that the user asked for. They come before others that the runs have.
    """
    # A model's usual sampler, whichever it is, has the same column in all rows.
    column = table["sampler"].where(table["sampler"] != table["usual_sampler"], USUAL)
    wide = table.assign(column=column).pivot(index="model", columns="column")
    requested_columns = set(column[table["sampler"].isin(requested)])
    columns = _overview_columns(set(column), requested_columns)
    wide = wide.sort_values([("frechet_test", name) for name in columns], kind="stable")
    models = _model_rows(table, is_usual=column == USUAL).loc[wide.index]

    cells = {"Model": list(models["label"])}
    marks = {}
    for name in columns:
        heading = f"{_column_label(name, table['usual_sampler'])} ↓"
        rows = wide.xs(name, axis="columns", level="column")
        cells[heading] = format_column(rows, "frechet_test")
        marks[heading] = ranks(rows)
    cells |= {
        "MSE ↓": format_column(models, "reconstruction_mse", ".4f"),
        "train s": format_column(models, "training_seconds", ".0f"),
    }
    if "reference" in table:
        words = {"0.0%": "same", "inf%": "other extractor"}
        differences = [number(value, form=".1%") for value in wide["reference"].max(axis=1)]
        cells["ref"] = [words.get(text, text) for text in differences]
    cells[CONFIGURATION] = list(models["configuration"])
    return Table(f"{distance} to test data, by sampler", pd.DataFrame(cells), marks)


def _overview_columns(available: set[str], requested: set[str]) -> list[str]:
    """Returns three columns, requested ones first, in the order of the samplers."""
    ordered = sorted(available, key=lambda name: (name != USUAL, sampler_position(name)))
    preferred = sorted(ordered, key=lambda name: name not in requested)[:3]
    return [name for name in ordered if name in preferred]


def _model_rows(table: pd.DataFrame, is_usual: "pd.Series[bool]") -> pd.DataFrame:
    """Returns one row per model, since its samplers may have chosen different configurations.

    It is a row that did not learn, if there is any, and the usual sampler's row otherwise.
    """
    order = table.assign(is_other=~is_usual)
    return order.sort_values(["learned", "is_other"], kind="stable").groupby("model").first()


def _column_label(name: str, usual_samplers: "pd.Series[str]") -> str:
    """Returns the heading of a sampler's column in the overview."""
    if name != USUAL:
        return find_sampler(name).label
    return "N(0, I)" if (usual_samplers == "normal").all() else "model prior"


def score_table(
    table: pd.DataFrame,
    distance: str,
    score: str | None,
    columns: Sequence[ScoreColumn] = SCORE_COLUMNS,
) -> Table:
    """Makes a table of all scores, one row per model and sampler.

    Args:
        table: One row per model and sampler, from :func:`~pythae_fif.reports.frame.chosen_frame`.
        distance: Name of the distance.
        score: Name of the score; None if the extractor has none.
        columns: The scores of the table.
    """
    measured_names = {"frechet_test", *table.columns[table.notna().any()]}
    groups: dict[str, list[ScoreColumn]] = {}
    for column in columns:
        if column.heading and column.name in measured_names:
            heading = f"{column.heading} {column.better}".rstrip()
            heading = heading.format(distance=distance, score=score or "score")
            groups.setdefault(heading, []).append(column)

    candidates = table["candidates"].map(lambda count: f" (of {count})" if count > 1 else "")
    cells = {
        "Model": table["label"],
        "Sampler": [find_sampler(name).label for name in table["sampler"]],
        **{heading: _format_scores(table, group) for heading, group in groups.items()},
        "parameters": format_column(table, "parameters", ",.0f"),
        "train s": format_column(table, "training_seconds", ".0f"),
        CONFIGURATION: list(table["configuration"] + candidates),
    }
    return Table("All scores", pd.DataFrame(cells), {f"{distance} test ↓": table["rank"]})


def _format_scores(table: pd.DataFrame, group: Sequence[ScoreColumn]) -> list[str]:
    """Formats scores that share a cell, such as `0.50 / 0.75 (1 of 2 seeds)`."""
    parts = [
        format_column(table, column.name, column.format, scale=column.scale) for column in group
    ]
    counts = table.get(f"{group[0].name}_seeds", table["seeds"])

    cells = []
    for count, seeds, *texts in zip(counts, table["seeds"], *parts, strict=True):
        mark = f" ({count} of {seeds} seeds)" if count < seeds else ""
        cells.append(DASH if DASH in texts else " / ".join(texts) + mark)
    return cells
