"""Rules that say what single operations do to tangents."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_flatten, tree_unflatten

from pythae_fif.errors import UnsupportedOperationError


@dataclass(eq=False)
class Step:
    """One recorded operation, ``out = operation(*args, **kwargs)``.

    Attributes:
        operation: A function or method of PyTorch.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        out: Its result, or its results in a tuple or list.
        batch_step: The same operation on the whole batch, if the tangent is for the first samples
            only: everything here that depends on the input is then cut to these samples.
    """

    operation: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    batch_step: "Step | None" = None

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Returns an argument, whether it was passed by position or by name.

        Args:
            position: Its place among the positional arguments.
            name: Its keyword.
            default: The value of an argument that was not passed.
        """
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    @cached_property
    def leaves(self) -> list[Any]:
        """All arguments in one list, where elements of lists and tuples are listed one by one."""
        return tree_flatten((self.args, self.kwargs))[0]


GetTangent = Callable[[Any], "Tensor | None"]
"""Returns the tangent of an argument, or None if the argument does not depend on the input."""

Rule = Callable[[Step, GetTangent], Any]
"""Computes the tangents of a step's result or results from the tangents of its arguments."""


def _input_tangents(step: Step, get_tangent: GetTangent) -> dict[int, Tensor]:
    """The tangents of the arguments that have one, by the argument's place among the leaves."""
    tangents = {index: get_tangent(leaf) for index, leaf in enumerate(step.leaves)}
    return {index: tangent for index, tangent in tangents.items() if tangent is not None}


def _single_tangent(step: Step, get_tangent: GetTangent) -> Tensor:
    """The tangent of the only argument that has one."""
    (tangent,) = _input_tangents(step, get_tangent).values()
    return tangent


def _apply_with(step: Step, values: dict[int, Any]) -> Any:
    """Applies the operation with other values in place of some of the leaves."""
    leaves, structure = tree_flatten((step.args, step.kwargs))
    for index, value in values.items():
        leaves[index] = value
    args, kwargs = tree_unflatten(leaves, structure)
    return step.operation(*args, **kwargs)


def _linear_rule(step: Step, get_tangent: GetTangent) -> Any:
    """Rule for operations linear in one argument: apply the operation to that argument's tangent.

    Products are linear in each argument, but not in two at once: those are differentiated.
    """
    tangents = _input_tangents(step, get_tangent)
    if len(tangents) > 1:
        return _forward_mode_rule(step, get_tangent)
    return _apply_with(step, tangents)


def _forward_mode_rule(step: Step, get_tangent: GetTangent) -> Any:
    """Rule for any operation: forward-mode differentiation of this one operation."""
    tangents = _input_tangents(step, get_tangent)
    points = tuple(step.leaves[index] for index in tangents)
    directions = tuple(
        tangent.to(point.dtype) for tangent, point in zip(tangents.values(), points, strict=True)
    )

    return torch.func.jvp(
        lambda *values: _apply_with(step, dict(zip(tangents, values, strict=True))),
        points,
        directions,
    )[1]


def _affine_rule(step: Step, get_tangent: GetTangent) -> Tensor:
    """Rule for linear layers and convolutions: the layer without its bias."""
    tangent = get_tangent(step.argument(0, "input"))
    weight = step.argument(1, "weight")
    bias = step.argument(2, "bias")
    if tangent is None or get_tangent(weight) is not None or get_tangent(bias) is not None:
        raise UnsupportedOperationError("the weight or bias of a layer depends on the input")

    options = {k: v for k, v in step.kwargs.items() if k not in ("input", "weight", "bias")}
    return step.operation(tangent, weight, None, *step.args[3:], **options)


def _reshape_rule(step: Step, get_tangent: GetTangent) -> Tensor:
    """Rule for reshapes: the tangent gets the result's shape.

    The sizes among the arguments cannot be used: they may be those of the whole batch.
    """
    return _single_tangent(step, get_tangent).reshape(step.out.shape)


def _sum_rule(step: Step, get_tangent: GetTangent) -> Tensor:
    """Rule for sums and differences: the tangents are added, and broadcast as the values were."""
    first_tangent: Any = get_tangent(step.argument(0, "input"))
    second_tangent = get_tangent(step.argument(1, "other"))
    if second_tangent is None:
        return first_tangent.expand_as(step.out)

    if first_tangent is None:
        first_tangent = torch.zeros_like(second_tangent)
    options = {name: value for name, value in step.kwargs.items() if name == "alpha"}
    return step.operation(first_tangent, second_tangent, **options).expand_as(step.out)


def _concat_rule(step: Step, get_tangent: GetTangent) -> Any:
    """Rule for concatenation: constants, such as a joined condition, have tangents of zero."""
    rows = None if step.batch_step is None else len(step.out)
    zeros = {
        index: torch.zeros_like(leaf[:rows] if rows else leaf)
        for index, leaf in enumerate(step.leaves)
        if isinstance(leaf, Tensor)
    }
    return _apply_with(step, zeros | _input_tangents(step, get_tangent))


def _relu_rule(step: Step, get_tangent: GetTangent) -> Tensor:
    """Rule for ReLU: the kernel of its backward pass, three times as fast as a mask's product."""
    out = step.out.detach()
    tangent = _single_tangent(step, get_tangent).to(out.dtype)
    return torch.ops.aten.threshold_backward(tangent, out, 0)


