"""The loss of free-form injective flows (Sorrenson et al. 2024, eq. 7) on plain callables.

There are two functions for its volume term (eq. 15): a fast one, and one for any networks.
"""

import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from pythae_fif.errors import DataError, SlowerTrainingWarning, UnsupportedOperationError
from pythae_fif.volume_change.replay import Tape

JacobianAt = Literal["data", "reconstruction", "detached_reconstruction"]

Map = Callable[[Tensor], Tensor]


class SurrogateOutput(NamedTuple):
    """The volume term of the loss, with the codes and reconstructions of the same pass.

    Attributes:
        surrogate: The term that is added to the loss, for the first b samples, (b,).
        z: f(x), (B, d).
        x_hat: g(z), of the shape of x.
    """

    surrogate: Tensor
    z: Tensor
    x_hat: Tensor


Surrogate = Callable[[Map, Map, Tensor, Tensor], SurrogateOutput]
"""Computes the volume term of the loss from encoder, decoder, x and eps."""


class FIFLoss(NamedTuple):
    """A loss and its terms, for each data point or reduced, and the pass that they come from.

    In training only the gradients of `loss`, `nll` and `volume` have a meaning: their values say
    nothing about the fit.

    Attributes:
        loss: The weighted sum of `nll` and `reconstruction` (eq. 7).
        nll: The negative log-likelihood. In training it has the surrogate in place of the
            log-volume.
        reconstruction: The squared error.
        volume: The surrogate, or the log-volume.
        z: f(x), (B, d).
        x_hat: g(f(x)), of the shape of x.
    """

    loss: Tensor
    nll: Tensor
    reconstruction: Tensor
    volume: Tensor
    z: Tensor
    x_hat: Tensor


def volume_surrogate(
    encode: Map, decode: Map, x: Tensor, eps: Tensor, *, jacobian_at: JacobianAt = "data"
) -> SurrogateOutput:
    r"""Computes the volume term of the loss. Its gradient estimates the log-volume's gradient.

    For every sample, with z = f(x), it is eq. 15,

    .. math:: -\frac{1}{K} \sum_k \epsilon_k^\top f'(x) \, \text{stop\_gradient}(g'(z) \epsilon_k),

    and its value, -tr f'(x) g'(z) in expectation, says nothing about the fit. The estimate rests on
    two assumptions. g' is the pseudo-inverse of f' (eqs. 47 and 48); the reconstruction term makes
    it so. And f' is continuous in the parameters. With ReLU it is not: it jumps where a kink
    passes, which automatic differentiation does not see.

    Each network runs once and is recorded (:mod:`~pythae_fif.volume_change.replay`).

    Args:
        encode: f, from (B, ...) to (B, d).
        decode: g, from (B, d) to the shape of x.
        x: Data, (B, ...).
        eps: Hutchinson vectors, (K, b, d). With b < B the surrogate is computed for the first b
            samples only, each by itself: BatchNorm's statistics in training mode are then
            constants.
        jacobian_at: The point at which f' is taken. ``data`` is off the manifold (eq. 15).
            ``reconstruction`` is on it (eq. 10), costs a second encoder pass, and has a gradient
            through that point (none with ReLU). ``detached_reconstruction`` is the same point as
            a constant.

    Returns:
        The surrogate, (b,), with z and x_hat of the same pass.

    Raises:
        ValueError: If ``eps`` has the wrong shape, or a network returns no tensor or one that was
            detached from its input.
        UnsupportedOperationError: If a network has an operation that cannot be replayed. Then
            :func:`autograd_surrogate` can take its place.

    Example:
        >>> from pythae_fif.volume_change import sample_hutchinson
        >>> encode, decode = torch.nn.Linear(5, 2), torch.nn.Linear(2, 5)
        >>> out = volume_surrogate(encode, decode, torch.randn(7, 5), sample_hutchinson(7, 2))
        >>> out.surrogate.shape, out.z.shape, out.x_hat.shape
        (torch.Size([7]), torch.Size([7, 2]), torch.Size([7, 5]))
    """
    encode, decode = _checked(encode, "encoder"), _checked(decode, "decoder")
    with torch.enable_grad(), _name_alternative():
        encoder_tape = Tape(encode, x.detach())
        z = encoder_tape.value
        _check_vectors(eps, z)
        decoder_tape = Tape(decode, z)
        x_hat = decoder_tape.value
        _check_attached(encoder_tape, "encoder")
        _check_attached(decoder_tape, "decoder")

        jacobian_tape = encoder_tape  # the pass that f' is taken from
        if jacobian_at != "data":
            point = x_hat if jacobian_at == "reconstruction" else x_hat.detach()
            jacobian_tape = Tape(encode, point)

        with torch.no_grad():  # stop_gradient(g'(z) eps)
            tangents = [decoder_tape.jvp(vector) for vector in eps]
        del decoder_tape  # with all results of the decoder's operations
        products = [  # eps * f'(x) g'(z) eps; its sum is the product with eps^T
            vector * jacobian_tape.jvp(tangent)
            for vector, tangent in zip(eps, tangents, strict=True)
        ]
        return SurrogateOutput(-torch.stack(products).sum(-1).mean(0), z, x_hat)


