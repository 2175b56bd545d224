"""One HTML page of an experiment, which opens without a network: pictures and all are inside."""

__all__ = ["page_of"]

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from markupsafe import Markup

from pythae_fif.errors import counted
from pythae_fif.reports.figures import Figure
from pythae_fif.reports.tables import TEXTS, html_of
from pythae_fif.runs.store import Store
from pythae_fif.sampling import SAMPLERS

if TYPE_CHECKING:
    from pythae_fif.reports.report import Report


def page_of(report: "Report", figures: Sequence[Figure], store: Store) -> str:
    """The page as HTML, in the order in which one reads.

    First the sentence, then samples of the best beside test images, then the table of six columns;
    all else is below, folded.

    Args:
        report: What is told.
        figures: Those that were drawn.
        store: Where the runs are, to which the page links, and the page.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline"] = lambda text: Markup(html_of(text))
    environment.filters["embed"] = _embed
    source = report.results[0].evaluation.result.data.source
    models = counted(report.table["model"].nunique(), "model")
    return environment.get_template("page.html").render(
        report=report,
        figures=figures,
        lead=f"{counted(len(report.results), 'run')} of {models}. Data: {source}.",
        runs=_runs(report, store),
        texts=TEXTS,
    )


def _runs(report: "Report", store: Store) -> list[tuple[str, list[tuple[str, str]]]]:
    """Model and sampler -> ids and links of the chosen runs; a packed run has no link."""
    folders = {of.spec.run_id: store.folder(of.spec) for of in report.results}
    links = {
        run_id: f"{folder.relative_to(store.root).as_posix()}/" if folder.is_dir() else ""
        for run_id, folder in folders.items()
    }
    return [
        (
            f"{row.label}, {SAMPLERS[row.sampler].label}, {row.configuration}",
            [(run_id, links[run_id]) for run_id in row.run_ids.split()],
        )
        for row in report.table.itertuples()
    ]


def _embed(figure: Figure) -> Markup:
    """The source of an image that holds a picture as it is."""
    encoded = base64.b64encode(figure.content).decode()
    return Markup(f"data:image/{figure.name.rpartition('.')[2]};base64,{encoded}")
