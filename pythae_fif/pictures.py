"""Pictures as PNG files: Matplotlib figures and arrays of pixels.

A picture that stays the same leaves its file as it is.
"""

__all__ = ["new_figure", "read_pixels", "write_figure", "write_pixels"]

import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from pythae_fif.files import set_aside, write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)


def new_figure(width: float, height: float) -> "Figure":
    """An empty Matplotlib figure, which lays out its axes itself.

    Args:
        width, height: In inches.
    """
    from matplotlib.figure import Figure  # a command that draws nothing need not wait for it

    return Figure(figsize=(width, height), layout="constrained")


def write_figure(path: Path, figure: "Figure", dpi: int = 110) -> None:
    """Writes a figure as PNG.

    Args:
        path: The file; its folder is made.
        figure: The Matplotlib figure.
        dpi: Dots an inch.

    Raises:
        StoreError: The folder cannot be made, or does not take the file.
    """
    png = io.BytesIO()
    # Without Matplotlib's version, for a file is the same with the next one, too.
    figure.savefig(png, format="png", dpi=dpi, metadata={"Software": None})
    write_bytes(path, png.getvalue())


def write_pixels(path: Path, pixels: np.ndarray) -> None:
    """Writes uint8 pixels (H, W) or (H, W, C) as PNG.

    Args:
        path: The file; its folder is made.
        pixels: A single channel is grey.

    Raises:
        StoreError: The folder cannot be made, or does not take the file.
    """
    png = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(png, "PNG")
    write_bytes(path, png.getvalue())


def read_pixels(path: Path) -> np.ndarray | None:
    """The pixels of a picture, (H, W) or (H, W, C) uint8; None where there is none.

    A damaged one is set aside, and the command that made it draws it anew.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except FileNotFoundError:
        return None
    except (OSError, SyntaxError, ValueError) as error:  # as Pillow raises them
        logger.warning("%s is damaged (%s): set aside as %s", path, error, set_aside(path).name)
        return None
