"""Exact volume changes from full Jacobians, in chunks that bound memory.

These functions take per-sample maps: networks in evaluation mode (BatchNorm in training mode
mixes the samples of a batch, so that no Jacobian belongs to one sample alone).
"""

__all__ = [
    "decoder_jacobian",
    "decoder_log_volume",
    "decoder_singular_values",
    "encoder_jacobian",
    "encoder_log_volume",
    "log_volume",
    "named_samples",
    "singular_values",
]

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pythae_fif.errors import NonFiniteError
from pythae_fif.volume_change.precision import full_float32
from pythae_fif.volume_change.surrogates import Map, differentiable_kernels

CHUNK_NUMEL = 2**23
"""Numbers in a chunk of Jacobians, and in one layer's tangents: 32 MB each in float32."""


def decoder_jacobian(
    decode: Map, z: Tensor, *, latent_dim: int | None = None, directions: int | None = None
) -> Tensor:
    """g'(z), column by column in forward mode.

    Arguments:
        decode: g, from (B, d) to (B, ...).
        z: Codes, (B, d), or codes with a condition behind them, (B, d + c).
        latent_dim: d; the number of columns of z if None.
        directions: Columns computed at a time; all d if None.

    Returns:
        (B, D, d), with D the number of outputs of one sample.
    """
    basis = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)[:latent_dim]

    def column(direction: Tensor) -> Tensor:
        product: Tensor = torch.func.jvp(decode, (z,), (direction.expand_as(z),))[1].flatten(1)
        return product

    with differentiable_kernels():
        # The columns come first: where they do not depend on the direction, vmap with another
        # out_dims than 0 fails or returns a wrong shape.
        return torch.func.vmap(column, chunk_size=directions)(basis).movedim(0, -1)


def encoder_jacobian(encode: Map, x: Tensor, *, directions: int | None = None) -> Tensor:
    """f'(x), row by row in backward mode.

    Arguments:
        encode: f, from (B, ...) to (B, d).
        x: Data, (B, ...).
        directions: Rows computed at a time; all d if None.

    Returns:
        (B, d, D).
    """
    with differentiable_kernels():
        z, pull = torch.func.vjp(encode, x)[:2]
        basis = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)

        def row(direction: Tensor) -> Tensor:
            product: Tensor = pull(direction.expand_as(z))[0].flatten(1)
            return product

        return torch.func.vmap(row, chunk_size=directions)(basis).movedim(0, 1)


def log_volume(jacobian: Tensor, first: int = 0) -> Tensor:
    r"""Log-volume :math:`\frac12 \log\det J^\top J` in nats, by QR of the Jacobian itself.

    QR never forms the Gram matrix, so the condition number is not squared: a Jacobian that is
    singular to rounding gives a very negative number, an exactly singular one minus infinity.
    Huge entries are scaled down before, as lengths of their columns would overflow.

    Arguments:
        jacobian: (B, D, d) or (B, d, D): the longer side is taken for data space, as
            the volumes of J and J^T are equal.
        first: Number of the first sample, in the message of an error.

    Returns:
        (B,).

    Raises:
        NonFiniteError: A Jacobian has NaN or infinite entries; the message names the samples.

    Example:
        >>> log_volume(torch.tensor([[[2.0, 0.0], [0.0, 3.0], [0.0, 0.0]]])).exp()
        tensor([6.])
    """
    scale = (_largest(jacobian, first) / torch.finfo(jacobian.dtype).max ** 0.75).clamp_min(1)
    if jacobian.shape[1] < jacobian.shape[2]:
        jacobian = jacobian.mT
    mode = "reduced" if jacobian.requires_grad else "r"  # torch differentiates only 'reduced'
    triangle = torch.linalg.qr(jacobian / scale[:, None, None], mode=mode).R
    diagonal = triangle.diagonal(dim1=-2, dim2=-1)
    volume: Tensor = (diagonal.abs().log() + scale[:, None].log()).sum(-1)
    return volume


def singular_values(jacobian: Tensor, first: int = 0) -> Tensor:
    """Singular values in descending order, (B, min(d, D)); all else as of :func:`log_volume`."""
    _largest(jacobian, first)
    values: Tensor = torch.linalg.svdvals(jacobian)
    return values


def decoder_log_volume(decode: Map, z: Tensor, *, latent_dim: int | None = None) -> Tensor:
    """:func:`log_volume` of :func:`decoder_jacobian`, (B,), a few samples at a time."""
    return _of_decoder(log_volume, decode, z, latent_dim)


