"""Exact volume changes from full Jacobians, in chunks that bound memory.

These functions take maps that treat each sample separately: networks in evaluation mode, because
BatchNorm in training mode mixes the samples of a batch. Further tensors with a row for each point,
such as a condition (B, c), are passed to the map with the points. No derivative is taken with
respect to them.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from pythae_fif.device import full_float32
from pythae_fif.errors import NonFiniteError
from pythae_fif.volume_change.loss import differentiable_kernels, make_jvp

ConditionalMap = Callable[..., Tensor]
"""Maps points (B, ...), and conditions (B, c) if there are any, to (B, ...)."""

CHUNK_NUMEL = 2**21
"""Numbers in a chunk of Jacobians; a layer n times as wide as the data has n times as many."""

MAX_LISTED_SAMPLES = 5


def decoder_jacobian(decode: ConditionalMap, z: Tensor, *condition: Tensor) -> Tensor:
    """Computes the decoder's Jacobian g'(z) by forward mode.

    Where a layer has no forward mode it is computed by two passes of backward mode.

    Args:
        decode: g, from codes (B, d) and the condition to (B, ...).
        z: Codes, (B, d).
        *condition: Further arguments of the decoder, (B, ...).

    Returns:
        The Jacobian, (B, D, d).
    """

    def push_forward(tangent: Tensor) -> Tensor:
        return torch.func.jvp(lambda z: decode(z, *condition), (z,), (tangent,))[1]

    with differentiable_kernels():
        try:
            return _jacobian_columns(push_forward, z).movedim(0, -1)
        except RuntimeError:  # raised by recurrent layers, for example
            point = z.detach().requires_grad_()
            with torch.enable_grad():
                push_by_backward = make_jvp(decode(point, *condition), point)
            return _jacobian_columns(push_by_backward, z, vectorize=False).movedim(0, -1)


def encoder_jacobian(encode: ConditionalMap, x: Tensor, *condition: Tensor) -> Tensor:
    """Computes the encoder's Jacobian f'(x) by backward mode.

    Args:
        encode: f, from data (B, ...) and the condition to (B, d).
        x: Data, (B, ...).
        *condition: Further arguments of the encoder, (B, ...).

    Returns:
        The Jacobian, (B, d, D).
    """
    with differentiable_kernels():
        try:
            z, pull_back = torch.func.vjp(lambda x: encode(x, *condition), x)[:2]
            return _jacobian_columns(lambda u: pull_back(u)[0], z).movedim(0, 1)
        except RuntimeError:  # raised by an autograd.Function that functorch does not support
            point = x.detach().requires_grad_()
            with torch.enable_grad():
                z = encode(point, *condition)
            return _jacobian_columns(
                lambda u: torch.autograd.grad(z, point, u, retain_graph=True)[0], z, vectorize=False
            ).movedim(0, 1)


def log_volume(jacobian: Tensor) -> Tensor:
    r"""Computes the log-volume :math:`\frac12 \log\det J^\top J`, by QR of the Jacobian itself.

    QR never forms the Gram matrix, so the condition number is not squared: a Jacobian that is
    singular to rounding gives a very negative number, an exactly singular one minus infinity.

    Args:
        jacobian: (B, D, d) or (B, d, D). The longer side is taken for data space: the volumes of
            J and J^T are equal.

    Returns:
        Log-volumes in nats, (B,).

    Raises:
        NonFiniteError: If a Jacobian has NaN or infinite entries; the message lists the samples.

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


def decoder_log_volume(decode: ConditionalMap, z: Tensor, *condition: Tensor) -> Tensor:
    """Computes the log-volume of the decoder's Jacobian g'(z).

    Args:
        decode: g, from codes (B, d) and the condition to (B, ...).
        z: Codes, (B, d).
        *condition: Further arguments of the decoder, (B, ...).

    Returns:
        Log-volumes in nats, (B,).

    Raises:
        NonFiniteError: If a Jacobian has NaN or infinite entries.
    """
    return _map_chunks(log_volume, decoder_jacobian, decode, z, *condition)


def decoder_gram(decode: ConditionalMap, z: Tensor, x: Tensor, *condition: Tensor) -> Tensor:
    """Computes the inner products of the columns of the matrix (g'(z), x - g(z)).

    Args:
        decode: g, from codes (B, d) and the condition to the shape of x.
        z: Codes, (B, d).
        x: Data, (B, ...).
        *condition: Further arguments of the decoder, (B, ...).

    Returns:
        Gram matrices in float64, (B, d + 1, d + 1).

    Raises:
        NonFiniteError: If a matrix has NaN or infinite entries.
    """

    def compute_matrix(_: ConditionalMap, z: Tensor, x: Tensor, *condition: Tensor) -> Tensor:
        residual = (x - decode(z, *condition)).flatten(1)
        jacobian = decoder_jacobian(decode, z, *condition)
        return torch.cat([jacobian, residual[..., None]], -1).double()

    return _map_chunks(
        lambda matrix: matrix.mT @ matrix,
        compute_matrix,
        lambda z, x, *condition: decode(z, *condition),
        z,
        x,
        *condition,
    )


