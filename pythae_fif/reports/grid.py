"""A table as such, and its forms: Markdown, LaTeX and CSV."""

__all__ = [
    "DASH",
    "LEVEL",
    "Cell",
    "Grid",
    "markdown_line",
    "measured",
    "number",
    "rank_column",
    "spread",
    "to_csv",
    "to_latex",
    "to_markdown",
    "write_grid",
    "write_rows",
]

import csv
import io
import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pythae_fif.errors import printable
from pythae_fif.files import write_text

DASH = "–"
LEVEL = 3
"""Rank of a number that is level with the lowest, which does not stand out."""


@dataclass(frozen=True)
class Cell:
    """What stands in a field of a table.

    Attributes:
        text: As it is shown.
        value: The unrounded number that it shows, if it shows one.
        rank: 1 for the best of its group, 2 for the second best, `LEVEL`, 0 for all others.
        noise: Twice the standard error of the number; None if it is not known.
    """

    text: str
    value: float | None = None
    rank: int = 0
    noise: float | None = None

    @property
    def shown(self) -> str:
        """The text, with the sign of a number that is level."""
        return f"{self.text} =" if self.rank == LEVEL else self.text


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


def number(value: float | None, std: float | None = None, noise: float | None = None) -> Cell:
    """A measured number with one to three decimals, the larger the fewer; `–` where there is none.

    Example:
        >>> number(150.75, 0.7).text, number(2.5).text, number(None).text
        ('150.8 ± 0.7', '2.50', '–')
    """
    if value is None:
        return Cell(DASH)
    digits = 1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3
    spread = "" if std is None else f" ± {std:.{digits}f}"
    return Cell(f"{value:.{digits}f}{spread}", value, noise=noise)


def measured(value: float | None, form: str) -> Cell:
    """A measured number in a format of its own, `–` where there is none.

    Example:
        >>> measured(0.01234, ".4f").text, measured(None, ".4f").text
        ('0.0123', '–')
    """
    return Cell(DASH) if value is None else Cell(format(value, form), value)


def spread(values: Sequence[float]) -> Cell:
    """Mean and standard deviation over seeds, or how many have no finite value; `–` of none.

    Example:
        >>> spread([1.0, 3.0]).text, spread([1.0, float("nan")]).text
        ('2.00 ± 1.41', 'diverged (1 of 2)')
    """
    if not values:
        return Cell(DASH)
    diverged = sum(not math.isfinite(value) for value in values)
    if diverged:
        return Cell(f"diverged ({diverged} of {len(values)})")
    mean = statistics.fmean(values)
    std = statistics.stdev(values) if len(values) > 1 else None
    if abs(mean) >= 1e4:
        return Cell(f"{mean:.3g}" + ("" if std is None else f" ± {std:.3g}"), mean)
    return number(mean, std)


def rank_column(rows: Sequence[list[Cell]], column: int, groups: Sequence[str]) -> None:
    """Marks the lowest and second lowest number of every group in a column; equals share a rank.

    Where the noise of the lowest is known, and it does not stand out from others whose noise is,
    these are `LEVEL` with it and nothing else is marked: two numbers differ if their difference is
    more than the root of the sum of both squared noises.

    Args:
        rows: Of a table; their cells are replaced.
        column: Its number.
        groups: Name of each row's group; none of the marks for a row of group ``""``, and none in
            a group of one number.

    Example:
        >>> rows = [[number(value)] for value in (3.0, 1.0, 1.0, 9.0)]
        >>> rank_column(rows, 0, ["N", "N", "N", "GMM"])
        >>> [cell.rank for (cell,) in rows]
        [2, 1, 1, 0]
        >>> rows = [[number(value, noise=0.5)] for value in (1.0, 1.4, 2.0)]
        >>> rank_column(rows, 0, ["N", "N", "N"])
        >>> [cell.rank for (cell,) in rows]
        [3, 3, 0]
    """
    members: dict[str, list[tuple[float, list[Cell]]]] = {}
    for row, group in zip(rows, groups, strict=True):
        value = row[column].value
        if group and value is not None:
            members.setdefault(group, []).append((value, row))
    for numbers in (found for found in members.values() if len(found) > 1):
        places = sorted({value for value, _ in numbers})[:2]
        best = next(row[column] for value, row in numbers if value == places[0])
        level = [_level(row[column], best) for _, row in numbers]
        for (value, row), within in zip(numbers, level, strict=True):
            rank = places.index(value) + 1 if value in places else 0
            if sum(level) > 1:
                rank = LEVEL if within else 0
            row[column] = replace(row[column], rank=rank)


