"""Encodes Matplotlib figures and arrays of pixels as small image files."""

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110
"""Resolution of figures, in pixels per inch."""


def new_figure(width: float, height: float) -> "Figure":
    """Returns an empty Matplotlib figure with automatic layout.

    Args:
        width: Width in inches.
        height: Height in inches.
    """
    # Imported here, because Matplotlib is slow to import and most commands draw nothing.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def figure_bytes(figure: "Figure", suffix: str = ".png") -> bytes:
    """Encodes a figure.

    Args:
        figure: A Matplotlib figure.
        suffix: `.png` for a PNG with 256 colours, `.webp` for a WebP, which suits photographs.

    Returns:
        The content of the image file.
    """
    drawing = io.BytesIO()
    figure.savefig(drawing, format="png", dpi=DPI)
    image = Image.open(drawing).convert("RGB")

    encoded = io.BytesIO()
    if suffix == ".webp":
        image.save(encoded, "WEBP", quality=90)
    else:
        palette_image = image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        palette_image.save(encoded, "PNG", optimize=True)
    return encoded.getvalue()


def pixel_bytes(pixels: np.ndarray) -> bytes:
    """Encodes uint8 pixels (H, W) or (H, W, C) as PNG. An image with one channel is grey."""
    encoded = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(encoded, "PNG")
    return encoded.getvalue()
