"""The loss of free-form injective flows (Sorrenson et al. 2024, eq. 7), on plain callables."""

__all__ = [
    "FIFLoss",
    "JacobianAt",
    "Map",
    "Surrogate",
    "SurrogateOutput",
    "check_eps",
    "check_option",
    "fif_loss",
    "squared_error",
    "volume_surrogate",
]

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from pythae_fif.volume_change.replay import record

JacobianAt = Literal["data", "reconstruction", "detached_reconstruction"]

Map = Callable[[Tensor], Tensor]


class SurrogateOutput(NamedTuple):
    """What one pass of encoder and decoder yields.

    Attributes:
        surrogate: (b, ...), of the first b samples, b = B unless fewer Hutchinson vectors were
            given; to be added to the loss.
        z: Codes f(x), (B, ..., d).
        x_hat: Reconstructions g(f(x)), the shape of x.
    """

    surrogate: Tensor
    z: Tensor
    x_hat: Tensor


Surrogate = Callable[[Map, Map, Tensor, Tensor], SurrogateOutput]
"""Encoder, decoder, x and eps to the volume term of the loss."""


class FIFLoss(NamedTuple):
    """The loss and its terms, one number a sample or reduced.

    Attributes:
        loss: ``nll + beta * reconstruction``; its gradient is meant.
        nll: Negative log-likelihood with the surrogate in place of the log-volume; its value
            says nothing about the fit.
        reconstruction: Squared error.
        volume: The surrogate.
        z: Codes f(x), (B, ..., d).
        x_hat: Reconstructions g(f(x)), the shape of x.
    """

    loss: Tensor
    nll: Tensor
    reconstruction: Tensor
    volume: Tensor
    z: Tensor
    x_hat: Tensor


def volume_surrogate(
    encode: Map,
    decode: Map,
    x: Tensor,
    eps: Tensor,
    *,
    jacobian_at: JacobianAt = "data",
    dtype: torch.dtype | None = None,
) -> SurrogateOutput:
    r"""The volume term of the loss, whose gradient estimates that of the log-volume.

    For every sample, with z = f(x),

    .. math:: -\frac{1}{K} \sum_k \epsilon_k^\top f'(x) \, \text{stop\_gradient}(g'(z) \epsilon_k)

    which is eq. 15. Its value, -tr f'(x) g'(z) in expectation, says nothing about the fit; what it
    says about the training is told at :func:`fif_loss`.

    The estimate rests on two assumptions. g' is the pseudo-inverse of f' (eqs. 47 and 48); the
    reconstruction term makes it so. And f' is continuous in the parameters. With ReLU it is not: it
    jumps where a kink passes, which automatic differentiation does not see. Only mode
    ``central_difference`` of :mod:`~pythae_fif.volume_change.variants` does.

    Each network runs once and is recorded. Its Jacobian products are the recorded derivative
    applied to tangents (:mod:`~pythae_fif.volume_change.replay`). The other ways to take the
    surrogate are in :mod:`~pythae_fif.volume_change.variants`.

    Arguments:
        encode: f, from (B, ...) to (B, d).
        decode: g, from (B, d) to the shape of x.
        x: Data, (B, ...); images and vectors alike. Members of an ensemble may stand before the
            samples, (M, B, ...), if the networks keep them.
        eps: Hutchinson vectors, (K, b, d), or (K, M, B, d) of an ensemble. With b < B the
            surrogate is that of the first b samples alone, each by itself: statistics of BatchNorm
            in training mode are constants then.
        jacobian_at: Where f' is taken: at the ``data`` (off-manifold, eq. 15) or at the
            ``reconstruction`` (on-manifold, eq. 10), which costs a second encoder pass and has
            gradient through that point (none with ReLU: f' is constant around it); or there as at
            a constant, ``detached_reconstruction``.
        dtype: Precision of the Jacobian products, that of eps if None; ``torch.bfloat16`` halves
            their memory traffic.

    Returns:
        The surrogate, (b,), with z and x_hat of the same pass.

    Raises:
        ValueError: ``eps`` of the wrong shape, or an unknown ``jacobian_at``.
        UnsupportedOperationError: A network has an operation that cannot be replayed.

    Example:
        >>> from pythae_fif.volume_change import sample_hutchinson
        >>> encode, decode = torch.nn.Linear(5, 2), torch.nn.Linear(2, 5)
        >>> out = volume_surrogate(encode, decode, torch.randn(7, 5), sample_hutchinson(7, 2))
        >>> out.surrogate.shape, out.z.shape, out.x_hat.shape
        (torch.Size([7]), torch.Size([7, 2]), torch.Size([7, 5]))
    """
    check_option("jacobian_at", jacobian_at, JacobianAt)
    with torch.enable_grad():
        f = record(encode, x.detach())
        check_eps(eps, f.value.shape, "latent")
        g = record(decode, f.value)
        point = g.value.detach() if jacobian_at == "detached_reconstruction" else g.value
        outer = f if jacobian_at == "data" else record(encode, point)
        with torch.no_grad():
            pushed = g.jvps(eps if dtype is None else eps.to(dtype))
        surrogate = -(eps * outer.jvps(pushed)).sum(-1).mean(0)
    return SurrogateOutput(surrogate, f.value, g.value)


