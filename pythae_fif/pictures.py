"""Pictures as small files: Matplotlib figures and arrays of pixels."""

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110


def new_figure(width: float, height: float) -> "Figure":
    """An empty Matplotlib figure of so many inches, which lays out its axes itself."""
    from matplotlib.figure import Figure  # a command that draws nothing need not wait for it

    return Figure(figsize=(width, height), layout="constrained")


def figure_bytes(figure: "Figure", suffix: str = ".png") -> bytes:
    """A figure as a PNG of 256 colours, or as `.webp`, which suits photographs."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    image = Image.open(drawn).convert("RGB")
    if suffix == ".webp":
        image.save(small, "WEBP", quality=90)
    else:
        few = image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(small, "PNG", optimize=True)
    return small.getvalue()


def pixel_bytes(pixels: np.ndarray) -> bytes:
    """uint8 pixels (H, W) or (H, W, C) as PNG; a single channel is grey."""
    png = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(png, "PNG")
    return png.getvalue()
