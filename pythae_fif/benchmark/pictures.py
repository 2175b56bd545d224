"""Pictures of one trained model: samples, reconstructions, interpolations, latent codes."""

__all__ = ["model_pictures", "reference_sheet", "samples_picture", "sheet"]

from typing import Any

import numpy as np
import torch
from pythae.models import BaseAE
from torch import Tensor

from pythae_fif.data import Splits, to_float
from pythae_fif.evaluation.extractors import rounded_images
from pythae_fif.models.outputs import without_gradients
from pythae_fif.pictures import figure_bytes, new_figure, pixel_bytes
from pythae_fif.sampling.models import reconstruct

SIDE = 8  # rows and columns of images of a sheet
OF_CLASS = 16  # images of a class, in a row
SHOWN_CODES = 5000  # a cloud of more points shows no more
MOST_COLUMNS, ROWS = 8, 1000  # of a table that are drawn


def samples_picture(splits: Splits, samples: Tensor, classes: np.ndarray | None = None) -> bytes:
    """A PNG of samples: the first 64, or of a conditional model a row a class; of rows, marginals.

    Args:
        splits: The data.
        samples: (n, C, H, W) in [0, 1], or standardised rows (n, D).
        classes: (n,), of a conditional model's samples.
    """
    if splits.columns is not None:
        return _rows_picture(splits, samples, "samples")
    if classes is None:
        return pixel_bytes(sheet(samples[: SIDE * SIDE]))
    lines = [
        sheet(samples[classes == label][:OF_CLASS], rows=1, columns=OF_CLASS)
        for label in np.unique(classes)
    ]
    return pixel_bytes(np.concatenate(lines))


def model_pictures(model: BaseAE, splits: Splits, codes: Tensor) -> dict[str, bytes]:
    """The pictures of a model that are no sampler's: name -> PNG.

    - `reconstructions.png`: test images, and below each row of them its reconstructions.
    - `interpolations.png`: straight lines in latent space from one test image to another, a row
      each; not for maps of codes, nor rows of a table.
    - `latents.png`: the first two principal components of the training codes, in the colours of
      their labels where there are any, with the standard normal's circle of two standard
      deviations; not for maps of codes, nor for codes of one dimension.

    Args:
        model: Trained; it is put in evaluation mode.
        splits: The data that it was trained on and those held out.
        codes: Training codes, (N, d) or (N, ...).
    """
    if splits.columns is not None:
        restored = reconstruct(model, splits.test)
        made = {"reconstructions.png": _rows_picture(splits, restored, "reconstructions")}
    else:
        made = _image_pictures(model, splits, codes)
    if codes.ndim == 2 and codes.shape[1] >= 2:
        labels = None if splits.labels is None else splits.labels["train"]
        made["latents.png"] = figure_bytes(_codes_figure(codes, labels))
    return made


