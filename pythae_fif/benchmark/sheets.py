"""Pictures of one trained model: samples, reconstructions, interpolations, latent codes."""

__all__ = [
    "OF_CLASS",
    "RECONSTRUCTIONS",
    "SIDE",
    "classes_name",
    "reference_sheet",
    "samples_name",
    "sheet",
    "write_samples",
    "write_sheets",
]

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pythae.models import BaseAE
from torch import Tensor

from pythae_fif.benchmark.table_sheets import write_rows_sheet
from pythae_fif.data import Splits, to_float
from pythae_fif.evaluation.images import rounded_images
from pythae_fif.models.outputs import without_gradients
from pythae_fif.pictures import new_figure, write_figure, write_pixels
from pythae_fif.sampling.models import reconstruct

SIDE = 8  # rows and columns of images of a sheet
OF_CLASS = 16  # images of a class, in a row
SHOWN_CODES = 5000  # a cloud of more points shows no more

RECONSTRUCTIONS = "reconstructions.png"


def samples_name(sampler: str) -> str:
    """The name of the sheet of a sampler's samples."""
    return f"samples-{sampler}.png"


def classes_name(sampler: str) -> str:
    """The name of the picture of a sampler's samples, a row a class."""
    return f"classes-{sampler}.png"


def write_samples(
    run_dir: Path,
    splits: Splits,
    sampler: str,
    samples: Tensor,
    labels: np.ndarray | None = None,
) -> None:
    """Writes the pictures of a sampler's samples, each whole, each a PNG.

    - `samples-<sampler>.png`: the first 64 samples.
    - `classes-<sampler>.png`, if there are labels: the first 16 samples of each class of the
      training data, a row each in the order of the labels; black where there are fewer.

    Of a table the first is that of :func:`~pythae_fif.benchmark.table_sheets.write_rows_sheet`.

    Args:
        run_dir: The run's folder.
        splits: The data of the run.
        sampler: Its name.
        samples: (n, C, H, W) in [0, 1], or rows (n, D).
        labels: (n,), of a conditional model's samples.

    Raises:
        StoreError: The folder does not take them.
    """
    if splits.columns is not None:
        write_rows_sheet(run_dir, splits, f"samples-{sampler}", samples)
        return
    write_pixels(run_dir / samples_name(sampler), sheet(samples[: SIDE * SIDE]))
    if labels is not None and splits.labels is not None:
        lines = [
            sheet(samples[labels == label][:OF_CLASS], rows=1, columns=OF_CLASS)
            for label in np.unique(splits.labels["train"])
        ]
        write_pixels(run_dir / classes_name(sampler), np.concatenate(lines))


def write_sheets(run_dir: Path, model: BaseAE, splits: Splits, codes: Tensor) -> None:
    """Writes the pictures of a model, each whole, each a PNG.

    - `reconstructions.png`: test images, and below each row of them its reconstructions.
    - `interpolations.png`: straight lines in latent space from one test image to another, a row
      each; not for maps of codes.
    - `latents.png`: the first two principal components of the training codes, in the colours of
      their labels where there are any, with the standard normal's circle of two standard
      deviations; not for maps of codes, nor for codes of one dimension.

    Of a table the first is that of :func:`~pythae_fif.benchmark.table_sheets.write_rows_sheet`,
    and there are no interpolations.

    Args:
        run_dir: The run's folder.
        model: Trained; it is put in evaluation mode.
        splits: The images that it was trained on and those held out.
        codes: Training codes, (N, d) or (N, ...).

    Raises:
        StoreError: The folder does not take them.
    """
    if splits.columns is not None:
        write_rows_sheet(run_dir, splits, "reconstructions", reconstruct(model, splits.test))
    else:
        _write_image_sheets(run_dir, model, splits, codes)
    if codes.ndim == 2 and codes.shape[1] >= 2:
        labels = None if splits.labels is None else splits.labels["train"]
        write_figure(run_dir / "latents.png", _codes_figure(codes, labels))


def _write_image_sheets(run_dir: Path, model: BaseAE, splits: Splits, codes: Tensor) -> None:
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
    write_pixels(run_dir / RECONSTRUCTIONS, sheet(torch.cat(stacked)))
    if codes.ndim != 2:
        return
    ends = to_float(splits.test, limit=2 * SIDE).to(device).tensor_split(2)
    count = min(map(len, ends))
    starts, stops = (images[:count] for images in ends)
    between = without_gradients(model.interpolate, starts, stops, SIDE, **told(count))
    write_pixels(run_dir / "interpolations.png", sheet(between.flatten(0, 1)))


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
    points, origin, shares = _principal_plane(codes.detach().cpu().double())
    figure = new_figure(5, 4.4)
    axis: Any = figure.subplots()
    style: dict[str, Any] = {"s": 4, "linewidths": 0, "alpha": 0.7, "rasterized": True}
    shown = points[:SHOWN_CODES]
    if labels is None:
        axis.scatter(*shown.T, color="tab:blue", **style)
    else:
        for label in np.unique(labels):
            of_label = shown[labels[:SHOWN_CODES] == label]
            colour = f"C{int(label) % 10}"
            axis.scatter(*of_label.T, color=colour, label=str(label), **style)
        if len(np.unique(labels)) <= 12:
            axis.legend(markerscale=3, fontsize=8, frameon=False, bbox_to_anchor=(1, 1))
    angle = np.linspace(0, 2 * np.pi, 200)
    circle = origin[:, None] + 2 * np.stack([np.cos(angle), np.sin(angle)])
    axis.plot(*circle, color="black", linewidth=1)
    axis.set_aspect("equal", "datalim")
    axis.set_xlabel(f"first principal component ({shares[0]:.0%} of the variance)", fontsize=9)
    axis.set_ylabel(f"second ({shares[1]:.0%})", fontsize=9)
    axis.tick_params(labelsize=8)
    return figure


def _principal_plane(codes: Tensor) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Codes (N, d) in their first two principal components.

    Returns:
        The points (N, 2); the place (2,) of the latent space's origin, about which the standard
        normal lies; the two components' shares of the variance.
    """
    mean = codes.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov(codes.T))
    plane = vectors[:, [-1, -2]]
    # Eigenvectors have no sign of their own: the largest entry is positive.
    plane = plane * plane.gather(0, plane.abs().argmax(dim=0, keepdim=True)).sign()
    total = float(values.clamp(min=0).sum()) or 1.0
    shares = [float(values[i]) / total for i in (-1, -2)]
    return ((codes - mean) @ plane).numpy(), (-mean @ plane).numpy(), shares
