"""Batch normalisation in training mode applied to a tangent, with its gradient by hand.

Written with autograd's operations this derivative takes a dozen passes over the activations and
its gradient twenty; BatchNorm's own backward kernel does both in a few.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def batch_norm_jvp(tangent: Tensor, x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    r"""The tangent of the whole-batch map $h w + b$, with $h = (x - m) / s$.

    The statistics m and s are functions of the input (Ioffe & Szegedy 2015), so with m(.) the mean
    over samples and places

    .. math:: dh = (dx - m(dx) - h \, m(h \, dx)) / s

    which is its own transpose: the map is that of the backward pass.

    Arguments:
        tangent, x: dx, and what was normalised, (B, C, ...).
        weight: w, (C,), or None.
        eps: Added to the variance.
    """
    if weight is None:
        weight = x.new_ones(x.shape[1])
    weight = weight + 1e-30 * (weight == 0).to(weight.dtype)  # its gradient divides by it
    # The weight tells the kernel in which precision to keep the statistics of a bfloat16 x.
    with torch.no_grad():
        kept = torch.native_batch_norm(x, weight, None, None, None, True, 0.0, eps)
    jvp: Any = _Jvp.apply
    product: Tensor = jvp(tangent.to(x.dtype), x, weight, kept[1], kept[2])
    return product.to(tangent.dtype)


class _Jvp(torch.autograd.Function):
    """u = w (t - m(t) - h m(h t)) / s of one tangent t."""

    @staticmethod
    def forward(
        ctx: Any, t: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor
    ) -> Tensor:
        u, overlap = _adjoint(t, x, weight, mean, inverse)
        ctx.save_for_backward(u, x, weight, mean, inverse, overlap)
        return u

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of <G, u>: for t the map itself, of G, which is v; for x, on which h and s
        depend, -(m(h t) v + m(h G) u) / s - <G, u> h / (N s), of N samples and places."""
        u, x, weight, mean, inverse, overlap = ctx.saved_tensors
        nhwc = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if nhwc and not x.is_contiguous() else torch.contiguous_format
        grad = grad.contiguous(memory_format=layout)
        grad_t, grad_overlap = _adjoint(grad, x, weight, mean, inverse)
        channel = (1, -1, *[1] * (x.dim() - 2))
        # <G, u> of every channel: the same kernel's gradient of the weight, with u for h.
        zero, one = torch.zeros_like(mean), torch.ones_like(inverse)
        _, total = _adjoint(grad, u, weight, zero, one, mapped=False)
        grad_x = None
        if ctx.needs_input_grad[1]:
            scale = inverse * x.shape[1] / x.numel()
            h_scale = total * scale * inverse
            grad_x = torch.addcmul(
                grad_t * (-scale * overlap).view(channel).to(x.dtype),
                u,
                (-scale * grad_overlap).view(channel).to(x.dtype),
            )
            grad_x.addcmul_(x, (-h_scale).view(channel).to(x.dtype))
            grad_x += (h_scale * mean).view(channel).to(x.dtype)
        return grad_t, grad_x, total / weight, None, None


def _adjoint(
    t: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor, mapped: bool = True
) -> tuple[Tensor, Tensor]:
    """The map of t, if asked, and N m(h t), (C,): BatchNorm's gradients for input and weight."""
    out: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
        t, x, weight, None, None, mean, inverse, True, 0.0, [mapped, True, False]
    )
    return out[:2]
