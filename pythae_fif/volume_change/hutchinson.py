"""Hutchinson vectors: random directions with the identity as second moment (appendix D.3)."""

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

    Args:
        batch_size: B. Each sample gets different directions.
        latent_dim: d, the dimension of the vectors.
        samples: K, between 1 and d.
        kind: One of the names above.
        generator: Makes the draw repeatable. It must be on ``device``.
        device: Device of the vectors; torch's default if None.
        dtype: float32 or float64; torch's default if None.

    Returns:
        eps of shape (K, B, d).

    Raises:
        ValueError: If K < 1, K > d or the kind is unknown.

    Example:
        >>> eps = sample_hutchinson(5, 3, samples=3)
        >>> torch.allclose(torch.einsum("kbi,kbj->bij", eps, eps) / 3, torch.eye(3), atol=1e-5)
        True
    """
    if kind not in get_args(HutchinsonKind):
        raise ValueError(
            f"unknown Hutchinson kind {kind!r}; valid: {', '.join(get_args(HutchinsonKind))}"
        )
    if not 1 <= samples <= latent_dim:
        raise ValueError(
            f"cannot draw {samples} Hutchinson vectors in {latent_dim} dimensions: "
            f"use 1 to {latent_dim}"
        )

    shape = (samples, batch_size, latent_dim)
    if kind == "rademacher":
        signs = torch.randint(0, 2, shape, generator=generator, device=device)
        return signs.to(dtype or torch.get_default_dtype()).mul_(2).sub_(1)
    normal = torch.randn(shape, generator=generator, device=device, dtype=dtype)
    return hutchinson_from_gaussian(normal, kind)


def hutchinson_from_gaussian(eps: Tensor, kind: HutchinsonKind) -> Tensor:
    """Turns standard normal vectors into Hutchinson vectors.

    Args:
        eps: Standard normal vectors, (K, ..., d).
        kind: Any kind but ``rademacher``.

    Returns:
        Vectors of that kind, (K, ..., d).
    """
    length = math.sqrt(eps.shape[-1])
    if kind == "gaussian":
        return eps
    if kind == "orthogonal" and len(eps) > 1:
        return _orthonormal(eps.movedim(0, -1)).movedim(-1, 0) * length

    # In one dimension a draw is zero now and then: once in ten million in float32.
    norm: Tensor = torch.linalg.vector_norm(eps, dim=-1, keepdim=True)
    return eps * (length / norm.clamp_min(torch.finfo(eps.dtype).tiny))


@full_float32()
def _orthonormal(normal: Tensor) -> Tensor:
    r"""Turns K independent normal vectors into K uniformly distributed orthonormal ones.

    Both are of shape (..., d, K). Let :math:`x_k` be the k-th column from its k-th entry on, and
    let the reflector :math:`H_k = I - 2 v_k v_k^\top` take :math:`x_k` to a multiple of the k-th
    unit vector. The product of the reflectors has Haar's distribution, up to the sign of each
    column (Stewart 1980). It is computed in one step:

    .. math:: H_1 \cdots H_K = I - V T V^\top, \quad
        T^{-1} = \tfrac12 I + \text{the part of } V^\top V \text{ above its diagonal}

    Unlike QR this does not loop over the batch on a GPU.
    """
    samples = normal.shape[-1]
    v = normal.tril()

    # v_k is x_k plus its length in the k-th entry, with the sign that avoids cancellation.
    diagonal = v.diagonal(dim1=-2, dim2=-1)
    sign = torch.where(diagonal < 0, -1.0, 1.0).to(v.dtype)
    norm = torch.linalg.vector_norm(v, dim=-2)
    diagonal.add_(sign * torch.where(norm > 0, norm, 1.0))
    v = v / torch.linalg.vector_norm(v, dim=-2, keepdim=True)

    identity = torch.eye(*normal.shape[-2:], dtype=v.dtype, device=v.device)
    t_inverse = (v.mT @ v).triu(1) + 0.5 * identity[:samples]
    coefficients = torch.linalg.solve_triangular(t_inverse, v[..., :samples, :].mT, upper=True)
    return (v @ coefficients - identity) * sign[..., None, :]
