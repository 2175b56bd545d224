"""The Jacobian of batch normalisation in training mode, with a gradient written by hand.

Written with autograd's operations this derivative takes a dozen passes over the activations and
its gradient takes twenty. BatchNorm's own backward kernel does both in a few.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def batch_norm_jvp(tangent: Tensor, x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    r"""Applies the Jacobian of the whole-batch map $h w + b$, with $h = (x - m) / s$, to a tangent.

    The statistics m and s are functions of the input (Ioffe & Szegedy 2015). With m(.) the mean
    over samples and places, the derivative

    .. math:: dh = (dx - m(dx) - h \, m(h \, dx)) / s

    is its own transpose: it is the map of the backward pass.

    Args:
        tangent: dx, (B, C, ...).
        x: The input of the normalisation, (B, C, ...).
        weight: w, (C,), or None for weights of 1.
        eps: Number that is added to the variance.

    Returns:
        The product w dh, (B, C, ...), with the tangent's dtype.
    """
    if weight is None:
        weight = x.new_ones(x.shape[1])
    weight = weight + 1e-30 * (weight == 0).to(weight.dtype)  # the gradient divides by the weight

    # The statistics of a bfloat16 input are kept in the precision of the weight.
    with torch.no_grad():
        _, mean, inverse_std = torch.native_batch_norm(x, weight, None, None, None, True, 0.0, eps)
    apply_jacobian: Any = _BatchNormJvp.apply
    return apply_jacobian(tangent.to(x.dtype), x, weight, mean, inverse_std).to(tangent.dtype)


class _BatchNormJvp(torch.autograd.Function):
    """The product u = w (t - m(t) - h m(h t)) / s with a tangent t."""

    @staticmethod
    def forward(
        ctx: Any, tangent: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse_std: Tensor
    ) -> Tensor:
        product, overlap = _apply_backward_kernel(tangent, x, weight, mean, inverse_std)
        ctx.save_for_backward(product, x, weight, mean, inverse_std, overlap)
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Computes the gradient of <G, u>, for G the gradient of the loss by the product u.

        For the tangent t it is v, the same map applied to G. For x, on which h and s depend, it
        is -(m(h t) v + m(h G) u) / s - <G, u> h / (N s), with N samples and places. For w it is
        <G, u> / w.
        """
        product, x, weight, mean, inverse_std, overlap = ctx.saved_tensors
        only_nhwc = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        layout = torch.channels_last if only_nhwc else torch.contiguous_format
        grad = grad.contiguous(memory_format=layout)
        grad_tangent, grad_overlap = _apply_backward_kernel(grad, x, weight, mean, inverse_std)

        # <G, u> of each channel is the kernel's gradient for the weight, with u in place of h.
        _, inner_product = _apply_backward_kernel(
            grad,
            product,
            weight,
            mean=torch.zeros_like(mean),
            inverse_std=torch.ones_like(inverse_std),
            needs_product=False,
        )

        grad_x = None
        if ctx.needs_input_grad[1]:
            channel_shape = (1, -1, *[1] * (x.dim() - 2))

            def per_channel(values: Tensor) -> Tensor:
                return values.view(channel_shape).to(x.dtype)

            scale = inverse_std * x.shape[1] / x.numel()
            h_scale = inner_product * scale * inverse_std
            grad_x = torch.addcmul(
                grad_tangent * per_channel(-scale * overlap),
                product,
                per_channel(-scale * grad_overlap),
            )
            grad_x.addcmul_(x, per_channel(-h_scale))
            grad_x += per_channel(h_scale * mean)
        return grad_tangent, grad_x, inner_product / weight, None, None


def _apply_backward_kernel(
    tangent: Tensor,
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    inverse_std: Tensor,
    needs_product: bool = True,
) -> tuple[Tensor, Tensor]:
    """Returns the product with a tangent t, if needed, and the overlap N m(h t), (C,).

    These are BatchNorm's gradients for its input and for its weight.
    """
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
        tangent, x, weight, None, None, mean, inverse_std, True, 0.0, [needs_product, True, False]
    )
    return gradients[:2]
