"""The loss of free-form injective flows (Sorrenson et al. 2024, eq. 7) on plain callables.

Its volume term (eq. 15) comes in two ways: a fast one, and one for any networks.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from typing_extensions import deprecated

from pythae_fif.errors import DataError
from pythae_fif.volume_change.replay import Tape

JacobianAt = Literal["data", "reconstruction", "detached_reconstruction"]

Map = Callable[[Tensor], Tensor]


class SurrogateOutput(NamedTuple):
    """What one pass of encoder and decoder yields: the surrogate of the first b samples, (b,), to
    be added to the loss, z = f(x), (B, d), and g(z), the shape of x."""

    surrogate: Tensor
    z: Tensor
    x_hat: Tensor


Surrogate = Callable[[Map, Map, Tensor, Tensor], SurrogateOutput]
"""Encoder, decoder, x and eps to the volume term of the loss."""


class FIFLoss(NamedTuple):
    """The loss, ``nll + beta * reconstruction``, and its terms, one number a sample or reduced.

    `volume` is the surrogate, and `nll` the negative log-likelihood with it in place of the
    log-volume: their gradients are meant, their values say nothing about the fit. `z` (B, d) and
    `x_hat` are f(x) and g(f(x)).
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
    r"""The volume term of the loss, whose gradient estimates that of the log-volume.

    For every sample, with z = f(x), it is eq. 15,

    .. math:: -\frac{1}{K} \sum_k \epsilon_k^\top f'(x) \, \text{stop\_gradient}(g'(z) \epsilon_k),

    whose value, -tr f'(x) g'(z) in expectation, says nothing about the fit. The estimate rests on
    two assumptions. g' is the pseudo-inverse of f' (eqs. 47 and 48); the reconstruction term makes
    it so. And f' is continuous in the parameters. With ReLU it is not: it jumps where a kink
    passes, which automatic differentiation does not see.

    Each network runs once and is noted (:mod:`~pythae_fif.volume_change.replay`).

    Arguments:
        encode: f, from (B, ...) to (B, d).
        decode: g, from (B, d) to the shape of x.
        x: Data, (B, ...).
        eps: Hutchinson vectors, (K, b, d). With b < B the surrogate is that of the first b samples
            alone, each by itself: statistics of BatchNorm in training mode are constants then.
        jacobian_at: Where f' is taken: at the ``data`` (off-manifold, eq. 15) or at the
            ``reconstruction`` (on-manifold, eq. 10), which costs a second encoder pass and has
            gradient through that point (none with ReLU); or there as at a constant,
            ``detached_reconstruction``.

    Returns:
        The surrogate, (b,), with z and x_hat of the same pass.

    Raises:
        ValueError: ``eps`` of the wrong shape.
        UnsupportedOperationError: A network has an operation that cannot be replayed.

    Example:
        >>> from pythae_fif.volume_change import sample_hutchinson
        >>> encode, decode = torch.nn.Linear(5, 2), torch.nn.Linear(2, 5)
        >>> out = volume_surrogate(encode, decode, torch.randn(7, 5), sample_hutchinson(7, 2))
        >>> out.surrogate.shape, out.z.shape, out.x_hat.shape
        (torch.Size([7]), torch.Size([7, 2]), torch.Size([7, 5]))
    """
    with torch.enable_grad():
        f = outer = Tape(encode, x.detach())
        _check(eps, f.value.shape)
        g = Tape(decode, f.value)
        if jacobian_at != "data":
            place = g.value if jacobian_at == "reconstruction" else g.value.detach()
            outer = Tape(encode, place)
        with torch.no_grad():
            pushed = [g.jvp(vector) for vector in eps]
        products = [v * outer.jvp(tangent) for v, tangent in zip(eps, pushed, strict=True)]
        surrogate = -torch.stack(products).sum(-1).mean(0)
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
) -> FIFLoss:
    r"""The loss of a free-form injective flow (eq. 7).

    .. math::
        \mathcal{L}(x) = -\log p_Z(f(x)) - \frac{1}{K} \sum_k \epsilon_k^\top f'(x) \,
        \text{stop\_gradient}(g'(f(x)) \epsilon_k) + \beta \lVert g(f(x)) - x \rVert^2

    Arguments:
        encode, decode, x, eps: See :func:`volume_surrogate`.
        latent_log_prob: log p_Z, from (B, d) to (B,).
        beta: Weight of the squared error.
        surrogate: The second term.
        reduce: To what each term's samples are reduced before the terms are added, such as
            ``torch.mean``; None keeps one number a sample.

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
    volume, z, x_hat = surrogate(encode, decode, x, eps)
    log_prior = latent_log_prob(z.to(x.dtype))
    reconstruction = squared_error(x_hat, x)
    if log_prior.shape != reconstruction.shape or (
        reduce is None and volume.shape != log_prior.shape
    ):
        raise ValueError(
            f"log-priors, volumes and squared errors of shapes {tuple(log_prior.shape)}, "
            f"{tuple(volume.shape)} and {tuple(reconstruction.shape)}: one number for each data "
            "point is needed; volumes of a part need reduce"
        )
    if reduce is not None:
        volume, log_prior, reconstruction = map(reduce, (volume, log_prior, reconstruction))
    nll = volume - log_prior
    return FIFLoss(nll + beta * reconstruction, nll, reconstruction, volume, z, x_hat)


def squared_error(x_hat: Tensor, x: Tensor) -> Tensor:
    """`|x_hat - x|^2` of data points (B, ...), (B,); a DataError if they differ in shape."""
    if x_hat.shape != x.shape:
        raise DataError(
            f"reconstructions of shape {tuple(x_hat.shape)} for data of shape {tuple(x.shape)}"
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
    """:func:`volume_surrogate` of any networks, as the authors compute it (appendix D.2).

    g'(z) eps by forward mode, eps^T f'(x) by backward mode with a graph. It takes a quarter more
    time, and as much for a part of the batch as for the whole; there BatchNorm's Jacobian in
    training mode is that of the whole batch. All else is as for :func:`volume_surrogate`.

    Arguments:
        forward_mode: Else, for several vectors and under autocast g'(z) eps comes by backward mode
            twice: some operations have no forward mode, and scripted ones lose it after one call.
    """
    forward_mode &= len(eps) == 1 and not torch.is_autocast_enabled(x.device.type)
    with torch.enable_grad(), differentiable_kernels():
        point = x.detach().requires_grad_()
        z = row_of = encode(point)
        _check(eps, z.shape)
        rows = eps.shape[1]
        if rows < len(z):
            eps = F.pad(eps, (0, 0, 0, len(z) - rows))
        if forward_mode:
            with forward_ad.dual_level():
                x_hat, tangent = forward_ad.unpack_dual(decode(forward_ad.make_dual(z, eps[0])))
            pushed = [torch.zeros_like(x_hat) if tangent is None else tangent.detach()]
        else:
            x_hat = decode(z)
            pushed = [*map(make_jvp(x_hat, z), eps)]
        if jacobian_at != "data":
            on_path = jacobian_at == "reconstruction"
            point = x_hat if on_path else x_hat.detach().requires_grad_()
            row_of = encode(point)
        products = [
            torch.autograd.grad(row_of, point, vector, create_graph=True)[0] * tangent
            for vector, tangent in zip(eps, pushed, strict=True)
        ]
        values = torch.stack([product.flatten(1).sum(1) for product in products])
    return SurrogateOutput(-values.mean(0)[:rows], z, x_hat)


@deprecated("renamed to autograd_surrogate")
def published_surrogate(
    encode: Map, decode: Map, x: Tensor, eps: Tensor, **options: Any
) -> SurrogateOutput:
    """Deprecated name of :func:`autograd_surrogate`."""
    return autograd_surrogate(encode, decode, x, eps, **options)


def make_jvp(value: Tensor, point: Tensor) -> Callable[..., Tensor]:
    """v -> J v of a value that was computed of a point with a graph, by backward mode alone:
    u -> u^T J is linear, and its transpose is v -> J v."""
    u = torch.zeros_like(value, requires_grad=True)
    (pulled,) = torch.autograd.grad(value, point, u, create_graph=True)

    def push(v: Tensor, create_graph: bool = False) -> Tensor:
        return torch.autograd.grad(pulled, u, v, retain_graph=True, create_graph=create_graph)[0]

    return push


@contextmanager
def differentiable_kernels() -> Iterator[None]:
    """Within it attention can be differentiated twice and in forward mode: no fused kernels."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _check(eps: Tensor, codes: torch.Size) -> None:
    """Raises ValueError unless eps is (K, b, d), of at most as many samples as there are."""
    fits = eps.dim() == 3 and eps.shape[2] == codes[1]
    if not (fits and len(eps) >= 1 and 1 <= eps.shape[1] <= codes[0]):
        needed = f"(K from 1 up, {codes[0]} or fewer, {codes[1]}) is needed"
        raise ValueError(f"eps of shape {tuple(eps.shape)}: {needed}")