def decoder_singular_values(decode: Map, z: Tensor, *, latent_dim: int | None = None) -> Tensor:
    """:func:`singular_values` of :func:`decoder_jacobian`, (B, d), a few samples at a time."""
    return _of_decoder(singular_values, decode, z, latent_dim)


def encoder_log_volume(encode: Map, x: Tensor, *, data_dim: int | None = None) -> Tensor:
    r"""Log-volume :math:`\frac12 \log\det f'(x) f'(x)^\top` in nats, a few samples at a time.

    Arguments:
        encode: f, from (B, ...) to (B, d).
        x: Data, (B, ...), or data with a condition behind them.
        data_dim: D, the first numbers of a sample, by which the derivatives are; all if None.

    Returns:
        (B,).

    Raises:
        NonFiniteError: A Jacobian has NaN or infinite entries; the message names the samples.
    """

    def score(rows: Tensor, first: int) -> Tensor:
        return log_volume(rows[..., :data_dim], first)

    if not len(x):
        return x.new_empty(0)
    return _over_chunks(score, encoder_jacobian, encode, x, x[0].numel())


def named_samples(mask: Tensor, first: int = 0) -> str:
    """How many samples a mask (B,) means, and which, counted from `first`, for a message.

    Example:
        >>> named_samples(torch.tensor([False, True, True]))
        '2 of 3 samples (samples 1, 2)'
    """
    found = mask.nonzero().flatten().add(first).tolist()
    names = ", ".join(map(str, found[:5])) + (", ..." if len(found) > 5 else "")
    return f"{len(found)} of {len(mask)} samples (samples {names})"


def _of_decoder(
    score: Callable[..., Tensor], decode: Map, z: Tensor, latent_dim: int | None
) -> Tensor:
    columns = z.shape[1] if latent_dim is None else latent_dim
    if not len(z):
        with torch.no_grad():
            return score(z.new_empty(0, decode(z).shape[1:].numel(), columns))

    def jacobian(decode: Map, z: Tensor, *, directions: int) -> Tensor:
        return decoder_jacobian(decode, z, latent_dim=columns, directions=directions)

    return _over_chunks(
        lambda j, first: score(j[..., :columns], first), jacobian, decode, z, columns
    )


@full_float32()
def _over_chunks(
    score: Callable[..., Tensor],
    jacobian_of: Callable[..., Tensor],
    function: Map,
    points: Tensor,
    inputs: int,
) -> Tensor:
    """score(J) a few samples and, in each layer, a few directions at a time."""
    with torch.no_grad(), _Widest() as widest:
        numel = function(points[:1]).numel() * inputs
    size = max(1, CHUNK_NUMEL // max(1, numel))
    directions = max(1, CHUNK_NUMEL // (min(size, len(points)) * widest.numel))
    scores: list[Tensor] = []
    with torch.inference_mode(False), torch.no_grad():
        for start in range(0, len(points), size):
            chunk = points[start : start + size].clone()
            try:
                jacobian = jacobian_of(function, chunk, directions=directions)
            except torch.cuda.OutOfMemoryError:
                raise
            except RuntimeError:  # a module that torch.func cannot map, or has no forward mode
                jacobian = _row_by_row(function, chunk)
            scores.append(score(jacobian, start))
    return torch.cat(scores)


def _row_by_row(function: Map, x: Tensor) -> Tensor:
    """The Jacobian (B, outputs, inputs) by autograd alone, a backward pass an output."""
    with torch.enable_grad(), differentiable_kernels():
        x = x.detach().requires_grad_()
        values = function(x).flatten(1).sum(0)
        options: Any = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        rows = [torch.autograd.grad(value, x, **options)[0] for value in values]
    return torch.stack([row.flatten(1) for row in rows], 1)


class _Widest(TorchFunctionMode):
    """Notes the numbers in the largest tensor that a pass makes."""

    numel = 1

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.numel = max(self.numel, out.numel())
        return out


def _largest(jacobian: Tensor, first: int) -> Tensor:
    """The largest magnitude in each Jacobian, (B,); an error where one is not finite."""
    largest: Tensor = jacobian.detach().abs().amax((1, 2))
    finite = torch.isfinite(largest)
    if not finite.all():
        raise NonFiniteError(f"the Jacobian is not finite for {named_samples(~finite, first)}")
    return largest
