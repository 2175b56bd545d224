"""Pictures as small files: Matplotlib figures and arrays of pixels.

A picture that stays the same leaves its file as it is.
"""

__all__ = [
    "DPI",
    "figure_bytes",
    "new_figure",
    "pixel_bytes",
    "write_figure",
]

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from pythae_fif.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110
UNSEEN = 12
"""Of 255: the largest error of a channel, where a palette of 256 colours stands for all."""


def new_figure(width: float, height: float) -> "Figure":
    """An empty Matplotlib figure of so many inches, which lays out its axes itself."""
    from matplotlib.figure import Figure  # a command that draws nothing need not wait for it

    return Figure(figsize=(width, height), layout="constrained")


def figure_bytes(figure: "Figure", suffix: str = ".png", dpi: int = DPI) -> bytes:
    """A figure as a file, as small as it can be with no loss to the eye.

    PNG with a palette of 256 colours where these are near enough to all; WebP, which suits
    photographs, of quality 90, or without loss where that is smaller, as of a few large pixels.
    """
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    with Image.open(drawn) as image:
        whole = image.convert("RGB")
    if suffix == ".webp":
        exact = io.BytesIO()
        whole.save(small, "WEBP", quality=90)
        whole.save(exact, "WEBP", lossless=True)
        return min(small.getvalue(), exact.getvalue(), key=len)
    few = whole.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    error = np.asarray(few.convert("RGB"), np.int16) - np.asarray(whole)
    near = np.abs(error).max() <= UNSEEN
    (few if near else whole).save(small, "PNG", optimize=True)
    return small.getvalue()


def write_figure(path: Path, figure: "Figure", dpi: int = DPI) -> None:
    """Writes a figure as PNG, or as WebP where the path's suffix says so, after its folder."""
    write_bytes(path, figure_bytes(figure, path.suffix, dpi))


def pixel_bytes(pixels: np.ndarray) -> bytes:
    """uint8 pixels (H, W) or (H, W, C) as PNG; a single channel is grey."""
    png = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(png, "PNG")
    return png.getvalue()
