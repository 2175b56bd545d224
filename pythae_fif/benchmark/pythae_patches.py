"""Faster versions of operations in Pythae's models, with the same results."""

import functools

import torch
from pythae.models import INFOVAE_MMD, WAE_MMD, BaseAE, FactorVAE
from torch import Tensor


def patch_slow_ops(model: BaseAE) -> BaseAE:
    """Replaces slow functions of a model, on this instance only, and returns it.

    The model keeps Pythae's class. Subclasses of Pythae's models stay as they are, because the
    user may have changed what these functions compute.
    """
    if type(model) in (WAE_MMD, INFOVAE_MMD):
        base = 2.0 * model.latent_dim * model.model_config.kernel_bandwidth**2
        scales = tuple(scale * base for scale in model.scales)
        model.imq_kernel = functools.partial(imq_kernel, scales)
    if type(model) is FactorVAE:
        model._permute_dims = shuffle_latents
    return model


def imq_kernel(scales: tuple[float, ...], z1: Tensor, z2: Tensor) -> Tensor:
    """Computes the inverse multiquadratic kernel, the sum over scales C of C / (C + |z - z'|^2).

    The distances are computed once for all scales; Pythae computes them for each scale.

    Args:
        scales: The scales C.
        z1: Codes (N, d).
        z2: Codes (M, d).

    Returns:
        The kernel of all pairs of codes (N, M).
    """
    squared_distances = (z1.unsqueeze(1) - z2.unsqueeze(0)).square().sum(-1, keepdim=True)
    c = _scales_on(scales, z1.device, z1.dtype)
    return (c / (c + squared_distances)).sum(-1)


@functools.cache
def _scales_on(scales: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Returns the scales as a tensor, which is made once for each device and type."""
    return torch.tensor(scales, device=device, dtype=dtype)


def shuffle_latents(z: Tensor) -> Tensor:
    """Permutes each column of the codes (N, d) independently of the other columns.

    All orders are drawn at once; Pythae draws them one by one.
    """
    return z.gather(0, torch.rand_like(z).argsort(0))
