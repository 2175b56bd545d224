"""Tables of an experiment: data frames of texts with marks of the lowest, in three forms."""

import html
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas

from pythae_fif.errors import strip_control_characters
from pythae_fif.names import SAMPLERS
from pythae_fif.reports.frame import TIED_RANK, ranks

DASH = "–"
NUMBER = rf"[-+]?\d|nan\b|-?inf\b|{DASH}"  # how a cell begins that is a number, or would be one


@dataclass(frozen=True)
class Table:
    """A table that is read.

    Attributes:
        title: Above it.
        cells: Texts, below their headings.
        ranks: Heading -> rank of each of its cells; 1 is shown bold, 2 underlined, 3 by `=`.
        notes: Sentences below it, with `code` as in Markdown.
    """

    title: str
    cells: pandas.DataFrame
    ranks: Mapping[str, "pandas.Series[int]"] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def of_numbers(self) -> list[bool]:
        """Whether each column holds numbers alone, which stand to the right."""
        return [bool(cells.str.match(NUMBER).all()) for _, cells in self.cells.items()]

    def marked(self, escape: Callable[[str], str], best: str, second: str) -> pandas.DataFrame:
        """Escaped cells, in these formats where they are the lowest or second lowest."""
        forms = {0: "{}", 1: best, 2: second, TIED_RANK: "{} ="}
        cells = self.cells.map(escape)
        for heading, column in self.ranks.items():
            pairs = zip(cells[heading], column, strict=True)
            cells[heading] = [forms[rank].format(text) for text, rank in pairs]
        return cells.rename(columns=escape)

    def to_markdown(self) -> str:
        """A table of pipes."""
        cells = self.marked(_markdown, "**{}**", "<u>{}</u>")
        rule = ["--:" if right else "---" for right in self.of_numbers]
        lines = [cells.columns, rule, *cells.itertuples(index=False)]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        notes = "".join(f"* {_markdown(note)}\n" for note in self.notes)
        return f"## {_markdown(self.title)}\n\n{text}\n\n{notes}"

    def to_latex(self) -> str:
        r"""With booktabs, to be put in by `\input`."""
        cells = self.marked(_latex, r"\textbf{{{}}}", r"\underline{{{}}}")
        form = "".join("r" if right else "l" for right in self.of_numbers)
        notes = [rf"{_latex(note)}\par" for note in self.notes]
        table = cells.to_latex(index=False, column_format=form, escape=False)
        return "\n".join([table, r"\par\medskip{\footnotesize", *notes, "}"]) + "\n"


def _markdown(text: str) -> str:
    """A line in which no HTML, link or picture of another's text is one; `code` stays."""
    line = re.sub(r"&(?=[#\w]+;)", "&amp;", " ".join(strip_control_characters(text).split()))
    return line.replace("<", "&lt;").replace("](", "]\\(").replace("|", "\\|")


def to_html(text: str) -> str:
    """A line escaped for HTML; what stands between backticks is code."""
    code = re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(strip_control_characters(text)))
    return re.sub(r" ([↑↓])", r"&nbsp;\1", code)


_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "β": r"$\beta$", "↓": r"$\downarrow$", "↑": r"$\uparrow$",
    "×": r"$\times$", "³": r"\textsuperscript{3}", "–": "--", "†": r"\textdagger{}",
    "<": r"\textless{}", ">": r"\textgreater{}",
})  # fmt: skip


def _latex(text: str) -> str:
    escaped = strip_control_characters(text).translate(_LATEX)
    return re.sub(r"`([^`]*)`", r"\\texttt{\1}", escaped)


def number(value: float, spread: float = math.nan) -> str:
    """A measured number with one to three decimals, the larger the fewer; a dash for NaN.

    Example:
        >>> number(150.75, 0.7), number(2.5), number(math.nan)
        ('150.8 ± 0.7', '2.50', '–')
    """
    if pandas.isna(value):
        return DASH
    digits = 1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}" + ("" if pandas.isna(spread) else f" ± {spread:.{digits}f}")


def formatted(values: "pandas.Series[float]", form: str) -> list[str]:
    """A column in a format of its own, with dashes for NaN."""
    return [DASH if pandas.isna(value) else format(value, form) for value in values]


def _pairs(table: pandas.DataFrame, *names: str) -> list[str]:
    pairs = zip(*(formatted(table[name], ".2f") for name in names), strict=True)
    return [DASH if DASH in pair else " / ".join(pair) for pair in pairs]


def overview(table: pandas.DataFrame, distance: str, asked: Sequence[str]) -> Table:
    """A row a model by its distance from the prior, of three samplers, those asked for first."""
    role = table["sampler"].where(table["sampler"] != table["prior"], "usual")
    wide = table.assign(role=role).pivot(index="model", columns="role")
    found = sorted(set(role), key=["usual", *SAMPLERS].index)
    wanted = set(role[table["sampler"].isin(asked)])
    shown = sorted(found, key=lambda name: name not in wanted)[:3]
    found = [name for name in found if name in shown]
    wide = wide.sort_values([("frechet_test", name) for name in found], kind="stable")
    order = table.assign(first=role != "usual").sort_values(["learned", "first"], kind="stable")
    rows = order.groupby("model").first().loc[wide.index]
    cells, marks = {"Model": list(rows["label"])}, {}
    for name in found:
        heading = "prior ↓" if name == "usual" else f"{SAMPLERS[name].label} ↓"
        cells[heading] = list(map(number, wide["frechet_test", name], wide["spread", name]))
        marks[heading] = ranks(wide["frechet_test", name], wide["noise", name])
    cells["recon. ↓"] = formatted(rows["reconstruction_mse"], ".4f")
    cells["train s"] = formatted(rows["training_seconds"], ".0f")
    if "reference" in table:
        words = {"0.0%": "same", "inf%": "other extractor"}
        differences = formatted(wide["reference"].max(axis=1), ".1%")
        cells["ref"] = [words.get(text, text) for text in differences]
    title = f"{distance} to test data, by what codes are drawn from"
    return Table(title, pandas.DataFrame(cells), marks)


def score_table(table: pandas.DataFrame, distance: str, score: str | None) -> Table:
    """All scores, a row a model and sampler, with what distance and score are called."""
    test = f"{distance} test ↓"
    cells = {
        "Model": table["label"],
        "Sampler": [SAMPLERS[name].label for name in table["sampler"]],
        test: list(map(number, table["frechet_test"], table["spread"])),
        "validation ↓": list(map(number, table["frechet_val"])),
        f"{score or 'score'} ↑": list(map(number, table["score"], table["score_spread"])),
        "KD × 10³ ↓": formatted(1000 * table["kernel"], ".2f"),
        "prec. / recall ↑": _pairs(table, "precision", "recall"),
        "dens. / cov. ↑": _pairs(table, "density", "coverage"),
        "mem. / auth.": _pairs(table, "nearer", "authenticity"),
        "recon. MSE ↓": formatted(table["reconstruction_mse"], ".4f"),
        "tube, nats ↑ / bits a dim.": _pairs(table, "tube", "tube_bits"),
        "KL, nats ↓": list(map(number, table["divergence"])),
        "parameters": formatted(table["parameters"], ",.0f"),
        "train s": formatted(table["training_seconds"], ".0f"),
    }
    tried = table["candidates"].map(lambda count: f" (of {count})" if count > 1 else "")
    cells["chosen configuration"] = list(table["configuration"] + tried)
    if table["tube"].isna().all():  # as in records of before
        del cells["tube, nats ↑ / bits a dim."]
    return Table("All scores", pandas.DataFrame(cells), {test: table["rank"]})
