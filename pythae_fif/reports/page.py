"""One HTML page of an experiment, which opens without a network: pictures and all are inside."""

__all__ = ["Gallery", "Picture", "Section", "picture_of", "render_page"]

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from markupsafe import Markup
from PIL import Image

from pythae_fif.reports.figures import tiles
from pythae_fif.reports.grid import Grid, inline_html, to_html

SHEET_ROWS = 4  # of the eight of a sheet
SMALL = 300_000  # bytes of a drawing; a larger picture is one of photographs


@dataclass(frozen=True)
class Picture:
    """A picture inside the page.

    Attributes:
        uri: Its data.
        width, height: In pixels.
        alt: What it shows.
        pixels: Whether it is so small that it is enlarged without smoothing.
    """

    uri: str
    width: int
    height: int
    alt: str
    pixels: bool = False


@dataclass(frozen=True)
class Gallery:
    """The pictures of one model; `detail` stands beside its name."""

    label: str
    detail: str
    pictures: list[Picture]


@dataclass(frozen=True)
class Section:
    """A part of the page; whatever of it is empty is left out.

    Attributes:
        id: Its anchor.
        title: Its heading.
        bullets: A list, with `code` marked as in Markdown.
        grids: Tables.
        pictures: Over the whole width.
        models: Galleries.
    """

    id: str
    title: str
    bullets: list[str] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    models: list[Gallery] = field(default_factory=list)


def picture_of(path: Path, alt: str, *, sheet: bool = False) -> Picture:
    """A picture file as data; of a sheet the first rows.

    WebP: drawings and sheets of grey images without loss, photographs with quality 85.
    """
    image = Image.fromarray(tiles(path, SHEET_ROWS)) if sheet else Image.open(path).convert("RGB")
    photographs = image.mode == "RGB" if sheet else path.stat().st_size > SMALL
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=not photographs, quality=85, method=4)
    data = base64.b64encode(file.getvalue()).decode()
    uri = f"data:image/webp;base64,{data}"
    return Picture(uri, image.width, image.height, alt, pixels=sheet and image.width < 400)


def render_page(title: str, lead: str, sections: list[Section]) -> str:
    """The page as HTML.

    Args:
        title: Its heading.
        lead: The sentence below it.
        sections: In order.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    shown = [
        {
            **vars(section),
            "bullets": [Markup(inline_html(item)) for item in section.bullets],
            "tables": [Markup(to_html(grid)) for grid in section.grids],
        }
        for section in sections
    ]
    return environment.get_template("page.html").render(title=title, lead=lead, sections=shown)
