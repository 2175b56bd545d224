"""Codes and errors of Pythae's models in evaluation mode."""

__all__ = ["embed", "in_batches", "reconstruction_mse"]

import math
from collections.abc import Callable

import numpy as np
import torch
from pythae.data.datasets import DatasetOutput
from pythae.models import BaseAE, FactorVAE
from pythae.trainers.trainer_utils import set_seed
from torch import Tensor

from pythae_fif.errors import NonFiniteError
from pythae_fif.models.outputs import without_gradients

Array = np.ndarray | Tensor
BATCH_SIZE = 200
"""Images at once."""


def embed(model: BaseAE, images: Array, *, labels: Array | None = None, seed: int = 0) -> Tensor:
    """Codes of images as Pythae's samplers take them: `z` of the model in evaluation mode.

    Images (N, C, H, W) are uint8 or in [0, 1]; a conditional model needs their labels (N,). Where
    the model draws its codes they are draws, by the seed, which all random numbers then have.

    Returns:
        (N, d), or maps of codes (N, d, h, w), on the CPU.

    Raises:
        NonFiniteError: A code is NaN or infinite.
    """
    set_seed(seed)
    codes = in_batches(model, images, _codes, labels)
    if bad := int((~codes.flatten(1).isfinite().all(dim=1)).sum()):
        raise NonFiniteError(f"the codes of {bad} of {len(codes)} training images are not finite")
    return codes


def reconstruction_mse(model: BaseAE, images: Array, labels: Array | None = None) -> float:
    """Mean squared error a pixel of the reconstructions of images, or a value of a table's rows.

    The paper's reconstruction loss is the squared error of an image: D times this, D its values.
    Where the model draws its codes they are draws of torch's state.

    Raises:
        NonFiniteError: It is NaN or infinite.
    """

    def errors(model: BaseAE, x: Tensor, *labels: Tensor) -> Tensor:
        x_hat: Tensor = model.reconstruct(x.clone(), *labels)  # it may write in place
        return (x_hat.reshape(x.shape) - x).cpu().square().flatten(1).mean(1)

    mean = in_batches(model, images, errors, labels).mean().item()
    if not math.isfinite(mean):
        raise NonFiniteError(f"the mean squared error of the reconstructions is {mean}")
    return mean


def _codes(model: BaseAE, x: Tensor, labels: Tensor | None = None) -> Tensor:
    if isinstance(model, FactorVAE):
        output = model.encoder(x)
        noise = torch.randn_like(output.embedding)
        z: Tensor = output.embedding + (0.5 * output.log_covariance).exp() * noise
        return z
    if labels is None and not getattr(model, "condition_dim", 0):  # which says what it lacks
        labels = torch.ones(len(x), device=x.device)
    z = model(DatasetOutput(data=x, labels=labels)).z
    return z


def in_batches(
    model: BaseAE, images: Array, of: Callable[..., Tensor], labels: Array | None = None
) -> Tensor:
    """`of(model, x[, labels])` of float32 batches (B, C, H, W), joined on the CPU."""
    model.eval()
    device = next(model.parameters()).device
    results = []
    for start in range(0, len(images), BATCH_SIZE):
        batch = torch.as_tensor(images[start : start + BATCH_SIZE])
        x = batch.to(device).to(torch.float32, copy=True)  # the model may write in place
        given = [x if batch.is_floating_point() else x.div_(255)]
        if labels is not None:
            given.append(torch.as_tensor(labels[start : start + BATCH_SIZE]).to(device))
        results.append(without_gradients(of, model, *given).detach().cpu())
    return torch.cat(results)