def fif_loss(
    encode: Map,
    decode: Map,
    latent_log_prob: Map,
    x: Tensor,
    eps: Tensor,
    beta: float | Tensor,
    *,
    surrogate: Surrogate = volume_surrogate,
    reduce: Map | None = None,
    likelihood_weight: float | Tensor = 1.0,
) -> FIFLoss:
    r"""The loss of a free-form injective flow (eq. 7).

    .. math::
        \mathcal{L}(x) = -\log p_Z(f(x)) - \frac{1}{K} \sum_k \epsilon_k^\top f'(x) \,
        \text{stop\_gradient}(g'(f(x)) \epsilon_k) + \beta \lVert g(f(x)) - x \rVert^2

    **At a stationary point**, with a standard normal prior and without weight decay,

    .. math:: E[z z^\top] = E[f'(x) \, g'(z)], \quad \text{and so} \quad
        E \lVert z \rVert^2 = E[\operatorname{tr} f'(x) \, g'(z)].

    For let f become (I + tA) f and g become :math:`g \circ (I + tA)^{-1}` with any matrix A, as the
    weights next to the code can make them. The reconstruction stays, and the derivative of the loss
    at t = 0 is :math:`E[z^\top A z] - E[\operatorname{tr} A f'(x) g'(z)]`, since g' is not
    differentiated; at a stationary point it is zero for every A. No pre-activation moves, and so no
    kink does: automatic differentiation is exact along t with ReLU, too. Where the two sides of the
    second equation differ, the gradient is not zero; where the first is the smaller, a step along
    A = I widens the code. With ``jacobian_at="reconstruction"`` f' is that at g(z).

    Arguments:
        encode: f, from (B, ...) to (B, d).
        decode: g, from (B, d) to the shape of x.
        latent_log_prob: log p_Z, from (B, d) to (B,).
        x: Data, (B, ...), or (M, B, ...) for the members of an ensemble.
        eps: Hutchinson vectors, as for the surrogate.
        beta: Weight of the squared error; a number for each member in an ensemble.
        surrogate: The second term; see :func:`volume_surrogate`.
        reduce: What each term's samples are reduced to before the terms are added, such as
            ``torch.mean``; None keeps one number a sample. The surrogate of a part of the batch
            needs it.
        likelihood_weight: Factor of the first two terms in the loss, as beta; for a warm-up.

    Returns:
        The loss with its terms, in nats, and z and x_hat of the same pass.

    Raises:
        ValueError: Terms that have not one number a data point.

    Example:
        >>> from pythae_fif.volume_change import sample_hutchinson
        >>> encode, decode = torch.nn.Linear(5, 2), torch.nn.Linear(2, 5)
        >>> normal = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
        >>> x, eps = torch.randn(7, 5), sample_hutchinson(7, 2)
        >>> fif_loss(encode, decode, normal.log_prob, x, eps, beta=10.0).loss.shape
        torch.Size([7])
    """
    out = surrogate(encode, decode, x, eps)
    log_prior = latent_log_prob(out.z.to(x.dtype))
    reconstruction = squared_error(out.x_hat, x, out.z.dim() - 1)
    volume = out.surrogate
    if log_prior.shape != reconstruction.shape:
        raise ValueError(
            f"latent_log_prob gives {tuple(log_prior.shape)}: one number for each of the "
            f"{tuple(reconstruction.shape)} data points is needed, as of an Independent"
        )
    if reduce is None and volume.shape != reconstruction.shape:
        raise ValueError(
            f"{tuple(volume.shape)} volumes for {tuple(reconstruction.shape)} data points: give "
            "reduce, such as torch.mean"
        )
    if reduce is not None:
        volume, log_prior, reconstruction = map(reduce, (volume, log_prior, reconstruction))
    nll = volume - log_prior
    loss = likelihood_weight * nll + beta * reconstruction
    return FIFLoss(loss, nll, reconstruction, volume, out.z, out.x_hat)


def squared_error(x_hat: Tensor, x: Tensor, batch_dims: int = 1) -> Tensor:
    """`|x_hat - x|^2` of every data point.

    Arguments:
        x_hat, x: (B, ...), or with more dimensions before those of one data point.
        batch_dims: How many come before.

    Returns:
        (B,), or as many dimensions as ``batch_dims``.

    Raises:
        ValueError: A data point and its reconstruction differ in shape.
    """
    if x_hat.shape[x_hat.dim() - x.dim() :] != x.shape:
        raise ValueError(
            f"reconstructions of shape {tuple(x_hat.shape)} for data of shape {tuple(x.shape)}"
        )
    x_hat, x = torch.broadcast_tensors(x_hat, x)
    return F.mse_loss(x_hat, x, reduction="none").flatten(batch_dims).sum(-1)


def check_eps(eps: Tensor, space: torch.Size, name: str) -> None:
    """Raises ValueError unless eps is (K, b, ...), of at most as many samples as the space has."""
    fits = eps.dim() == len(space) + 1 and eps.shape[2:] == space[1:]
    if not (fits and len(eps) >= 1 and 1 <= eps.shape[1] <= space[0]):
        raise ValueError(
            f"eps of shape {tuple(eps.shape)}: (K from 1 up, {space[0]} or fewer, "
            f"{', '.join(map(str, space[1:]))}) is needed for the trace in {name} space"
        )


def check_option(name: str, value: str, literal: Any) -> None:
    """Raises ValueError unless the value is one of a Literal's."""
    if value not in get_args(literal):
        raise ValueError(f"unknown {name} {value!r}; valid: {', '.join(get_args(literal))}")