@contextmanager
def _name_alternative() -> Iterator[None]:
    """Completes the error of a network that cannot be replayed."""
    try:
        yield
    except UnsupportedOperationError as error:
        raise UnsupportedOperationError(
            f"{error}; autograd_surrogate takes any networks, and is slower"
        ) from error


def _checked(network: Map, name: str) -> Map:
    """The network, with a ValueError unless it returns a tensor."""

    def call(point: Tensor) -> Tensor:
        output: Any = network(point)
        if isinstance(output, Tensor):
            return output
        raise ValueError(
            f"the {name} returned a {type(output).__name__}, but must return one tensor: pass a "
            f"function that does, such as lambda v: {name}(v)[0]"
        )

    return call


def _check_attached(tape: Tape, name: str) -> None:
    """Raises ValueError if the value of a network has no derivative."""
    if not tape.has_tangent:
        raise ValueError(
            f"the {name}'s output does not depend on its input: it was detached, or computed "
            "under torch.no_grad"
        )


def fif_loss(
    encode: Map,
    decode: Map,
    latent_log_prob: Map,
    x: Tensor,
    eps: Tensor,
    beta: float | Tensor,
    *,
    surrogate: Surrogate | None = None,
    reduce: Map | None = None,
) -> FIFLoss:
    r"""Computes the loss of a free-form injective flow (eq. 7).

    .. math::
        \mathcal{L}(x) = -\log p_Z(f(x)) - \frac{1}{K} \sum_k \epsilon_k^\top f'(x) \,
        \text{stop\_gradient}(g'(f(x)) \epsilon_k) + \beta \lVert g(f(x)) - x \rVert^2

    Args:
        encode: f, from (B, ...) to (B, d).
        decode: g, from (B, d) to the shape of x.
        latent_log_prob: log p_Z, from (B, d) to (B,).
        x: Data, (B, ...).
        eps: Hutchinson vectors, (K, b, d), as for :func:`volume_surrogate`.
        beta: Weight of the squared error.
        surrogate: Computes the second term. If None it is :func:`volume_surrogate`, and for
            networks that cannot be replayed :func:`autograd_surrogate` without forward mode.
        reduce: Applied to each term before the terms are added, such as ``torch.mean``. None
            keeps one number for each sample.

    Returns:
        The loss and its terms.

    Raises:
        ValueError: If the terms are not one number for each data point, or beta is no number.

    Warns:
        SlowerTrainingWarning: A network cannot be replayed; the message names the operation.

    Example:
        >>> from pythae_fif.volume_change import sample_hutchinson
        >>> encode, decode = torch.nn.Linear(5, 2), torch.nn.Linear(2, 5)
        >>> normal = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
        >>> x, eps = torch.randn(7, 5), sample_hutchinson(7, 2)
        >>> fif_loss(encode, decode, normal.log_prob, x, eps, beta=10.0).loss.shape
        torch.Size([7])
    """
    if isinstance(beta, str):
        raise ValueError(f"beta={beta!r} is an option of FIFConfig; fif_loss needs a number")
    surrogate = surrogate or _replay_or_double_backward
    volume, z, x_hat = surrogate(encode, decode, x, eps)  # eq. 15
    log_prior = latent_log_prob(z.to(x.dtype))
    reconstruction = squared_error(x_hat, x)
    _check_shapes(z, log_prior, volume, reconstruction, is_reduced=reduce is not None)

    if reduce is not None:
        volume = reduce(volume)
        log_prior = reduce(log_prior)
        reconstruction = reduce(reconstruction)

    nll = -log_prior + volume
    loss = weighted_sum(nll, reconstruction, beta)  # eq. 7
    return FIFLoss(loss, nll, reconstruction, volume, z, x_hat)