def decoder_singular_values(decode: ConditionalMap, z: Tensor, *condition: Tensor) -> Tensor:
    """Computes the singular values of the decoder's Jacobian g'(z).

    Args:
        decode: g, from codes (B, d) and the condition to (B, ...).
        z: Codes, (B, d).
        *condition: Further arguments of the decoder, (B, ...).

    Returns:
        Singular values in descending order, (B, d).

    Raises:
        NonFiniteError: If a Jacobian has NaN or infinite entries.
    """
    return _map_chunks(torch.linalg.svdvals, decoder_jacobian, decode, z, *condition)


def encoder_log_volume(encode: ConditionalMap, x: Tensor, *condition: Tensor) -> Tensor:
    """Computes the log-volume of the encoder's Jacobian f'(x).

    Args:
        encode: f, from data (B, ...) and the condition to (B, d).
        x: Data, (B, ...).
        *condition: Further arguments of the encoder, (B, ...).

    Returns:
        Log-volumes in nats, (B,).

    Raises:
        NonFiniteError: If a Jacobian has NaN or infinite entries.
    """
    return _map_chunks(log_volume, encoder_jacobian, encode, x, *condition)


def warn_if_singular(volume: Tensor) -> None:
    """Warns if log-volumes (B,) are minus infinity, so that the log-likelihood is infinite."""
    singular = volume.isneginf()
    if singular.any():
        warnings.warn(
            f"log_prob is infinite for {describe_samples(singular)}: the decoder's Jacobian "
            "is rank-deficient there",
            RuntimeWarning,
            stacklevel=4,
        )


def describe_samples(mask: Tensor, first: int = 0) -> str:
    """Describes the selected samples for a message: how many they are, and their numbers.

    Args:
        mask: True for each selected sample, (B,).
        first: Number of the first sample of the mask.

    Example:
        >>> describe_samples(torch.tensor([False, True, True]))
        '2 of 3 samples (samples 1, 2)'
    """
    numbers = mask.nonzero().flatten().add(first).tolist()
    first_numbers = ", ".join(map(str, numbers[:MAX_LISTED_SAMPLES]))
    ellipsis = ", ..." if len(numbers) > MAX_LISTED_SAMPLES else ""
    return f"{len(numbers)} of {len(mask)} samples (samples {first_numbers}{ellipsis})"


@full_float32()
@torch.no_grad()
def _map_chunks(
    score: Callable[[Tensor], Tensor],
    compute_jacobian: Callable[..., Tensor],
    function: ConditionalMap,
    *inputs: Tensor,
) -> Tensor:
    """Computes score(compute_jacobian(function, *inputs)), a few samples at a time."""
    first_sample = [tensor[:1] for tensor in inputs]
    jacobian_numel = function(*first_sample).numel() * first_sample[0].numel()
    chunk_size = max(1, CHUNK_NUMEL // max(1, jacobian_numel))

    scores: list[Tensor] = []
    for chunk in zip(*(tensor.split(chunk_size) for tensor in inputs), strict=True):
        jacobian = compute_jacobian(function, *chunk)
        _check_finite(jacobian, first=chunk_size * len(scores))
        precision = torch.promote_types(jacobian.dtype, torch.float32)  # LAPACK has no half
        scores.append(score(jacobian.to(precision)))

    # A network may keep tensors of its last pass, and those of torch.func cannot be pickled.
    function(*first_sample)
    return torch.cat(scores)


def _jacobian_columns(
    product: Callable[[Tensor], Tensor], z: Tensor, vectorize: bool = True
) -> Tensor:
    """The products with all d unit vectors, the same for all samples, (d, B, D)."""

    def column(unit_vector: Tensor) -> Tensor:
        return product(unit_vector.expand_as(z)).flatten(1)

    basis = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    if vectorize:
        return torch.func.vmap(column)(basis)
    return torch.stack([column(unit_vector) for unit_vector in basis])


def _check_finite(jacobian: Tensor, first: int = 0) -> None:
    """Raises NonFiniteError if a Jacobian is not finite; `first` is the first sample's number."""
    finite = jacobian.isfinite().flatten(1).all(1)
    if not finite.all():
        raise NonFiniteError(f"the Jacobian is not finite for {describe_samples(~finite, first)}")
