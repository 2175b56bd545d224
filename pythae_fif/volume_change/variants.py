"""The other ways to take the surrogate: appendix D's choices of Jacobian, space and mode.

The default way is :func:`~pythae_fif.volume_change.loss.volume_surrogate`, which needs none of
this module.
"""

__all__ = [
    "GradientTo",
    "Mode",
    "TraceSpace",
    "differentiates_forward",
    "eps_meets_inner",
    "surrogate",
]

from contextlib import nullcontext
from typing import Literal, NamedTuple

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from pythae_fif.volume_change.loss import (
    JacobianAt,
    Map,
    SurrogateOutput,
    check_eps,
    check_option,
    volume_surrogate,
)
from pythae_fif.volume_change.operations import TwiceDifferentiable
from pythae_fif.volume_change.replay import Tape, record

GradientTo = Literal["encoder", "decoder"]
TraceSpace = Literal["latent", "data"]
Mode = Literal["replay", "mixed", "backward", "forward", "central_difference"]


def surrogate(
    encode: Map,
    decode: Map,
    x: Tensor,
    eps: Tensor,
    *,
    jacobian_at: JacobianAt = "data",
    gradient_to: GradientTo = "encoder",
    trace_space: TraceSpace = "latent",
    mode: Mode = "replay",
    dtype: torch.dtype | None = None,
) -> SurrogateOutput:
    r"""The volume term of the loss in any of the ways of appendix D.

    With the default options it is :func:`~pythae_fif.volume_change.loss.volume_surrogate` (eq. 15),
    where the arguments that are not listed here are explained.

    Arguments:
        eps: Hutchinson vectors, (K, b, d), or (K, b, D) when the trace is taken in data space.
            b < B only with mode ``replay``.
        gradient_to: Whose Jacobian carries the gradient: ``encoder`` (eqs. 10, 15) or ``decoder``
            (eq. 9, with the opposite sign).
        trace_space: ``latent`` for the trace of f' g' (d x d) or ``data`` for g' f' (D x D), of
            much higher variance (appendix D.1).
        dtype: Precision of the Jacobian products. Only with mode ``replay``.
        mode: How the two Jacobian products are computed. ``replay`` is the fastest, for functions
            made of known operations. Of appendix D.2: ``mixed`` forward and backward
            differentiation, one product each; ``backward`` only (Jacobian-vector products by
            differentiating a vector-Jacobian product); ``forward`` only, where the product without
            gradient is a Jacobian-vector product. All agree, except that PyTorch treats the
            statistics of BatchNorm in training mode as constants when it differentiates a
            forward-mode product: :func:`differentiates_forward` tells when that would matter.
            ``central_difference`` takes the product with gradient from the function itself, at
            two more points a vector (see :func:`_differences`): its gradient sees kinks, and is
            that of the others up to rounding (that of float32, not TF32) where there are none. Its
            passes move the running statistics of BatchNorm in training mode, too, as do those of
            ``mixed`` with gradient_to ``encoder``, one a vector.

    Returns:
        The surrogate, (b,), with z and x_hat of the same pass.

    Raises:
        ValueError: An unknown option, ``eps`` of the wrong shape, ``forward`` where a
            vector-Jacobian product is needed, another mode than ``replay`` or ``backward`` under
            autocast, or a part of the batch or another precision where the products are not those
            of ``replay`` alone.
        UnsupportedOperationError: ``replay`` of an operation that it does not know.
    """
    check_option("gradient_to", gradient_to, GradientTo)
    check_option("trace_space", trace_space, TraceSpace)
    check_option("mode", mode, Mode)
    if (gradient_to, trace_space, mode) == ("encoder", "latent", "replay"):
        return volume_surrogate(encode, decode, x, eps, jacobian_at=jacobian_at, dtype=dtype)
    check_option("jacobian_at", jacobian_at, JacobianAt)
    eps_first = eps_meets_inner(gradient_to, trace_space)
    if mode == "forward" and not eps_first:
        raise ValueError(
            f"mode 'forward' needs a vector-Jacobian product for gradient_to {gradient_to!r} with "
            f"trace_space {trace_space!r}; valid: 'mixed' or 'backward'"
        )
    if mode not in ("replay", "backward") and torch.is_autocast_enabled(x.device.type):
        why = "differences need" if mode == "central_difference" else "forward mode needs"
        raise ValueError(
            f"mode {mode!r}: {why} float32, not autocast; valid: 'replay' or 'backward'"
        )
    replayed = mode == "replay" and eps_first
    if not replayed and (eps.shape[1] != len(x) or dtype is not None):
        raise ValueError(
            f"a part of the batch, or a dtype: not with mode {mode!r}, gradient_to "
            f"{gradient_to!r} and trace_space {trace_space!r}; valid: mode 'replay' with "
            "encoder and latent, or decoder and data"
        )

    kernels = nullcontext() if mode == "replay" else TwiceDifferentiable()
    with torch.enable_grad(), kernels:
        x = x.detach().requires_grad_(not replayed)
        encoder = _Pass.run(encode, x, mode)
        z = encoder.value
        batch = z.dim() - 1  # dimensions before those of one data point
        space = z if trace_space == "latent" else x
        check_eps(eps, space.flatten(batch).shape, trace_space)
        eps = eps.unflatten(-1, space.shape[batch:])

        pushed = None
        if gradient_to == "encoder" and eps_first and mode in ("mixed", "forward"):
            x_hat, pushed = _jvps(decode, z, eps)  # the tangents ride on the one decoder pass
            decoder = _Pass(decode, z, x_hat)
        else:
            decoder = _Pass.run(decode, z, mode)
        x_hat = decoder.value
        if jacobian_at != "data":
            point = x_hat if jacobian_at == "reconstruction" else x_hat.detach()
            encoder = _Pass.run(encode, point if replayed else point.requires_grad_(), mode)
        outer, inner = (encoder, decoder) if gradient_to == "encoder" else (decoder, encoder)

        if eps_first:  # eps^T [outer' stop_gradient(inner' eps)]
            low = eps if dtype is None else eps.to(dtype)
            right = pushed if pushed is not None else inner.jvps(low, forward=mode == "forward")
            left, right = eps, right.detach()
        else:  # [stop_gradient(eps^T inner') outer'] eps
            left, right = inner.vjps(eps, create_graph=False), eps
        if mode == "central_difference":
            products = left * _differences(outer.function, outer.point, right)
        else:
            forward = differentiates_forward(gradient_to, trace_space, mode)
            products = outer.products(left, right, forward)
        value = products.flatten(1 + batch).sum(-1).mean(0)

    return SurrogateOutput(-value if gradient_to == "encoder" else value, z, x_hat)


