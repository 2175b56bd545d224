"""Products of tangents with the Jacobians of layers, by the kernels of the layers' backward passes.

Their gradients are written out. From autograd's operations they would take many passes over the
activations.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import handle_torch_function, has_torch_function_unary

aten = torch.ops.aten
LN_2 = math.log(2)


class Slope(NamedTuple):
    """The derivatives of an activation f.

    Attributes:
        multiply: Maps t and x of the same shape to t f'(x).
        multiply_curvature: Maps t and x of the same shape to t f''(x).
    """

    multiply: Callable[[Tensor, Tensor], Tensor]
    multiply_curvature: Callable[[Tensor, Tensor], Tensor]


def _silu_curvature(tangent: Tensor, x: Tensor) -> Tensor:
    """With s = sigmoid(x), the second derivative of x s is s (1 - s) (2 + x - 2 x s)."""
    sigmoid = x.sigmoid()
    factor = torch.addcmul(x, x, sigmoid, value=-2) + 2
    return aten.sigmoid_backward(tangent * factor, sigmoid)


def _gelu_curvature(tangent: Tensor, x: Tensor) -> Tensor:
    """With the normal density p, the second derivative of x P(x) is p(x) (2 - x^2)."""
    zero = x.new_zeros(())
    exponent = torch.addcmul(zero, x, x, value=-0.5 / LN_2)  # powers of 2 are faster than of e
    factor = torch.addcmul(tangent, tangent, exponent, value=LN_2)  # half of t (2 - x^2)
    return torch.addcmul(zero, factor, exponent.exp2(), value=math.sqrt(2 / math.pi))


def _mish_curvature(tangent: Tensor, x: Tensor) -> Tensor:
    """With s = sigmoid(x) and w = tanh(softplus(x)), it is s (1 - w^2) (2 + x (1 - s - 2 s w))."""
    sigmoid = x.sigmoid()
    tanh = F.softplus(x).tanh()
    factor = 2 + x * (1 - sigmoid - 2 * sigmoid * tanh)
    return aten.tanh_backward(tangent * factor * sigmoid, tanh)


SILU = Slope(aten.silu_backward, _silu_curvature)
GELU = Slope(aten.gelu_backward, _gelu_curvature)
MISH = Slope(aten.mish_backward, _mish_curvature)
HARDSIGMOID = Slope(aten.hardsigmoid_backward, lambda tangent, x: torch.zeros_like(x))


class SlopeProduct(torch.autograd.Function):
    """The product of a tangent with an activation's slope at x, by the activation's kernel.

    PyTorch cannot differentiate these kernels, or only by many operations.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(tangent: Tensor, x: Tensor, slope: Slope, values: Tensor | None = None) -> Tensor:
        """Returns the product; tangent, x and the slope's values, if known, have any same shape."""
        return slope.multiply(tangent, x) if values is None else tangent * values

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps the arguments for the backward pass."""
        tangent, x, ctx.slope, values = inputs
        ctx.save_for_backward(tangent, x, values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Returns the gradients by the tangent and by x."""
        tangent, x, values = ctx.saved_tensors
        product: Any = SlopeProduct.apply
        x_gradient = ctx.slope.multiply_curvature(gradient * tangent, x)
        return product(gradient, x, ctx.slope, values), x_gradient, None, None


class _GELUWithSlope(torch.autograd.Function):
    """GELU and the values of its slope, which are computed once for all passes that need them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        values = aten.gelu_backward(torch.ones_like(x), x)
        ctx.save_for_backward(x, values)
        ctx.mark_non_differentiable(values)
        return F.gelu(x), values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> Tensor:
        product: Any = SlopeProduct.apply
        x, values = ctx.saved_tensors
        return product(gradient, x, GELU, values)


def gelu_with_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns GELU at x and the values of its slope, of the shape of x.

    A tape records this as one operation.
    """
    if has_torch_function_unary(x):
        return handle_torch_function(gelu_with_slope, (x,), x)
    compute: Any = _GELUWithSlope.apply
    return compute(x)


