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
from pythae_fif.volume_change.operations import TwiceDifferentiable
from pythae_fif.volume_change.precision import full_float32
from pythae_fif.volume_change.replay import check_replay, record
from pythae_fif.volume_change.step import UnsupportedOperationError

CHUNK_NUMEL = 2**23
"""Numbers in a chunk of Jacobians, and in one layer's tangents: 32 MB each in float32."""

COTANGENTS_NUMEL = {"cpu": 2**18, "cuda": 2**22}
"""Numbers in one layer's cotangents. On the CPU few, which stay in its caches: convolutions copy
them on their way back. On a GPU many: every operation is the start of a kernel."""

IMAGES = 32
"""Images whose rows are pulled back at a time, at least: a large layer's weights are read once for
all of them."""


def decoder_jacobian(
    decode: Callable[[Tensor], Tensor],
    z: Tensor,
    *,
    latent_dim: int | None = None,
    directions: int | None = None,
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

    with TwiceDifferentiable():
        # The columns come first: where they do not depend on the direction, vmap with another
        # out_dims than 0 fails or returns a wrong shape.
        return torch.func.vmap(column, chunk_size=directions)(basis).movedim(0, -1)


def encoder_jacobian(
    encode: Callable[[Tensor], Tensor], x: Tensor, *, directions: int | None = None
) -> Tensor:
    """f'(x), row by row in backward mode.

    Arguments:
        encode: f, from (B, ...) to (B, d).
        x: Data, (B, ...).
        directions: Rows computed at a time; all d if None.

    Returns:
        (B, d, D).
    """
    with TwiceDifferentiable():
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
    """Singular values in descending order.

    Arguments:
        jacobian: (B, D, d) or (B, d, D).
        first: As of :func:`log_volume`.

    Returns:
        (B, min(d, D)).

    Raises:
        NonFiniteError: A Jacobian has NaN or infinite entries; the message names the samples.
    """
    _largest(jacobian, first)
    values: Tensor = torch.linalg.svdvals(jacobian)
    return values


def decoder_log_volume(
    decode: Callable[[Tensor], Tensor], z: Tensor, *, latent_dim: int | None = None
) -> Tensor:
    """:func:`log_volume` of :func:`decoder_jacobian`, (B,), a few samples at a time."""
    return _over_chunks(log_volume, decode, z, latent_dim)


def decoder_singular_values(
    decode: Callable[[Tensor], Tensor], z: Tensor, *, latent_dim: int | None = None
) -> Tensor:
    """:func:`singular_values` of :func:`decoder_jacobian`, (B, d), a few samples at a time."""
    return _over_chunks(singular_values, decode, z, latent_dim)


@full_float32()
def encoder_log_volume(
    encode: Callable[[Tensor], Tensor], x: Tensor, *, data_dim: int | None = None
) -> Tensor:
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
    if not len(x):
        return x.new_empty(0)
    with torch.no_grad(), _Widest() as widest:
        numel = encode(x[:1]).numel() * (x[0].numel() if data_dim is None else data_dim)
    size = max(1, CHUNK_NUMEL // max(1, numel))
    cotangents = COTANGENTS_NUMEL["cpu" if x.device.type == "cpu" else "cuda"]
    images = min(size, len(x))
    directions = max(cotangents // (images * widest.numel), -(-IMAGES // images))
    volumes: list[Tensor] = []
    with torch.inference_mode(False), torch.no_grad():
        for start in range(0, len(x), size):
            chunk = x[start : start + size].clone()
            try:
                jacobian = encoder_jacobian(encode, chunk, directions=directions)
            except torch.cuda.OutOfMemoryError:
                raise
            except RuntimeError:  # a module that torch.func cannot map
                jacobian = _row_by_row(encode, chunk)
            jacobian = jacobian[..., :data_dim]
            volumes.append(log_volume(jacobian, start))
    return torch.cat(volumes)


def named_samples(mask: Tensor, first: int = 0) -> str:
    """How many samples a mask (B,) means, and which, counted from `first`, for a message.

    Example:
        >>> named_samples(torch.tensor([False, True, True]))
        '2 of 3 samples (samples 1, 2)'
    """
    found = mask.nonzero().flatten().add(first).tolist()
    names = ", ".join(map(str, found[:5])) + (", ..." if len(found) > 5 else "")
    return f"{len(found)} of {len(mask)} samples (samples {names})"


def _row_by_row(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The Jacobian (B, outputs, inputs) by autograd alone, a backward pass an output."""
    with torch.inference_mode(False), torch.enable_grad(), TwiceDifferentiable():
        x = x.detach().clone().requires_grad_()
        values = function(x).flatten(1).sum(0)
        rows = [torch.autograd.grad(value, x, retain_graph=True)[0] for value in values]
    return torch.stack([row.flatten(1) for row in rows], 1)


@full_float32()
def _over_chunks(
    score: Callable[..., Tensor],
    decode: Callable[[Tensor], Tensor],
    z: Tensor,
    latent_dim: int | None,
) -> Tensor:
    """score(g'(z)) a few samples and, in each layer, a few directions at a time."""
    basis = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)[:latent_dim]
    if not len(z):
        return score(z.new_empty(0, decode(z).shape[1:].numel(), len(basis)))
    with torch.no_grad(), _Widest() as widest:
        numel = decode(z[:1]).numel() * len(basis)
    size = max(1, CHUNK_NUMEL // max(1, numel))
    directions = max(1, CHUNK_NUMEL // (min(size, len(z)) * widest.numel))
    jacobian_of = _replayed_jacobian
    try:
        check_replay(decode, z[:1])
    except UnsupportedOperationError:
        jacobian_of = _differentiated_jacobian
    scores: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, len(z), size):
            jacobian = jacobian_of(decode, z[start : start + size], basis, directions)
            scores.append(score(jacobian, start))
    return torch.cat(scores)


def _replayed_jacobian(
    decode: Callable[[Tensor], Tensor], z: Tensor, basis: Tensor, directions: int
) -> Tensor:
    """:func:`decoder_jacobian` from one pass."""
    tangents = basis[:, None].expand(-1, len(z), -1)
    tape = record(decode, z)
    columns = z.new_empty(len(z), tape.value[0].numel(), len(basis))
    for first in range(0, len(basis), directions):
        pushed = tape.jvps(tangents[first : first + directions])
        columns[..., first : first + directions] = pushed.flatten(2).permute(1, 2, 0)
    return columns


def _differentiated_jacobian(
    decode: Callable[[Tensor], Tensor], z: Tensor, basis: Tensor, directions: int
) -> Tensor:
    """By columns, or by rows where PyTorch has no forward mode of an operation."""
    try:
        return decoder_jacobian(decode, z, latent_dim=len(basis), directions=directions)
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError:
        return _row_by_row(decode, z)[..., : len(basis)]


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
