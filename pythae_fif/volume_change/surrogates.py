"""The volume term of the loss (eq. 15), in the way that is always right and in the fast one."""

__all__ = [
    "JacobianAt",
    "Map",
    "Surrogate",
    "SurrogateOutput",
    "differentiable_kernels",
    "published_surrogate",
    "volume_surrogate",
]

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

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


def published_surrogate(
    encode: Map,
    decode: Map,
    x: Tensor,
    eps: Tensor,
    *,
    jacobian_at: JacobianAt = "data",
    forward: bool = True,
) -> SurrogateOutput:
    """:func:`volume_surrogate` of any networks, as the authors compute it (appendix D.2).

    g'(z) eps by forward mode, eps^T f'(x) by backward mode with a graph. It takes a quarter more
    time, and as much for a part of the batch as for the whole.

    Arguments:
        encode, decode, x, eps, jacobian_at: As of :func:`volume_surrogate`. For a part of the batch
            BatchNorm's Jacobian in training mode is that of the whole batch.
        forward: Whether g'(z) eps goes by forward mode. It is backward mode twice otherwise, for
            several vectors and under autocast.

    Returns:
        The surrogate, (b,), with z and x_hat of the same pass.

    Raises:
        ValueError: ``eps`` of the wrong shape, or an unknown ``jacobian_at``.
    """
    with torch.enable_grad(), differentiable_kernels():
        point = x.detach().requires_grad_()
        z = row_of = encode(point)
        _check(eps, z.shape, jacobian_at)
        rows = eps.shape[1]
        if rows < len(z):
            eps = torch.cat([eps, eps.new_zeros(len(eps), len(z) - rows, *eps.shape[2:])], 1)
        if forward and len(eps) == 1 and not torch.is_autocast_enabled(x.device.type):
            x_hat, pushed = _pushed_forward(decode, z, eps[0])
        else:
            x_hat, pushed = _pushed_backward(decode, z, eps)
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

    For every sample, with z = f(x),

    .. math:: -\frac{1}{K} \sum_k \epsilon_k^\top f'(x) \, \text{stop\_gradient}(g'(z) \epsilon_k)

    which is eq. 15. Its value, -tr f'(x) g'(z) in expectation, says nothing about the fit; what it
    says about the training is told at :func:`~pythae_fif.volume_change.fif_loss`.

    The estimate rests on two assumptions. g' is the pseudo-inverse of f' (eqs. 47 and 48); the
    reconstruction term makes it so. And f' is continuous in the parameters. With ReLU it is not: it
    jumps where a kink passes, which automatic differentiation does not see.

    Each network runs once and is noted; its derivative is then applied to tangents (see
    :mod:`~pythae_fif.volume_change.replay`).

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
    with torch.enable_grad():
        f = outer = record(encode, x.detach())
        _check(eps, f.value.shape, jacobian_at)
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


@contextmanager
def differentiable_kernels() -> Iterator[None]:
    """Within it PyTorch's kernels can be differentiated twice, and in forward mode.

    Those of fused attention and of cuDNN's recurrent networks cannot.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), _Kernels():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _pushed_forward(decode: Map, z: Tensor, vector: Tensor) -> tuple[Tensor, list[Tensor]]:
    """g(z) with g'(z) eps, which rides on the one pass."""
    with forward_ad.dual_level():
        x_hat, tangent = forward_ad.unpack_dual(decode(forward_ad.make_dual(z, vector)))
    return x_hat, [torch.zeros_like(x_hat) if tangent is None else tangent.detach()]


def _pushed_backward(decode: Map, z: Tensor, eps: Tensor) -> tuple[Tensor, list[Tensor]]:
    """g(z) with g'(z) eps of all vectors: u -> u^T J is linear, and its transpose is u -> J u."""
    x_hat = decode(z)
    u = torch.zeros_like(x_hat, requires_grad=True)
    (pulled,) = torch.autograd.grad(x_hat, z, u, create_graph=True)
    return x_hat, [torch.autograd.grad(pulled, u, e, retain_graph=True)[0] for e in eps]


_AFFINE = {F.linear, torch.conv1d, torch.conv2d, torch.conv3d}
_AFFINE |= {torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d}
_RECURRENT = {torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu}


class _Kernels(TorchFunctionMode):
    """PyTorch's forward mode also convolves the input with a weight's tangent of zeros.

    A convolution by itself does not, and its tangent gets no graph.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _RECURRENT:
            enabled, torch.backends.cudnn.enabled = torch.backends.cudnn.enabled, False
            try:
                return func(*args, **kwargs)
            finally:
                torch.backends.cudnn.enabled = enabled
        if func in _AFFINE and len(args) > 1 and forward_ad._current_level >= 0:
            value, tangent = forward_ad.unpack_dual(args[0])
            if tangent is not None:
                out = func(value, *args[1:], **kwargs)
                with torch.no_grad():
                    options = {key: v for key, v in kwargs.items() if key != "bias"}
                    pushed = func(tangent, args[1], None, *args[3:], **options)
                return forward_ad.make_dual(out, pushed)
        return func(*args, **kwargs)


def _check(eps: Tensor, codes: torch.Size, jacobian_at: str) -> None:
    """Raises ValueError unless eps is (K, b, ...), of at most as many samples as there are."""
    if jacobian_at not in get_args(JacobianAt):
        valid = ", ".join(get_args(JacobianAt))
        raise ValueError(f"unknown jacobian_at {jacobian_at!r}; valid: {valid}")
    fits = eps.dim() == len(codes) + 1 and eps.shape[2:] == codes[1:]
    if not (fits and len(eps) >= 1 and 1 <= eps.shape[1] <= codes[0]):
        raise ValueError(
            f"eps of shape {tuple(eps.shape)}: (K from 1 up, {codes[0]} or fewer, "
            f"{', '.join(map(str, codes[1:]))}) is needed"
        )