class SoftmaxProduct(torch.autograd.Function):
    """The product u = y (t - <y, t>) of a tangent t with the Jacobian of a softmax y.

    Its gradient by y lacks a constant in each row, which the Jacobian of y removes.
    """

    @staticmethod
    def forward(ctx: Any, tangent: Tensor, y: Tensor, dim: int) -> Tensor:
        """Returns the product; tangent and y have any same shape."""
        ctx.save_for_backward(tangent, y)
        ctx.dim = dim
        return aten._softmax_backward_data(tangent, y, dim, y.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Returns the gradients by the tangent and by y."""
        tangent, y = ctx.saved_tensors
        dim = ctx.dim
        centred_tangent = tangent - torch.linalg.vecdot(y, tangent, dim=dim).unsqueeze(dim)
        centred_grad = grad - torch.linalg.vecdot(y, grad, dim=dim).unsqueeze(dim)
        grad_tangent = aten._softmax_backward_data(grad, y, dim, y.dtype)
        return grad_tangent, centred_tangent.mul_(centred_grad), None


class PReLUProduct(torch.autograd.Function):
    """The product of a tangent t with the slope of PReLU at x: t where x > 0, else w t."""

    @staticmethod
    def forward(ctx: Any, tangent: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """Returns the product; tangent and x are (B, C, ...), and w is (1,) or (C,)."""
        ctx.save_for_backward(tangent, x, weight)
        return _apply_prelu_slope(tangent, x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor]:
        """Returns the gradients by the tangent and by w."""
        tangent, x, weight = ctx.saved_tensors
        grad = _match_layout(grad, tangent)
        tiny = torch.finfo(x.dtype).tiny
        negative_grad = aten.hardtanh_backward(grad, x, -math.inf, tiny)  # where x <= 0
        products = _channel_products(negative_grad, tangent)
        grad_weight = products.sum_to_size(weight.shape).to(weight.dtype)
        return _apply_prelu_slope(grad, x, weight), None, grad_weight


def _apply_prelu_slope(tangent: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    channels = weight.view(1, -1, *[1] * (x.dim() - 2)).to(x.dtype)
    return aten._prelu_kernel_backward(tangent, x, channels)[0]


def batch_norm_jvp(
    tangent: Tensor,
    x: Tensor,
    weight: Tensor | None,
    eps: float,
    statistics: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
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
        statistics: m and 1 / s, each (C,), if they are known.

    Returns:
        The product w dh, (B, C, ...), with the tangent's dtype.
    """
    precision = torch.promote_types(x.dtype, torch.float32)  # also for bfloat16 inputs
    if weight is None:
        weight = x.new_ones(x.shape[1], dtype=precision)
    else:
        weight = weight + 1e-30 * (weight == 0).to(weight.dtype)  # the gradient divides by it

    if statistics is None:
        with torch.no_grad():
            statistics = torch.native_batch_norm(x, weight, None, None, None, True, 0.0, eps)[1:]
    mean, inverse_std = (values.to(weight.dtype) for values in statistics)
    apply_jacobian: Any = _BatchNormJvp.apply
    return apply_jacobian(tangent.to(x.dtype), x, weight, mean, inverse_std).to(tangent.dtype)


# Written with autograd's operations this derivative takes a dozen passes over the activations and
# its gradient takes twenty. BatchNorm's own backward kernel does both in a few.
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
        grad = _match_layout(grad, x)
        grad_tangent, grad_overlap = _apply_backward_kernel(grad, x, weight, mean, inverse_std)
        inner_product = _channel_products(grad, product)

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
    tangent: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse_std: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the product with a tangent t and the overlap N m(h t), (C,).

    These are BatchNorm's gradients for its input and for its weight.
    """
    gradients: tuple[Tensor, Tensor, Tensor] = aten.native_batch_norm_backward(
        tangent, x, weight, None, None, mean, inverse_std, True, 0.0, [True, True, False]
    )
    return gradients[:2]


def _match_layout(tensor: Tensor, other: Tensor) -> Tensor:
    """Returns a tensor that is contiguous, in the order of another one's axes."""
    only_nhwc = other.is_contiguous(memory_format=torch.channels_last) and not other.is_contiguous()
    layout = torch.channels_last if only_nhwc else torch.contiguous_format
    return tensor.contiguous(memory_format=layout)


def _channel_products(first: Tensor, second: Tensor) -> Tensor:
    """Returns the inner products of the channels of two tensors (B, C, ...), (C,).

    They are the gradient of BatchNorm's weight, with one tensor in place of h.
    """
    dtype = torch.promote_types(second.dtype, torch.float32)
    zeros = second.new_zeros(second.shape[1], dtype=dtype)
    products: Tensor = aten.native_batch_norm_backward(
        first, second, zeros, None, None, zeros, zeros + 1, True, 0.0, [False, True, False]
    )[1]
    return products
