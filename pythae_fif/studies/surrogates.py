"""Appendix D's other choices for the volume term, by plain autograd: for studies, not for training.

Whose Jacobian carries the gradient, where it is taken, and in which space the trace is.
"""

__all__ = ["TraceSpace", "surrogate"]

from typing import Literal

import torch
from torch import Tensor

from pythae_fif.volume_change.loss import (
    JacobianAt,
    Map,
    SurrogateOutput,
    differentiable_kernels,
)

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

    Returns:
        The surrogate, (B,), with z and x_hat of the same pass.
    """
    with torch.enable_grad(), differentiable_kernels():
        x = x.detach().requires_grad_()
        z = encode(x)
        x_hat = decode(z)
        encoder, decoder = (x, z), (z, x_hat)
        if jacobian_at != "data":
            point = x_hat
            if jacobian_at == "detached_reconstruction":
                point = x_hat.detach().requires_grad_()
            encoder = (point, encode(point))
        outer, inner = (encoder, decoder) if gradient_to == "encoder" else (decoder, encoder)
        to_inner = (gradient_to == "encoder") == (trace_space == "latent")
        values = []
        for vector in eps.unflatten(-1, (z if trace_space == "latent" else x).shape[1:]):
            if not to_inner:  # [stop_gradient(eps^T inner') outer'] eps
                left = _pulled(inner, vector, create_graph=False)
                product = _pulled(outer, left, create_graph=True) * vector
            else:  # eps^T [outer' stop_gradient(inner' eps)]
                product = _pulled(outer, vector, create_graph=True) * _pushed(inner, vector)
            values.append(product.flatten(1).sum(-1))
        value = torch.stack(values).mean(0)
    return SurrogateOutput(-value if gradient_to == "encoder" else value, z, x_hat)


_Pass = tuple[Tensor, Tensor]
"""A point, and the value of a function there."""


def _pulled(of: _Pass, cotangent: Tensor, *, create_graph: bool) -> Tensor:
    """cotangent^T J."""
    point, value = of
    options: dict[str, bool] = {"create_graph": create_graph, "retain_graph": True}
    (product,) = torch.autograd.grad(value, point, cotangent, **options)
    return product


def _pushed(of: _Pass, tangent: Tensor) -> Tensor:
    """J tangent, without gradient: u -> u^T J is linear, and its transpose is u -> J u."""
    u = torch.zeros_like(of[1], requires_grad=True)
    pulled = _pulled(of, u, create_graph=True)
    (product,) = torch.autograd.grad(pulled, u, tangent, retain_graph=True)
    return product