def weighted_sum(nll: Tensor, reconstruction: Tensor, beta: float | Tensor) -> Tensor:
    """Adds the terms of the loss (eq. 7), in training and in evaluation."""
    return nll + beta * reconstruction


_NOT_REPLAYED: "weakref.WeakSet[Any]" = weakref.WeakSet()
"""Encoders that could not be replayed with their decoders, as :func:`_key` names them."""


def _replay_or_double_backward(encode: Map, decode: Map, x: Tensor, eps: Tensor) -> SurrogateOutput:
    """Computes the volume term by the faster function that the networks allow."""
    key = _key(encode)
    if key not in _NOT_REPLAYED:
        try:
            return volume_surrogate(encode, decode, x, eps)
        except UnsupportedOperationError as error:
            reason = error.__cause__
        _NOT_REPLAYED.add(key)
        warnings.warn(
            f"fif_loss falls back to double backward, which is slower: {reason}",
            SlowerTrainingWarning,
            stacklevel=3,
        )
    return autograd_surrogate(encode, decode, x, eps, forward_mode=False)


def _key(network: Map) -> Any:
    """What of a network is the same in each step: a lambda is not, but its code is."""
    while isinstance(network, partial):
        network = network.func
    return getattr(network, "__code__", network)


def _check_shapes(
    z: Tensor, log_prior: Tensor, volume: Tensor, reconstruction: Tensor, *, is_reduced: bool
) -> None:
    """Raises ValueError unless each term is one number for each data point.

    Terms that are reduced may have the volume of a part of the batch.
    """
    if log_prior.shape == z.shape:
        raise ValueError(
            f"latent_log_prob returned shape {tuple(z.shape)}: sum it over the code's dimensions, "
            "as torch.distributions.Independent does"
        )
    volume_fits = volume.shape == reconstruction.shape or is_reduced
    if log_prior.shape != reconstruction.shape or not volume_fits:
        raise ValueError(
            f"log-priors, volumes and squared errors have shapes {tuple(log_prior.shape)}, "
            f"{tuple(volume.shape)} and {tuple(reconstruction.shape)}: each must be one number per "
            "data point, and volumes of part of the batch need `reduce`"
        )


def squared_error(x_hat: Tensor, x: Tensor) -> Tensor:
    """Computes the squared error `|x_hat - x|^2` of each data point.

    Args:
        x_hat: Reconstructions, (B, ...).
        x: Data, (B, ...).

    Returns:
        Squared errors, (B,).

    Raises:
        DataError: If the shapes differ.
    """
    if x_hat.shape != x.shape:
        raise DataError(
            f"reconstructions have shape {tuple(x_hat.shape)}, but the data have shape "
            f"{tuple(x.shape)}"
        )
    return F.mse_loss(x_hat, x, reduction="none").flatten(1).sum(1)


