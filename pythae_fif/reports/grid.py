"""A table as such, and its forms: Markdown, LaTeX, CSV and HTML."""

__all__ = [
    "DASH",
    "Cell",
    "Grid",
    "inline_html",
    "number",
    "ranks",
    "to_csv",
    "to_html",
    "to_latex",
    "to_markdown",
]

import csv
import html
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

DASH = "–"


@dataclass(frozen=True)
class Cell:
    """What stands in a field of a table.

    Attributes:
        text: As it is shown.
        value: The unrounded number that it shows, if it shows one.
        rank: 1 for the best of its group, 2 for the second best, 0 for all others.
    """

    text: str
    value: float | None = None
    rank: int = 0


@dataclass(frozen=True)
class Grid:
    """A table with its notes.

    Attributes:
        title: Above it.
        headings: One a column.
        align: One letter a column, `l` or `r`.
        rows: Cells, one a column.
        notes: Sentences below it, with `code` marked as in Markdown.
        groups: Numbers of the rows that begin a new group, for a line or space before them.
    """

    title: str
    headings: list[str]
    align: str
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)
    groups: frozenset[int] = frozenset()


def number(value: float | None, std: float | None = None) -> Cell:
    """A measured number with three or four digits, `–` where there is none.

    Example:
        >>> number(150.75, 0.7).text, number(2.5).text, number(None).text
        ('150.8 ± 0.7', '2.50', '–')
    """
    if value is None:
        return Cell(DASH)
    digits = 1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3
    spread = "" if std is None else f" ± {std:.{digits}f}"
    return Cell(f"{value:.{digits}f}{spread}", value)


def ranks(values: Iterable[tuple[int, str, float]]) -> dict[int, int]:
    """The best and second best of every group, lowest first; equals share a rank.

    Args:
        values: Number of a row, name of its group, and value. A group of one row has no best.

    Returns:
        Number of a row -> 1 or 2.

    Example:
        >>> ranks([(0, "N", 3.0), (1, "N", 1.0), (2, "N", 1.0), (3, "GMM", 9.0)])
        {0: 2, 1: 1, 2: 1}
    """
    groups: dict[str, dict[int, float]] = {}
    for row, group, value in values:
        groups.setdefault(group, {})[row] = value
    found: dict[int, int] = {}
    for rivals in groups.values():
        best = sorted(set(rivals.values()))[:2] if len(rivals) > 1 else []
        found |= {row: best.index(value) + 1 for row, value in rivals.items() if value in best}
    return found


def to_markdown(grid: Grid, level: int = 1) -> str:
    """The table with its notes; best bold, second underlined."""
    marks = {0: "{}", 1: "**{}**", 2: "<u>{}</u>"}
    rule = {"l": "---", "r": "--:"}
    lines = [f"{'#' * level} {grid.title}", "", "| " + " | ".join(grid.headings) + " |"]
    lines.append("|" + "|".join(rule[letter] for letter in grid.align) + "|")
    for row in grid.rows:
        cells = (marks[cell.rank].format(cell.text.replace("|", "\\|")) for cell in row)
        lines.append("| " + " | ".join(cells) + " |")
    if grid.notes:
        lines += ["", *(f"* {note}" for note in grid.notes)]
    return "\n".join(lines) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "β": r"$\beta$", "Δ": r"$\Delta$", "↓": r"$\downarrow$", "↑": r"$\uparrow$",
    "×": r"$\times$", "³": r"\textsuperscript{3}", "–": "--", "†": r"\textdagger{}",
    "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def to_latex(grid: Grid) -> str:
    r"""The table as LaTeX with booktabs, to be put in by `\input`; the notes below it in small."""
    marks = {0: "{}", 1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}
    lines = ["% needs \\usepackage{booktabs}", f"\\begin{{tabular}}{{{grid.align}}}", "\\toprule"]
    lines += [" & ".join(map(_latex, grid.headings)) + r" \\", r"\midrule"]
    for index, row in enumerate(grid.rows):
        if index and index in grid.groups:
            lines.append(r"\addlinespace")
        lines.append(" & ".join(marks[c.rank].format(_latex(c.text)) for c in row) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    if grid.notes:
        lines += ["", r"\par\medskip{\footnotesize"]
        lines += [_latex(note) + r"\par" for note in grid.notes] + ["}"]
    return "\n".join(lines) + "\n"


def _latex(text: str) -> str:
    parts = text.split("`")
    escaped = ["".join(_LATEX.get(letter, letter) for letter in part) for part in parts]
    code = [rf"\texttt{{{p}}}" if i % 2 else p for i, p in enumerate(escaped)]
    return "".join(code)


def to_csv(grid: Grid) -> str:
    """The headings and the cells, numbers unrounded, nothing where there is a dash."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(grid.headings)
    for row in grid.rows:
        writer.writerow(
            [("" if c.text == DASH else c.text) if c.value is None else c.value for c in row]
        )
    return file.getvalue()


def to_html(grid: Grid) -> str:
    """The table with its notes as an HTML fragment, without its title."""
    marks = {0: "{}", 1: "<b>{}</b>", 2: "<u>{}</u>"}
    kinds = {"l": "", "r": ' class="r"'}
    head = "".join(
        f'<th scope="col"{kinds[letter]}><button type="button">{inline_html(heading)}</button></th>'
        for heading, letter in zip(grid.headings, grid.align, strict=True)
    )
    body = []
    for index, row in enumerate(grid.rows):
        fields = []
        for cell, letter in zip(row, grid.align, strict=True):
            key = "" if cell.value is None else f' data-value="{cell.value!r}"'
            shown = marks[cell.rank].format(inline_html(cell.text))
            fields.append(f"<td{kinds[letter]}{key}>{shown}</td>")
        start = ' class="first"' if index in grid.groups else ""
        body.append(f"<tr{start}>{''.join(fields)}</tr>")
    notes = "".join(f"<li>{inline_html(note)}</li>" for note in grid.notes)
    rows = "\n".join(body)
    return (
        f'<div class="scroll"><table class="sortable">\n<caption>{html.escape(grid.title)}'
        f"</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>\n"
        + (f'<ul class="notes">{notes}</ul>\n' if notes else "")
    )


def inline_html(text: str) -> str:
    """Escaped, with what stands between backticks as code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))
