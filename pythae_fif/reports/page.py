"""One HTML page of an experiment, which opens without a network: pictures and all are inside."""

__all__ = ["FigureFile", "ImageStore", "experiment_page"]

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from pythae_fif.benchmark.model_entry import load_model_entry
from pythae_fif.benchmark.plan import RunSpec
from pythae_fif.benchmark.record import ImageRecord
from pythae_fif.benchmark.selection import Choice, Result
from pythae_fif.benchmark.sheets import CODES, SHEETS, samples_name
from pythae_fif.errors import printable
from pythae_fif.pictures import read_pixels
from pythae_fif.reports.grid import Grid
from pythae_fif.reports.sample_figure import tiles
from pythae_fif.reports.score_table import SAMPLER_LABELS, Report
from pythae_fif.runs.store import Store

SHEET_ROWS = 4  # of the eight of a sheet
SMALL = 300_000  # bytes of a drawing; a larger picture is one of photographs

ImageStore = Store[RunSpec, ImageRecord]
"""Where the runs of the benchmark are, and the reports go."""


class FigureFile(NamedTuple):
    """A figure of the experiment: its kind and title, what it shows, and its PNG."""

    kind: str
    title: str
    shows: str
    path: Path


class _Picture(NamedTuple):
    """A picture inside the page; `pixels` tells that it is small, and enlarged unsmoothed."""

    uri: str
    width: int
    height: int
    alt: str
    pixels: bool = False


class _Gallery(NamedTuple):
    """The pictures of one model; `detail` stands beside its name."""

    label: str
    detail: str
    pictures: list[_Picture]


def experiment_page(
    store: ImageStore,
    report: Report,
    scores: Grid,
    grids: Mapping[str, Grid],
    figures: Sequence[FigureFile],
) -> str:
    """The page as HTML.

    Args:
        store: Where the runs and their pictures are.
        report: The scores of the experiment.
        scores: Their table.
        grids: Name of every other table -> table.
        figures: The figures that were drawn.
    """
    models = dict.fromkeys(choice.model for choice in report.choices)
    entries = [load_model_entry(model) for model in models]
    sources = [
        " ".join([f"{entry.label}: {entry.source}.", *(f"{n.rstrip('.')}." for n in entry.notes)])
        for entry in entries
    ]
    lead = (
        f"{len(report.results)} finished runs of {len(models)} models, scored by "
        f"{report.distance}. Data: {report.results[0].record.data.source}."
    )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["inline"] = _inline
    return environment.get_template("page.html").render(
        title=report.title,
        lead=lead,
        tables={"scores": ("Scores", scores)}
        | {k: (grid.title, grid) for k, grid in grids.items()},
        figures={f"figure-{f.kind}": (f.title, *_pictures({f.path: f.shows})) for f in figures},
        models=_galleries(store, report.choices),
        lists={
            "sources": ("Models and their sources", sources),
            "provenance": ("Provenance", _provenance(report.results)),
        },
    )


def _inline(text: str) -> Markup:
    """Escaped, with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(printable(text))))


def _pictures(paths: Mapping[Path, str], *, sheets: bool = False) -> list[_Picture]:
    """The picture files that are there as data, of sheets the first rows; path -> what it shows.

    WebP: drawings and sheets of grey images without loss, photographs with quality 85.
    """
    found = {path: pixels for path in paths if (pixels := read_pixels(path)) is not None}
    return [_picture(path, pixels, paths[path], sheets) for path, pixels in found.items()]


def _picture(path: Path, pixels: np.ndarray, alt: str, sheet: bool) -> _Picture:
    image = Image.fromarray(tiles(pixels, SHEET_ROWS) if sheet else pixels)
    image = image if sheet else image.convert("RGB")
    photographs = image.mode == "RGB" if sheet else path.stat().st_size > SMALL
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=not photographs, quality=85, method=4)
    data = base64.b64encode(file.getvalue()).decode()
    uri = f"data:image/webp;base64,{data}"
    return _Picture(uri, image.width, image.height, alt, pixels=sheet and image.width < 400)


def _galleries(store: ImageStore, choices: Sequence[Choice]) -> list[_Gallery]:
    """The pictures of the chosen runs; what a run has no file of is left out."""
    grouped: dict[str, list[Choice]] = {}
    for choice in choices:
        grouped.setdefault(choice.model, []).append(choice)
    galleries = []
    for model, chosen in grouped.items():
        shown: dict[Path, str] = {}
        for choice in chosen:
            alt = f"{SAMPLER_LABELS[choice.sampler]} samples"
            if choice.spec.varied:
                alt += f" ({choice.spec.configuration})"
            shown[store.run_dir(choice.spec) / samples_name(choice.sampler)] = alt
        spec = chosen[0].spec
        shown |= {store.run_dir(spec) / name: alt for name, alt in SHEETS.items()}
        pictures = _pictures(shown, sheets=spec.arch != "tabular")
        alt = (
            "training codes in two principal components, with the standard normal's circle of two "
            "standard deviations"
        )
        pictures += _pictures({store.run_dir(spec) / CODES: alt})
        label = load_model_entry(model).label
        galleries.append(_Gallery(label, f"run {spec.run_id}", pictures))
    return galleries


def _provenance(results: Sequence[Result]) -> list[str]:
    """Where and with what the runs were made: each distinct value once."""
    provenance = [result.record.provenance for result in results]
    lines: dict[str, list[str | None]] = {
        "Device": [p.device for p in provenance],
        "Versions": [", ".join(f"{k} {v}" for k, v in p.versions.items()) for p in provenance],
        "Python": [p.python for p in provenance],
        "Revision": [
            f"{p.git_revision} with changes" if p.git_dirty else p.git_revision for p in provenance
        ],
        "Training data": [f"{result.record.data.sizes['train']:,}" for result in results],
        "Data": [result.spec.data_hash for result in results],
        "Started": [*sorted(p.started[:10] for p in provenance if p.started)],
    }
    found = {key: dict.fromkeys(v for v in values if v) for key, values in lines.items()}
    return [f"{key}: {'; '.join(values)}." for key, values in found.items() if values]
