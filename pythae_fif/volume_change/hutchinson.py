"""Hutchinson vectors: random directions whose second moment is the identity (appendix D.3)."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from pythae_fif.device import full_float32

HutchinsonKind = Literal["orthogonal", "scaled_gaussian", "gaussian", "rademacher"]


def sample_hutchinson(
    batch_size: int,
    latent_dim: int,
    samples: int = 1,
    *,
    kind: HutchinsonKind = "orthogonal",
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Draws vectors :math:`\epsilon_k` with :math:`E[\epsilon \epsilon^\top] = I`.

    * ``orthogonal``: K columns of a random orthonormal basis (Haar's distribution), scaled to
      length :math:`\sqrt d` (appendix D.3.5). Lowest variance; exact at K = d.
    * ``scaled_gaussian``: independent Gaussian vectors scaled to length :math:`\sqrt d` (D.3.3).
    * ``gaussian``: independent standard normal vectors (D.3.2).
    * ``rademacher``: independent entries of plus or minus one (D.3.1).

    Arguments:
        batch_size: B; every sample has directions of its own.
        latent_dim: d, the dimension of the space in which the trace is taken.
        samples: K, between 1 and d.
        kind: One of the names above.
        generator: Makes the draw repeatable; it must live on ``device``.
        device: Where the vectors are made.
        dtype: float32 or float64; torch's default if None.

    Returns:
        eps of shape (K, B, d).

    Raises:
        ValueError: K < 1, K > d, or an unknown ``kind``.

    Example:
        >>> eps = sample_hutchinson(5, 3, samples=3)
        >>> torch.allclose(torch.einsum("kbi,kbj->bij", eps, eps) / 3, torch.eye(3), atol=1e-5)
        True
    """
    if kind not in get_args(HutchinsonKind):
        valid = ", ".join(get_args(HutchinsonKind))
        raise ValueError(f"unknown Hutchinson kind {kind!r}; valid: {valid}")
    if not 1 <= samples <= latent_dim:
        raise ValueError(
            f"{samples} Hutchinson samples in {latent_dim} dimensions: 1 to {latent_dim} are of use"
        )
    shape = (samples, batch_size, latent_dim)
    if kind == "rademacher":
        signs = torch.randint(0, 2, shape, generator=generator, device=device)
        return signs.to(dtype or torch.get_default_dtype()).mul_(2).sub_(1)
    eps = torch.randn(shape, generator=generator, device=device, dtype=dtype)
    return hutchinson_from_gaussian(eps, kind)


def hutchinson_from_gaussian(eps: Tensor, kind: HutchinsonKind) -> Tensor:
    """Makes vectors of any kind but ``rademacher`` of normal ones, (K, ..., d)."""
    samples, latent_dim = eps.shape[0], eps.shape[-1]
    if kind == "gaussian":
        return eps
    if kind == "orthogonal" and samples > 1:
        return _orthonormal(eps.movedim(0, -1)).movedim(-1, 0) * math.sqrt(latent_dim)
    # In one dimension a draw is zero now and then: once in ten million in float32.
    norm: Tensor = torch.linalg.vector_norm(eps, dim=-1, keepdim=True)
    return eps * (math.sqrt(latent_dim) / norm.clamp_min(torch.finfo(eps.dtype).tiny))


@full_float32()
def _orthonormal(normal: Tensor) -> Tensor:
    r"""K orthonormal vectors, uniform among all such, of independent normal ones; (..., d, K) both.

    With normal numbers :math:`x_k`, the k-th column from its k-th entry on, the reflectors
    :math:`H_k = I - 2 v_k v_k^\top` that take :math:`x_k` to a multiple of the k-th unit vector
    have a product of Haar's distribution, up to the sign of each column (Stewart 1980). All at
    once they are

    .. math:: H_1 \cdots H_K = I - V T V^\top, \quad
        T^{-1} = \tfrac12 I + \text{the part of } V^\top V \text{ above its diagonal}

    Unlike QR this does not loop over the batch on a GPU.
    """
    samples, v = normal.shape[-1], normal.tril()
    corner = v.diagonal(dim1=-2, dim2=-1)
    sign = torch.where(corner < 0, -1.0, 1.0).to(v.dtype)
    norm = torch.linalg.vector_norm(v, dim=-2)
    corner.add_(sign * torch.where(norm > 0, norm, 1.0))
    v = v / torch.linalg.vector_norm(v, dim=-2, keepdim=True)
    unit = torch.eye(*normal.shape[-2:], dtype=v.dtype, device=v.device)
    inverse = (v.mT @ v).triu(1) + 0.5 * unit[:samples]
    turned = torch.linalg.solve_triangular(inverse, v[..., :samples, :].mT, upper=True)
    return (v @ turned - unit) * sign[..., None, :]