def _level(cell: Cell, best: Cell) -> bool:
    """Whether a number is within noise of the best; never where a noise is not known."""
    if cell.value is None or best.value is None or cell.noise is None or best.noise is None:
        return False
    return cell.value - best.value <= math.hypot(cell.noise, best.noise)


def to_markdown(grid: Grid, level: int = 1) -> str:
    """The table with its notes; best bold, second underlined."""
    marks = {1: "**{}**", 2: "<u>{}</u>"}
    rule = {"l": "---", "r": "--:"}
    headings = map(markdown_line, grid.headings)
    lines = [f"{'#' * level} {markdown_line(grid.title)}", "", f"| {' | '.join(headings)} |"]
    lines.append("|" + "|".join(rule[letter] for letter in grid.align) + "|")
    for row in grid.rows:
        cells = (marks.get(c.rank, "{}").format(markdown_line(c.shown)) for c in row)
        lines.append("| " + " | ".join(cells) + " |")
    if grid.notes:
        lines += ["", *(f"* {markdown_line(note, cell=False)}" for note in grid.notes)]
    return "\n".join(lines) + "\n"


def markdown_line(text: str, cell: bool = True) -> str:
    """A line in which no HTML, link or picture of another's text is one; `code` stays."""
    line = re.sub(r"&(?=[#\w]+;)", "&amp;", " ".join(printable(text).split()))
    line = line.replace("<", "&lt;").replace("](", "]\\(")
    return line.replace("|", "\\|") if cell else line


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "β": r"$\beta$", "↓": r"$\downarrow$", "↑": r"$\uparrow$",
    "×": r"$\times$", "³": r"\textsuperscript{3}", "–": "--", "†": r"\textdagger{}",
    "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def to_latex(grid: Grid) -> str:
    r"""The table as LaTeX with booktabs, to be put in by `\input`; the notes below it in small."""
    marks = {1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}
    lines = ["% needs \\usepackage{booktabs}", f"\\begin{{tabular}}{{{grid.align}}}", "\\toprule"]
    lines += [" & ".join(map(_latex, grid.headings)) + r" \\", r"\midrule"]
    for index, row in enumerate(grid.rows):
        if index and index in grid.groups:
            lines.append(r"\addlinespace")
        cells = (marks.get(c.rank, "{}").format(_latex(c.shown)) for c in row)
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    if grid.notes:
        lines += ["", r"\par\medskip{\footnotesize"]
        lines += [_latex(note) + r"\par" for note in grid.notes] + ["}"]
    return "\n".join(lines) + "\n"


def _latex(text: str) -> str:
    parts = printable(text).split("`")
    escaped = ["".join(_LATEX.get(letter, letter) for letter in part) for part in parts]
    code = [rf"\texttt{{{p}}}" if i % 2 else p for i, p in enumerate(escaped)]
    return "".join(code)


def to_csv(grid: Grid) -> str:
    """The headings and the cells, numbers unrounded, nothing where there is a dash."""
    rows = (
        [("" if c.text == DASH else c.text) if c.value is None else c.value for c in row]
        for row in grid.rows
    )
    return _csv([grid.headings, *rows])


def _csv(lines: Iterable[Iterable[object]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(lines)
    return printable(file.getvalue())


def write_rows(path: Path, rows: Sequence[Mapping[str, object]], form: str = "") -> Path:
    """Writes measured values as CSV, below a header of their names.

    Args:
        path: The file; its folder is made.
        rows: All with the keys of the first; a tuple is written with spaces between its values.
        form: Format of the floats; with none they are unrounded.

    Returns:
        The path.

    Raises:
        StoreError: The folder does not take the file.
    """

    def plain(value: object) -> object:
        if isinstance(value, tuple):
            return " ".join(map(str, value))
        return format(value, form) if isinstance(value, float) else value

    write_text(path, _csv([rows[0], *(map(plain, row.values()) for row in rows)]))
    return path


FORMS: dict[str, Callable[[Grid], str]] = {
    ".md": to_markdown, ".csv": to_csv, ".tex": to_latex,
}  # fmt: skip


def write_grid(grid: Grid, stem: Path, *suffixes: str) -> list[Path]:
    """Writes a table in some of its forms.

    Args:
        grid: The table.
        stem: The files' path without a suffix.
        *suffixes: Of ``.md``, ``.csv`` and ``.tex``.

    Returns:
        The files.

    Raises:
        StoreError: The folder does not take them.
    """
    paths = [stem.with_name(stem.name + suffix) for suffix in suffixes]
    for path, suffix in zip(paths, suffixes, strict=True):
        write_text(path, FORMS[suffix](grid))
    return paths