def differentiates_forward(gradient_to: str, trace_space: str, mode: str) -> bool:
    """Whether the gradient flows through a forward-mode product.

    PyTorch's gradient of such a product is wrong where BatchNorm is in training mode (it misses
    the dependence of the batch statistics on the parameters), so such networks need another mode.
    """
    return mode == ("forward" if eps_meets_inner(gradient_to, trace_space) else "mixed")


def eps_meets_inner(gradient_to: str, trace_space: str) -> bool:
    """Whether eps lives where the Jacobian without gradient takes its input."""
    return (gradient_to == "encoder") == (trace_space == "latent")


class _Pass(NamedTuple):
    """A function with the one pass ``value = function(point)``."""

    function: Map
    point: Tensor
    value: Tensor
    tape: Tape | None = None

    @classmethod
    def run(cls, function: Map, point: Tensor, mode: Mode) -> "_Pass":
        """The one pass of a function, taped for ``replay``."""
        if mode == "replay":
            tape = record(function, point)
            return cls(function, point, tape.value, tape)
        return cls(function, point, function(point))

    def vjps(self, cotangents: Tensor, create_graph: bool) -> Tensor:
        """cotangents^T J, (K, *point.shape)."""
        products = [
            torch.autograd.grad(
                self.value, self.point, cotangent, create_graph=create_graph, retain_graph=True
            )[0]
            for cotangent in cotangents
        ]
        return torch.stack(products)

    def jvps(self, tangents: Tensor, forward: bool) -> Tensor:
        """J tangents, (K, *value.shape), without gradient; a second pass only if ``forward``."""
        if self.tape is not None:
            with torch.no_grad():
                return self.tape.jvps(tangents)
        if forward:
            return _jvps(self.function, self.point, tangents)[1]
        # u -> u^T J is linear: its own transpose is u -> J u.
        u = torch.zeros_like(self.value, requires_grad=True)
        (pulled,) = torch.autograd.grad(self.value, self.point, u, create_graph=True)
        products = [
            torch.autograd.grad(pulled, u, tangent, retain_graph=True)[0] for tangent in tangents
        ]
        return torch.stack(products)

    def products(self, left: Tensor, right: Tensor, forward: bool) -> Tensor:
        """The terms of left_k^T J right_k, (K, B, ...), with gradient through J."""
        if self.tape is not None:
            return left * self.tape.jvps(right)
        if forward:
            return left * _jvps(self.function, self.point, right)[1]
        return self.vjps(left, create_graph=True) * right


def _jvps(function: Map, point: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
    """The value and J tangents, (K, ...), by forward mode, one pass a tangent."""
    values, products = [], []
    for tangent in tangents:
        with forward_ad.dual_level():
            dual = function(forward_ad.make_dual(point, tangent))
            value, product = forward_ad.unpack_dual(dual)
        values.append(value)
        products.append(torch.zeros_like(value) if product is None else product)
    return values[0], torch.stack(products)


def _differences(function: Map, point: Tensor, tangents: Tensor) -> Tensor:
    r"""J tangents, (K, *value.shape), as :math:`(f(x + h v) - f(x - h v)) / 2h`; differentiable.

    With h v a part :math:`r = h |v| / |x|` of x, and f of a curvature on the scale of x, the
    difference is off by about :math:`r^2` of its size, and rounding of f adds about
    :math:`\epsilon / r`, epsilon that of the type. Both are smallest near
    :math:`r = \epsilon^{1/3}`: 5e-3 in float32, for an error of 2e-5; 6e-6 in float64, for 4e-11.

    A kink is met by the share of data points that lie within h of it, which is about r, and adds
    1 / r to the gradient of each: right in the mean, with a variance of 1 / r.

    TF32 is no float32. Where it is allowed, as for a GPU's convolutions unless told otherwise
    (``torch.backends.cudnn.allow_tf32``), the gradient is off by about a hundredth (emulated, two
    hidden layers). It cannot be turned off here alone: the backward pass, which comes later, rounds
    as much as the function.

    The norms are those of the whole batch, which then has one h a vector: with BatchNorm in
    training mode the difference is that of the whole-batch map.
    """
    part = torch.finfo(point.dtype).eps ** (1 / 3)
    products = []
    for tangent in tangents:
        with torch.no_grad():
            tiny = torch.finfo(point.dtype).tiny
            h = part * point.norm().clamp_min(part) / tangent.norm().clamp_min(tiny)
        products.append((function(point + h * tangent) - function(point - h * tangent)) / (2 * h))
    return torch.stack(products)