def autograd_surrogate(
    encode: Map,
    decode: Map,
    x: Tensor,
    eps: Tensor,
    *,
    jacobian_at: JacobianAt = "data",
    forward_mode: bool = True,
) -> SurrogateOutput:
    """Computes :func:`volume_surrogate` for any networks, as the authors do (appendix D.2).

    g'(z) eps comes from forward mode and eps^T f'(x) from backward mode with a graph. This takes
    a quarter more time, and as much for part of the batch as for the whole. For part of the batch
    BatchNorm's Jacobian in training mode is the whole batch's.

    Args:
        encode: f, from (B, ...) to (B, d).
        decode: g, from (B, d) to the shape of x.
        x: Data, (B, ...).
        eps: Hutchinson vectors, (K, b, d).
        jacobian_at: See :func:`volume_surrogate`.
        forward_mode: Whether forward mode may be used. Some operations have none, and scripted
            ones lose it after one call. Without it, for several vectors and under autocast,
            g'(z) eps comes from two passes of backward mode.

    Returns:
        The surrogate, (b,), with z and x_hat of the same pass.

    Raises:
        ValueError: If ``eps`` has the wrong shape, or a network returns no tensor.
    """
    encode, decode = _checked(encode, "encoder"), _checked(decode, "decoder")
    forward_mode &= len(eps) == 1 and not torch.is_autocast_enabled(x.device.type)
    with torch.enable_grad(), differentiable_kernels():
        point = x.detach().requires_grad_()
        z = encode(point)
        _check_vectors(eps, z)
        rows = eps.shape[1]
        eps = F.pad(eps, (0, 0, 0, len(z) - rows))

        if forward_mode:
            x_hat, *tangents = _decode_with_tangent(decode, z, eps[0])
        else:
            x_hat = decode(z)
            tangents = [*map(make_jvp(x_hat, z), eps)]

        codes = z  # computed from `point`: the pass that f' is taken from
        if jacobian_at != "data":
            point = x_hat if jacobian_at == "reconstruction" else x_hat.detach().requires_grad_()
            codes = encode(point)

        products = [
            torch.autograd.grad(codes, point, vector, create_graph=True)[0] * tangent
            for vector, tangent in zip(eps, tangents, strict=True)
        ]
        values = torch.stack([product.flatten(1).sum(1) for product in products])
    return SurrogateOutput(-values.mean(0)[:rows], z, x_hat)


def _decode_with_tangent(decode: Map, z: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
    """Returns g(z), and g'(z) times the vector without a graph, by one pass in forward mode."""
    with forward_ad.dual_level():
        x_hat, tangent = forward_ad.unpack_dual(decode(forward_ad.make_dual(z, vector)))
    is_constant = tangent is None  # x_hat does not depend on z
    return x_hat, torch.zeros_like(x_hat) if is_constant else tangent.detach()


def make_jvp(value: Tensor, point: Tensor) -> Callable[..., Tensor]:
    """Returns the function v -> J v for J = d value / d point, using only backward mode.

    u -> u^T J is linear, and its transpose is v -> J v.

    Args:
        value: A tensor that was computed from the point, with a graph.
        point: The tensor that the derivative is taken by.

    Returns:
        A function of v, of the shape of the point, and of `create_graph`, by default False.
    """
    u = torch.zeros_like(value, requires_grad=True)
    (row_product,) = torch.autograd.grad(value, point, u, create_graph=True)

    def jvp(v: Tensor, create_graph: bool = False) -> Tensor:
        return torch.autograd.grad(row_product, u, v, retain_graph=True, create_graph=create_graph)[
            0
        ]

    return jvp


@contextmanager
def differentiable_kernels() -> Iterator[None]:
    """Makes attention differentiable twice and in forward mode, by turning off fused kernels."""
    is_fastpath_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fastpath_enabled)


def _check_vectors(eps: Tensor, z: Tensor) -> None:
    """Raises ValueError unless eps is (K, b, d) for codes (B, d), with K >= 1 and 1 <= b <= B."""
    batch_size, latent_dim = z.shape[:2]
    fits = eps.dim() == 3 and eps.shape[2] == latent_dim
    if not (fits and len(eps) >= 1 and 1 <= eps.shape[1] <= batch_size):
        raise ValueError(
            f"eps has shape {tuple(eps.shape)}, but must have shape (K, b, {latent_dim}) with K at "
            f"least 1 and b from 1 to {batch_size}"
        )
