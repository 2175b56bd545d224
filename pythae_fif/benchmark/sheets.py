"""Pictures of one trained model: samples, reconstructions, interpolations, latent codes."""

__all__ = ["SIDE", "reference_sheet", "write_sheets"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pythae.models import BaseAE
from torch import Tensor

from pythae_fif.data import Splits, to_float
from pythae_fif.files import write_whole

SIDE = 8  # rows and columns of images of a sheet
SHOWN_CODES = 5000  # a cloud of more points shows no more


def write_sheets(
    run_dir: Path, model: BaseAE, splits: Splits, codes: Tensor, samples: Mapping[str, Tensor]
) -> None:
    """Writes the pictures of a run, each whole, each a PNG.

    - `samples-<sampler>.png`: the first 64 samples.
    - `reconstructions.png`: test images, and below each row of them its reconstructions.
    - `interpolations.png`: straight lines in latent space from one test image to another, a row
      each; not for maps of codes.
    - `latents.png`: the first two principal components of the training codes, in the colours of
      their labels where there are any, with the standard normal's circle of two standard
      deviations; not for maps of codes, nor for codes of one dimension.

    Args:
        run_dir: The run's folder.
        model: Trained; it is put in evaluation mode.
        splits: The images that it was trained on and those held out.
        codes: Training codes, (N, d) or (N, ...).
        samples: Sampler -> samples (n, C, H, W) in [0, 1].

    Raises:
        StoreError: The folder does not take them.
    """
    for sampler, images in samples.items():
        _write(run_dir / f"samples-{sampler}.png", images[: SIDE * SIDE])
    model.eval()
    device = next(model.parameters()).device
    originals = to_float(splits.test, limit=SIDE * SIDE // 2).to(device)
    rows = [originals, _detached(model.reconstruct, originals)]
    pairs = [row.split(SIDE) for row in rows]
    stacked = [half for pair in zip(*pairs, strict=True) for half in pair]
    _write(run_dir / "reconstructions.png", torch.cat(stacked))
    if codes.ndim != 2:
        return
    ends = to_float(splits.test, limit=2 * SIDE).to(device).tensor_split(2)
    count = min(map(len, ends))
    lines = _detached(model.interpolate, ends[0][:count], ends[1][:count], SIDE)
    _write(run_dir / "interpolations.png", lines.flatten(0, 1))
    if codes.shape[1] >= 2:
        labels = None if splits.labels is None else splits.labels["train"]
        _write_latents(run_dir / "latents.png", codes, labels)


def reference_sheet(splits: Splits) -> np.ndarray:
    """The first 64 test images as a sheet, (8 H, 8 W, C) uint8."""
    return _grid(to_float(splits.test, limit=SIDE * SIDE))


def _detached(function, *inputs) -> Tensor:  # type: ignore[no-untyped-def]
    # The forward pass of some models, such as Hamiltonian VAEs, takes derivatives itself.
    with torch.enable_grad():
        return function(*inputs).detach()


def _write(path: Path, images: Tensor) -> None:
    image = Image.fromarray(_grid(images).squeeze())
    write_whole(path, lambda file: image.save(file, "PNG"))


def _grid(images: Tensor) -> np.ndarray:
    """At most 64 images in [0, 1] in rows of eight, black where there are none: (8 H, 8 W, C)."""
    whole = (images.detach().cpu().float().nan_to_num().clamp(0, 1) * 255).round().byte().numpy()
    missing = SIDE * SIDE - len(whole)
    whole = np.concatenate([whole, np.zeros((missing, *whole.shape[1:]), np.uint8)])
    _, channels, height, width = whole.shape
    grid = whole.reshape(SIDE, SIDE, channels, height, width).transpose(0, 3, 1, 4, 2)
    return grid.reshape(SIDE * height, SIDE * width, channels)


def _write_latents(path: Path, codes: Tensor, labels: np.ndarray | None) -> None:
    from matplotlib.figure import Figure  # here, for a run that fails before need not wait for it

    points, origin, shares = _principal_plane(codes.detach().cpu().double())
    figure = Figure(figsize=(5, 4.4), dpi=110, layout="constrained")
    axis = figure.subplots()
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
    write_whole(path, lambda file: figure.savefig(file, format="png"))


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
