"""Exact volume changes from full Jacobians, in chunks that bound memory.

These functions take per-sample maps: networks in evaluation mode (BatchNorm in training mode
mixes the samples of a batch). What follows the points, such as a condition (B, c), goes to the
map with them, and no derivative is taken by it.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pythae_fif.device import full_float32
from pythae_fif.errors import NonFiniteError
from pythae_fif.volume_change.loss import differentiable_kernels, make_jvp

ConditionalMap = Callable[..., Tensor]

CHUNK_NUMEL = 2**21
"""Numbers in a chunk of Jacobians; a layer n times as wide as the data has n times as many."""


def decoder_jacobian(decode: ConditionalMap, z: Tensor, *given: Tensor) -> Tensor:
    """g'(z), (B, D, d), by forward mode, or by backward mode twice where a layer has no other."""

    def push(tangent: Tensor) -> Tensor:
        return torch.func.jvp(lambda z: decode(z, *given), (z,), (tangent,))[1]

    with differentiable_kernels():
        try:
            return _jacobian_columns(push, z).movedim(0, -1)
        except RuntimeError:  # such as recurrent layers raise
            point = z.detach().requires_grad_()
            with torch.enable_grad():
                push = make_jvp(decode(point, *given), point)
            return _jacobian_columns(push, z, at_once=False).movedim(0, -1)


def encoder_jacobian(encode: ConditionalMap, x: Tensor, *given: Tensor) -> Tensor:
    """f'(x), (B, d, D), by backward mode; arguments as for :func:`encoder_log_volume`."""
    with differentiable_kernels():
        try:
            z, pull = torch.func.vjp(lambda x: encode(x, *given), x)[:2]
            return _jacobian_columns(lambda u: pull(u)[0], z).movedim(0, 1)
        except RuntimeError:  # such as an autograd.Function that functorch does not know
            point = x.detach().requires_grad_()
            with torch.enable_grad():
                z = encode(point, *given)
            rows = partial(torch.autograd.grad, z, point, retain_graph=True)
            return _jacobian_columns(lambda u: rows(u)[0], z, at_once=False).movedim(0, 1)


def log_volume(jacobian: Tensor) -> Tensor:
    r"""Log-volume :math:`\frac12 \log\det J^\top J` in nats, by QR of the Jacobian itself.

    QR never forms the Gram matrix, so the condition number is not squared: a Jacobian that is
    singular to rounding gives a very negative number, an exactly singular one minus infinity.

    Arguments:
        jacobian: (B, D, d) or (B, d, D): the longer side is taken for data space, as the volumes of
            J and J^T, (B,), are equal.

    Raises:
        NonFiniteError: A Jacobian has NaN or infinite entries; the message names the samples.

    Example:
        >>> log_volume(torch.tensor([[[2.0, 0.0], [0.0, 3.0], [0.0, 0.0]]])).exp()
        tensor([6.])
    """
    _check_finite(jacobian)
    if jacobian.shape[1] < jacobian.shape[2]:
        jacobian = jacobian.mT
    mode = "reduced" if jacobian.requires_grad else "r"  # torch differentiates only 'reduced'
    triangle = torch.linalg.qr(jacobian, mode=mode).R
    return triangle.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)


def decoder_log_volume(decode: ConditionalMap, z: Tensor, *given: Tensor) -> Tensor:
    """Log-volume of g'(z), (B,); decode is g, from codes (B, d), and what is given, to (B, ...)."""
    return _map_chunks(log_volume, decoder_jacobian, decode, z, given)


def decoder_gram(decode: ConditionalMap, z: Tensor, x: Tensor, *given: Tensor) -> Tensor:
    """Inner products of the columns of (g'(z), x - g(z)), (B, d + 1, d + 1), in float64."""

    def columns(_: ConditionalMap, z: Tensor, x: Tensor, *given: Tensor) -> Tensor:
        across = (x - decode(z, *given)).flatten(1)
        return torch.cat([decoder_jacobian(decode, z, *given), across[..., None]], -1).double()

    both = z, (x, *given)
    return _map_chunks(lambda of: of.mT @ of, columns, lambda z, _, *c: decode(z, *c), *both)


def decoder_singular_values(decode: ConditionalMap, z: Tensor, *given: Tensor) -> Tensor:
    """Singular values of g'(z), descending, (B, d); arguments as for :func:`decoder_log_volume`."""
    return _map_chunks(torch.linalg.svdvals, decoder_jacobian, decode, z, given)


def encoder_log_volume(encode: ConditionalMap, x: Tensor, *given: Tensor) -> Tensor:
    """Log-volume of f'(x), (B,); encode is f, from data (B, ...), and what is given, to (B, d)."""
    return _map_chunks(log_volume, encoder_jacobian, encode, x, given)


def describe_samples(mask: Tensor, first: int = 0) -> str:
    """How many samples a mask (B,) means, and which, counted from `first`, for a message."""
    found = mask.nonzero().flatten().add(first).tolist()
    names = ", ".join(map(str, found[:5])) + (", ..." if len(found) > 5 else "")
    return f"{len(found)} of {len(mask)} samples (samples {names})"


@full_float32()
@torch.no_grad()
def _map_chunks(
    score: Callable[..., Tensor],
    jacobian_of: Callable[..., Tensor],
    function: ConditionalMap,
    points: Tensor,
    given: tuple[Tensor, ...],
) -> Tensor:
    """score(J), a few samples at a time."""
    one = function(points[:1], *(part[:1] for part in given))
    size = max(1, CHUNK_NUMEL // max(1, one.numel() * points[:1].numel()))
    scores: list[Tensor] = []
    for chunk in zip(*(part.split(size) for part in (points, *given)), strict=True):
        jacobian = jacobian_of(function, *chunk)
        _check_finite(jacobian, size * len(scores))
        precision = torch.promote_types(jacobian.dtype, torch.float32)  # LAPACK has no half
        scores.append(score(jacobian.to(precision)))
    function(points[:1], *(part[:1] for part in given))  # a network may keep torch.func's tensors
    return torch.cat(scores)


def _jacobian_columns(product: ConditionalMap, z: Tensor, at_once: bool = True) -> Tensor:
    """The products with all d unit vectors, which all samples share, (d, B, D)."""

    def one(e: Tensor) -> Tensor:
        return product(e.expand_as(z)).flatten(1)

    basis = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    return torch.func.vmap(one)(basis) if at_once else torch.stack([*map(one, basis)])


def _check_finite(jacobian: Tensor, first: int = 0) -> None:
    finite = jacobian.isfinite().flatten(1).all(1)
    if not finite.all():
        raise NonFiniteError(f"the Jacobian is not finite for {describe_samples(~finite, first)}")