def _image_pictures(model: BaseAE, splits: Splits, codes: Tensor) -> dict[str, bytes]:
    model.eval()
    device = next(model.parameters()).device

    def told(count: int) -> dict[str, Any]:
        """The labels of the first test images, for a conditional model."""
        if not getattr(model, "condition_dim", 0) or splits.labels is None:
            return {}
        return {"labels": splits.labels["test"][:count]}

    whole_rows = len(splits.test) // SIDE * SIDE
    originals = to_float(splits.test, limit=min(whole_rows, SIDE * SIDE // 2)).to(device)
    restored = without_gradients(model.reconstruct, originals, **told(len(originals)))
    pairs = [torch.split(row, SIDE) for row in (originals, restored)]
    stacked = [half for pair in zip(*pairs, strict=True) for half in pair]
    made = {"reconstructions.png": pixel_bytes(sheet(torch.cat(stacked)))}
    if codes.ndim == 2:
        ends = to_float(splits.test, limit=2 * SIDE).to(device).tensor_split(2)
        count = min(map(len, ends))
        starts, stops = (images[:count] for images in ends)
        between = without_gradients(model.interpolate, starts, stops, SIDE, **told(count))
        made["interpolations.png"] = pixel_bytes(sheet(between.flatten(0, 1)))
    return made


def reference_sheet(splits: Splits) -> np.ndarray:
    """The first 64 test images as a sheet, (8 H, 8 W, C) uint8."""
    return sheet(to_float(splits.test, limit=SIDE * SIDE))


def sheet(images: Tensor, rows: int = SIDE, columns: int = SIDE) -> np.ndarray:
    """Images in [0, 1] in rows, black where there are none: (rows H, columns W, C)."""
    whole = rounded_images(images.detach().cpu().float().nan_to_num()).numpy()
    missing = rows * columns - len(whole)
    whole = np.concatenate([whole, np.zeros((missing, *whole.shape[1:]), np.uint8)])
    _, channels, height, width = whole.shape
    grid = whole.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    return grid.reshape(rows * height, columns * width, channels)


def _codes_figure(codes: Tensor, labels: np.ndarray | None) -> Any:
    """Codes (N, d) in the plane of their first two principal components."""
    centred = codes.detach().cpu().double()
    mean = centred.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov(centred.T))
    plane = vectors[:, [-1, -2]]
    # Eigenvectors have no sign of their own: the largest entry is positive.
    plane = plane * plane.gather(0, plane.abs().argmax(dim=0, keepdim=True)).sign()
    points, origin = ((centred - mean) @ plane).numpy(), (-mean @ plane).numpy()
    shares = (values / values.clamp(min=0).sum()).flip(0)
    figure = new_figure(5, 4.4)
    axis: Any = figure.subplots()
    style: dict[str, Any] = {"s": 4, "linewidths": 0, "alpha": 0.7, "rasterized": True}
    shown = points[:SHOWN_CODES]
    colours = "tab:blue" if labels is None else [f"C{int(n) % 10}" for n in labels[:SHOWN_CODES]]
    axis.scatter(*shown.T, color=colours, **style)
    angle = np.linspace(0, 2 * np.pi, 200)
    circle = origin[:, None] + 2 * np.stack([np.cos(angle), np.sin(angle)])
    axis.plot(*circle, color="black", linewidth=1)
    axis.set_aspect("equal", "datalim")
    axis.set_xlabel(f"first principal component ({shares[0]:.0%} of the variance)", fontsize=9)
    axis.set_ylabel(f"second ({shares[1]:.0%})", fontsize=9)
    axis.tick_params(labelsize=8)
    return figure


def _rows_picture(splits: Splits, rows: Tensor, label: str) -> bytes:
    """Standardised rows over test rows: histograms on the diagonal, clouds below it."""
    names = list(splits.columns.names) if splits.columns is not None else []
    count = min(len(names), MOST_COLUMNS)
    test, made = splits.test[:ROWS], rows.numpy()[:ROWS]
    low, high = splits.test.min(axis=0), splits.test.max(axis=0)
    figure = new_figure(1.6 * count + 1, 1.6 * count + 1)
    axes: Any = figure.subplots(count, count, squeeze=False)
    dots: dict[str, Any] = {"s": 3, "linewidths": 0, "alpha": 0.5, "rasterized": True}
    for i, j in np.ndindex(count, count):
        axis = axes[i, j]
        axis.tick_params(labelsize=6)
        axis.set_axis_on() if j <= i else axis.set_axis_off()
        for of, colour, name in ((test, "0.6", "test rows"), (made, "tab:red", label)):
            if j < i:
                axis.scatter(of[:, j], of[:, i], color=colour, **dots)
                axis.set(xlim=(low[j], high[j]), ylim=(low[i], high[i]))
            elif j == i:
                bins = np.linspace(low[i], high[i], 30)
                axis.hist(of[:, i], bins, density=True, histtype="step", color=colour, label=name)
        axis.set_xlabel(names[j] if i == count - 1 else "", fontsize=8)
        axis.set_ylabel(names[i] if j == 0 else "", fontsize=8)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper right", fontsize=9)
    return figure_bytes(figure)
