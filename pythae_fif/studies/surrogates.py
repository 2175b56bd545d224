"""Appendix D's other choices for the volume term, by plain autograd: for studies, not for training.

Whose Jacobian carries the gradient, in which space the trace is taken, and differences in place of
derivatives.
"""

__all__ = ["StudiedFIF", "TraceSpace", "central_differences", "surrogate"]

from typing import Any, Literal

import torch
from torch import Tensor

from pythae_fif.models import FIF
from pythae_fif.volume_change import SurrogateOutput
from pythae_fif.volume_change.surrogates import JacobianAt, Map, differentiable_kernels

GradientTo = Literal["encoder", "decoder"]
TraceSpace = Literal["latent", "data"]


def surrogate(
    encode: Map,
    decode: Map,
    x: Tensor,
    eps: Tensor,
    *,
    jacobian_at: JacobianAt = "data",
    gradient_to: GradientTo = "encoder",
    trace_space: TraceSpace = "latent",
    differences: bool = False,
) -> SurrogateOutput:
    r"""The volume term of the loss in any of the ways of appendix D.

    With the default options it is :func:`~pythae_fif.volume_change.volume_surrogate` (eq. 15),
    where the arguments that are not listed here are explained.

    Arguments:
        eps: Hutchinson vectors, (K, B, d), or (K, B, D) when the trace is taken in data space.
        gradient_to: Whose Jacobian carries the gradient: ``encoder`` (eqs. 10, 15) or ``decoder``
            (eq. 9, with the opposite sign).
        trace_space: ``latent`` for the trace of f' g' (d x d) or ``data`` for g' f' (D x D), of
            much higher variance (appendix D.1).
        differences: Whether the product with gradient is :func:`central_differences`, which see
            kinks. It needs that product to be one with a tangent: encoder and latent, or decoder
            and data.

    Returns:
        The surrogate, (B,), with z and x_hat of the same pass.
    """
    with torch.enable_grad(), differentiable_kernels():
        x = x.detach().requires_grad_()
        z = encode(x)
        x_hat = decode(z)
        encoder, decoder = (encode, x, z), (decode, z, x_hat)
        if jacobian_at != "data":
            point = x_hat
            if jacobian_at == "detached_reconstruction":
                point = x_hat.detach().requires_grad_()
            encoder = (encode, point, encode(point))
        outer, inner = (encoder, decoder) if gradient_to == "encoder" else (decoder, encoder)
        to_inner = (gradient_to == "encoder") == (trace_space == "latent")
        values = []
        for vector in eps.unflatten(-1, (z if trace_space == "latent" else x).shape[1:]):
            if not to_inner:  # [stop_gradient(eps^T inner') outer'] eps
                left = _pulled(inner, vector, create_graph=False)
                product = _pulled(outer, left, create_graph=True) * vector
            else:  # eps^T [outer' stop_gradient(inner' eps)]
                right = _pushed(inner, vector)
                if differences:
                    product = vector * central_differences(outer[0], outer[1], right)
                else:
                    product = _pulled(outer, vector, create_graph=True) * right
            values.append(product.flatten(1).sum(-1))
        value = torch.stack(values).mean(0)
    return SurrogateOutput(-value if gradient_to == "encoder" else value, z, x_hat)


def central_differences(function: Map, point: Tensor, tangent: Tensor) -> Tensor:
    r"""J tangent as :math:`(f(x + h v) - f(x - h v)) / 2h`, differentiable.

    With h v a part :math:`r = h |v| / |x|` of x, and f of a curvature on the scale of x, the
    difference is off by about :math:`r^2` of its size, and rounding of f adds about
    :math:`\epsilon / r`, epsilon that of the type. Both are smallest near
    :math:`r = \epsilon^{1/3}`: 5e-3 in float32, for an error of 2e-5; 6e-6 in float64, for 4e-11.

    A kink is met by the share of data points that lie within h of it, which is about r, and adds
    1 / r to the gradient of each: right in the mean, with a variance of 1 / r. The norms are those
    of the whole batch. TF32 is no float32.
    """
    part, tiny = torch.finfo(point.dtype).eps ** (1 / 3), torch.finfo(point.dtype).tiny
    with torch.no_grad():
        h = part * point.norm().clamp_min(part) / tangent.norm().clamp_min(tiny)
    above, below = function(point + h * tangent), function(point - h * tangent)
    product: Tensor = (above - below) / (2 * h)
    return product


class StudiedFIF(FIF):
    """FIF with another volume term.

    Args:
        options: Of :func:`surrogate`.
        others: As of :class:`~pythae_fif.models.FIF`. The trace is taken in latent space.
    """

    def __init__(self, *others: Any, **options: Any) -> None:
        super().__init__(*others)
        self.options = options

    def volume_term(self, encode: Map, decode: Map, x: Tensor, eps: Tensor) -> SurrogateOutput:
        at = self.model_config.jacobian_at
        return surrogate(encode, decode, x, eps, jacobian_at=at, **self.options)

    def _choose_surrogate(self, x: Tensor, condition: Tensor | None) -> None:
        """It is given."""


_Pass = tuple[Map, Tensor, Tensor]
"""A function, a point and its value."""


def _pulled(of: _Pass, cotangent: Tensor, *, create_graph: bool) -> Tensor:
    """cotangent^T J."""
    _, point, value = of
    options: dict[str, bool] = {"create_graph": create_graph, "retain_graph": True}
    (product,) = torch.autograd.grad(value, point, cotangent, **options)
    return product


def _pushed(of: _Pass, tangent: Tensor) -> Tensor:
    """J tangent, without gradient: u -> u^T J is linear, and its transpose is u -> J u."""
    u = torch.zeros_like(of[2], requires_grad=True)
    pulled = _pulled(of, u, create_graph=True)
    (product,) = torch.autograd.grad(pulled, u, tangent, retain_graph=True)
    return product
