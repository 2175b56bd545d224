"""The volume term of the loss (eq. 15), in the way that is always right and in the fast one."""

__all__ = [
    "JacobianAt",
    "Map",
    "Surrogate",
    "SurrogateOutput",
    "differentiable_kernels",
    "published_surrogate",
    "pushing",
    "volume_surrogate",
]

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from pythae_fif.volume_change.replay import record

JacobianAt = Literal["data", "reconstruction", "detached_reconstruction"]

Map = Callable[[Tensor], Tensor]


class SurrogateOutput(NamedTuple):
    """What one pass of encoder and decoder yields: the surrogate of the first b samples, (b, ...),
    to be added to the loss, z = f(x), (B, ..., d), and g(z), the shape of x."""

    surrogate: Tensor
    z: Tensor
    x_hat: Tensor


Surrogate = Callable[[Map, Map, Tensor, Tensor], SurrogateOutput]
"""Encoder, decoder, x and eps to the volume term of the loss."""


def published_surrogate(
    encode: Map, decode: Map, x: Tensor, eps: Tensor, *, jacobian_at: JacobianAt = "data"
) -> SurrogateOutput:
    """:func:`volume_surrogate` of any networks, as the authors compute it (appendix D.2).

    g'(z) eps by forward mode, or backward mode twice for several vectors and under autocast;
    eps^T f'(x) by backward mode with a graph. It takes a quarter more time, and as much for a part
    of the batch as for the whole. Arguments, result and errors are those of
    :func:`volume_surrogate`; for a part of the batch BatchNorm's Jacobian in training mode is that
    of the whole batch.
    """
    with torch.enable_grad(), differentiable_kernels():
        point = x.detach().requires_grad_()
        z = row_of = encode(point)
        _check(eps, z.shape)
        rows = eps.shape[1]
        if rows < len(z):
            eps = torch.cat([eps, eps.new_zeros(len(eps), len(z) - rows, *eps.shape[2:])], 1)
        x_hat, pushed = _pushed(decode, z, eps)
        if jacobian_at != "data":
            point = x_hat
            if jacobian_at == "detached_reconstruction":
                point = x_hat.detach().requires_grad_()
            row_of = encode(point)
        products = [
            torch.autograd.grad(row_of, point, vector, create_graph=True)[0] * tangent
            for vector, tangent in zip(eps, pushed, strict=True)
        ]
        values = torch.stack([product.flatten(z.dim() - 1).sum(-1) for product in products])
    return SurrogateOutput(-values.mean(0)[:rows], z, x_hat)


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
        x: Data, (B, ...), or (M, B, ...) of the members of an ensemble, if the networks keep them.
        eps: Hutchinson vectors, (K, b, d), or (K, M, B, d) of an ensemble. With b < B the
            surrogate is that of the first b samples alone, each by itself: statistics of BatchNorm
            in training mode are constants then.
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
        f = outer = record(encode, x.detach())
        _check(eps, f.value.shape)
        g = record(decode, f.value)
        if jacobian_at != "data":
            detached = jacobian_at == "detached_reconstruction"
            outer = record(encode, g.value.detach() if detached else g.value)
        with torch.no_grad():
            pushed = [g.jvp(vector) for vector in eps]
        products = [
            vector * outer.jvp(tangent) for vector, tangent in zip(eps, pushed, strict=True)
        ]
        surrogate = -torch.stack(products).sum(-1).mean(0)
    return SurrogateOutput(surrogate, f.value, g.value)


def pushing(value: Tensor, point: Tensor) -> Callable[..., Tensor]:
    """v -> J v of a value that was computed of a point with a graph, by backward mode alone:
    u -> u^T J is linear, and its transpose is v -> J v."""
    u = torch.zeros_like(value, requires_grad=True)
    (pulled,) = torch.autograd.grad(value, point, u, create_graph=True)

    def push(v: Tensor, create_graph: bool = False) -> Tensor:
        options = {"retain_graph": True, "create_graph": create_graph}
        return torch.autograd.grad(pulled, u, v, **options)[0]

    return push


def _pushed(decode: Map, z: Tensor, eps: Tensor) -> tuple[Tensor, list[Tensor]]:
    """g(z), and g'(z) eps of each vector, without gradient."""
    if len(eps) == 1 and not torch.is_autocast_enabled(z.device.type):
        try:
            with forward_ad.dual_level():
                dual = decode(forward_ad.make_dual(z, eps[0]))
                x_hat, tangent = forward_ad.unpack_dual(dual)
            return x_hat, [torch.zeros_like(x_hat) if tangent is None else tangent.detach()]
        except NotImplementedError:  # an operation without forward mode
            pass
    x_hat = decode(z)
    return x_hat, [*map(pushing(x_hat, z), eps)]


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
    """Raises ValueError unless eps is (K, b, ...), of at most as many samples as there are."""
    fits = eps.dim() == len(codes) + 1 and eps.shape[2:] == codes[1:]
    if not (fits and len(eps) >= 1 and 1 <= eps.shape[1] <= codes[0]):
        needed = f"(K from 1 up, {codes[0]} or fewer, {', '.join(map(str, codes[1:]))}) is needed"
        raise ValueError(f"eps of shape {tuple(eps.shape)}: {needed}")