def _silu_rule(step: Step, get_tangent: GetTangent) -> Tensor:
    """Rule for SiLU: the product with its slope.

    Forward mode itself copies the tangent of a part of the batch.
    """
    x = step.argument(0, "input")
    tangent = _single_tangent(step, get_tangent).to(x.dtype)
    product: Any = SiLUSlopeProduct.apply
    return product(tangent, x)


class SiLUSlopeProduct(torch.autograd.Function):
    """The product of a tangent with SiLU's slope at x, by the kernel of SiLU's backward pass.

    PyTorch cannot differentiate this kernel. The formula that it can differentiate takes twice as
    many operations.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(tangent: Tensor, x: Tensor) -> Tensor:
        """Returns the product; both arguments have any same shape."""
        return torch.ops.aten.silu_backward(tangent, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Keeps the arguments for the backward pass."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the gradients by the tangent and by x."""
        tangent, x = ctx.saved_tensors
        product: Any = SiLUSlopeProduct.apply

        # With s = sigmoid(x), the second derivative of x s is s (1 - s) (2 + x - 2 x s).
        sigmoid = x.sigmoid()
        factor = torch.addcmul(x, x, sigmoid, value=-2) + 2
        x_gradient = torch.ops.aten.sigmoid_backward(gradient * tangent * factor, sigmoid)
        return product(gradient, x), x_gradient


def _sigmoid_rule(step: Step, get_tangent: GetTangent) -> Tensor:
    """Rule for the sigmoid: as for SiLU."""
    tangent = _single_tangent(step, get_tangent).to(step.out.dtype)
    return torch.ops.aten.sigmoid_backward(tangent, step.out)


def _batch_norm_rule(step: Step, get_tangent: GetTangent) -> Tensor:
    """Rule for BatchNorm; in training mode it is the derivative of the whole-batch map.

    This includes the terms that cross samples. For part of a batch the statistics are constants
    of x, dh = dx / std, but still functions of the parameters. The gradient for a random part is
    therefore an unbiased estimate of the gradient for the whole batch with such statistics.
    """
    tangent = _single_tangent(step, get_tangent)
    x = step.argument(0, "input")
    variance = step.argument(2, "running_var")
    weight = step.argument(3, "weight")
    eps = step.argument(7, "eps", 1e-5)

    if step.argument(5, "training", False):
        if step.batch_step is None:
            return batch_norm_jvp(tangent, x, weight, eps)
        batch = step.batch_step.argument(0, "input")
        batch = batch.to(torch.promote_types(batch.dtype, torch.float32))
        variance = torch.var(batch, [0, *range(2, x.dim())], correction=0)

    scale: Tensor = (variance + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    return tangent * scale.to(tangent.dtype).view(1, -1, *[1] * (x.dim() - 2))


def _find_functions(names: str) -> list[Any]:
    """The functions with these names, separated by spaces, in torch, Tensor and functional."""
    pairs = product((torch, Tensor, F), names.split())
    return [getattr(owner, name) for owner, name in pairs if hasattr(owner, name)]


CONSTANT = {
    Tensor.data.__get__,  # type: ignore[attr-defined]
    *_find_functions(
        "detach sign sgn round floor ceil trunc zeros_like ones_like empty_like full_like "
        "rand_like randn_like new_zeros new_ones new_empty new_full new_tensor"
    ),
}
"""Operations with a result that does not change with their arguments, except at jumps."""

_RULES: list[tuple[Rule, str]] = [
    (
        _affine_rule,
        "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d",
    ),
    (_relu_rule, "relu"),
    (_silu_rule, "silu"),
    (_sigmoid_rule, "sigmoid"),
    (_sum_rule, "add sub __add__ __radd__ __sub__"),
    (_reshape_rule, "reshape view flatten unflatten squeeze unsqueeze"),
    (_concat_rule, "cat concat concatenate stack"),
    (_linear_rule, "neg __neg__ sum mean clone float double to contiguous mul __mul__ __rmul__"),
    (
        _linear_rule,
        "matmul __matmul__ __rmatmul__ bmm transpose permute t narrow chunk split unbind",
    ),
    (_linear_rule, "__getitem__ flip expand repeat roll gather index_select interpolate"),
    (_linear_rule, "pixel_shuffle pixel_unshuffle avg_pool1d avg_pool2d adaptive_avg_pool2d"),
    (_forward_mode_rule, "__rsub__ div __truediv__ __rtruediv__ pow __pow__ __rpow__ reciprocal"),
    (_forward_mode_rule, "square sqrt rsqrt exp log log1p sin cos erf abs clamp maximum minimum"),
    (_forward_mode_rule, "where tanh gelu softplus leaky_relu elu selu celu mish"),
    (_forward_mode_rule, "hardtanh relu6 softmax log_softmax logsumexp logsigmoid max_pool2d pad"),
]

RULES: dict[Any, Rule] = {
    function: rule for rule, names in _RULES for function in _find_functions(names)
}
"""Operation -> rule for its tangents. Normalisation by the statistics of single samples has no
rule: PyTorch's gradient of its product takes the statistics for constants."""
RULES[F.batch_norm] = _batch_norm_rule


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
