"""One HTML page of an experiment, which opens without a network: pictures and all are inside."""

__all__ = ["FigureFile", "experiment_page"]

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup
from PIL import Image

from pythae_fif.benchmark.model_entry import read_model_entry
from pythae_fif.benchmark.selection import Result
from pythae_fif.errors import counted, printable
from pythae_fif.reports.grid import Grid
from pythae_fif.reports.report import Report
from pythae_fif.runs.record import CHANGED


class FigureFile(NamedTuple):
    """A figure of the experiment: its kind and title, what it shows, and its file."""

    kind: str
    title: str
    shows: str
    path: Path


def experiment_page(
    report: Report,
    scores: Grid,
    grids: Mapping[str, Grid],
    figures: Sequence[FigureFile],
) -> str:
    """The page as HTML.

    Args:
        report: The scores of the experiment.
        scores: Their table.
        grids: Name of every other table -> table.
        figures: The figures that were drawn.
    """
    models = dict.fromkeys(choice.model for choice in report.choices)
    entries = [read_model_entry(model) for model in models]
    sources = [
        " ".join([f"{entry.label}: {entry.source}.", *(f"{n.rstrip('.')}." for n in entry.notes)])
        for entry in entries
    ]
    runs = [
        f"{row.model}, {row.sampler}: `runs/{choice.spec.folder}` {' '.join(row.run_ids)}."
        for row, choice in zip(report.rows, report.choices, strict=True)
    ]
    lead = (
        f"{counted(len(report.results), 'finished run')} of {counted(len(models), 'model')}, "
        f"scored by {report.distance}. Data: {report.results[0].record.data.source}."
    )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"inline": _inline, "embed": _embed}
    return environment.get_template("page.html").render(
        title=report.title,
        lead=lead,
        models=[entry.label for entry in entries],
        tables={"scores": ("Scores", scores)}
        | {k: (grid.title, grid) for k, grid in grids.items()},
        figures={f"figure-{figure.kind}": (figure.title, figure) for figure in figures},
        lists={
            "runs": ("Runs of the table, and their pictures", runs),
            "sources": ("Models and their sources", sources),
            "provenance": ("Provenance", _provenance(report.results)),
        },
    )


def _inline(text: str) -> Markup:
    """Escaped, with what stands between backticks as code; an arrow stays at its heading's end."""
    code = re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(printable(text)))
    return Markup(re.sub(r" ([↑↓])", r"&nbsp;\1", code))


def _embed(path: Path) -> Markup:
    """The attributes of an image that holds a picture file as it is."""
    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        form, width, height = str(image.format).lower(), *image.size
    encoded = base64.b64encode(data).decode()
    return Markup(f'src="data:image/{form};base64,{encoded}" width="{width}" height="{height}"')


def _provenance(results: Sequence[Result]) -> list[str]:
    """Where and with what the runs were made: each distinct value once."""
    provenance = [result.record.provenance for result in results]
    lines: dict[str, list[str | None]] = {
        "Device": [p.device for p in provenance],
        "Versions": [", ".join(f"{k} {v}" for k, v in p.versions.items()) for p in provenance],
        "Python": [p.python for p in provenance],
        "Revision": [
            revision.replace(CHANGED, " with changes")
            for result in results
            for revision in result.record.revisions
        ],
        "Training data": [f"{result.record.data.sizes['train']:,}" for result in results],
        "Data": [result.spec.data_hash for result in results],
        "Started": [*sorted(p.started[:10] for p in provenance if p.started)],
    }
    found = {key: dict.fromkeys(v for v in values if v) for key, values in lines.items()}
    return [f"{key}: {'; '.join(values)}." for key, values in found.items() if values]
