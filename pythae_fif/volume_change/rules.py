"""Rules that say what single operations do to tangents."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from pythae_fif.errors import UnsupportedOperationError
from pythae_fif.volume_change.kernels import (
    GELU,
    HARDSIGMOID,
    MISH,
    SILU,
    PReLUProduct,
    Slope,
    SlopeProduct,
    SoftmaxProduct,
    batch_norm_jvp,
    gelu_with_slope,
)


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
    """Rule for operations linear in one argument: the operation is applied to its tangent."""
    tangents = _input_tangents(step, get_tangent)
    if len(tangents) > 1:
        return _forward_mode_rule(step, get_tangent)
    return _apply_with(step, tangents)


def _like_rule(step: Step, get_tangent: GetTangent) -> Any:
    """Rule for operations that read only the type or the shape of their second argument."""
    return _apply_with(step, {0: get_tangent(step.args[0])})


def _forward_mode_rule(step: Step, get_tangent: GetTangent) -> Any:
    """Rule for any operation: forward-mode differentiation of this one operation."""
    tangents = _input_tangents(step, get_tangent)
    points = tuple(_materialize(step.leaves[index]) for index in tangents)
    directions = tuple(
        tangent.to(point.dtype) for tangent, point in zip(tangents.values(), points, strict=True)
    )

    return torch.func.jvp(
        lambda *values: _apply_with(step, dict(zip(tangents, values, strict=True))),
        points,
        directions,
    )[1]


def _materialize(tensor: Tensor) -> Tensor:
    """A tensor without places that share their memory: forward mode refuses expanded tensors."""
    return tensor.contiguous() if 0 in tensor.stride() else tensor


def _product_rule(step: Step, get_tangent: GetTangent) -> Any:
    """Rule for products, which are linear in each argument."""
    tangents = _input_tangents(step, get_tangent)
    summands = [_apply_with(step, {index: tangent}) for index, tangent in tangents.items()]
    return reduce(torch.add, summands)


def _matrix_rule(step: Step, get_tangent: GetTangent) -> Any:
    """Rule for products of matrices, d(A B) = dA B + A dB."""
    left, right = step.args
    left_tangent, right_tangent = get_tangent(left), get_tangent(right)
    is_large = left.shape[-1] < right.shape[-1] and left.shape[:-2] == right.shape[:-2]
    if left_tangent is None or right_tangent is None or not is_large:
        return _product_rule(step, get_tangent)

    # A result that is larger than the factors, such as attention's scores, is written only once.
    return torch.cat([left_tangent, left], -1) @ torch.cat([right, right_tangent], -2)


def _fill_rule(step: Step, get_tangent: GetTangent) -> Tensor:
    """Rule for `masked_fill`: what is filled in is constant."""
    tangent = get_tangent(step.argument(0, "input"))
    if tangent is None or get_tangent(step.argument(2, "value")) is not None:
        raise UnsupportedOperationError("the value that masked_fill writes depends on the input")
    return tangent.masked_fill(step.argument(1, "mask"), 0)


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


def _kernel_rule(kernel: Callable[..., Tensor], *, by_result: bool = False) -> Rule:
    """Rule for activations: the product with the slope, by the kernel of the backward pass.

    Args:
        kernel: Maps the tangent and the argument to the product.
        by_result: Whether the kernel needs the result in place of the argument.
    """

    def rule(step: Step, get_tangent: GetTangent) -> Tensor:
        x = step.out if by_result else step.argument(0, "input")
        return kernel(_single_tangent(step, get_tangent).to(x.dtype), x)

    return rule


def _relu_rule(step: Step, get_tangent: GetTangent) -> Tensor:
    """Rule for ReLU: the kernel of its backward pass, three times as fast as a mask's product."""
    out = step.out.detach()
    tangent = _single_tangent(step, get_tangent).to(out.dtype)
    return torch.ops.aten.threshold_backward(tangent, out, 0)


def _prelu_rule(step: Step, get_tangent: GetTangent) -> Tensor:
    """Rule for PReLU: its slopes are weights."""
    x = step.argument(0, "input")
    tangent = _single_tangent(step, get_tangent).to(x.dtype)
    product: Any = PReLUProduct.apply
    return product(tangent, x.detach(), step.argument(1, "weight"))


def _slope_kernel(slope: Slope) -> Callable[..., Tensor]:
    """Returns the kernel for a smooth activation."""
    product: Any = SlopeProduct.apply
    return lambda tangent, x: product(tangent, x, slope, None)


def _gelu_rule(step: Step, get_tangent: GetTangent) -> tuple[Tensor, None]:
    """Rule for GELU with its slope."""
    (x,) = step.args
    tangent = _single_tangent(step, get_tangent).to(x.dtype)
    product: Any = SlopeProduct.apply
    return product(tangent, x, GELU, step.out[1]), None


def _softmax_rule(step: Step, get_tangent: GetTangent) -> Tensor:
    """Rule for softmax: its Jacobian is its own transpose."""
    dim = step.argument(1, "dim")
    tangent = _single_tangent(step, get_tangent).to(step.out.dtype)
    product: Any = SoftmaxProduct.apply
    return product(tangent, step.out, dim)


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


def _instance_norm_rule(step: Step, get_tangent: GetTangent) -> Tensor:
    """Rule for InstanceNorm: BatchNorm of one sample, whose channels are those of all samples."""
    tangent = _single_tangent(step, get_tangent)
    x = step.argument(0, "input")
    weight = step.argument(3, "weight")
    eps = step.argument(7, "eps", 1e-5)
    channels = (1, -1, *[1] * (x.dim() - 2))

    if step.argument(5, "use_input_stats", True):
        rows = (1, len(x) * x.shape[1], *x.shape[2:])
        product = batch_norm_jvp(tangent.reshape(rows), x.reshape(rows), None, eps).view_as(x)
    else:
        product = tangent * (step.argument(2, "running_var") + eps).rsqrt().view(channels)
    return product if weight is None else product * weight.view(channels)


def _layer_norm_rule(step: Step, get_tangent: GetTangent) -> tuple[Tensor, None, None]:
    """Rule for LayerNorm."""
    weight = step.argument(2, "weight")
    product = _normalized_rows_jvp(step, get_tangent)
    return (product if weight is None else product * weight), None, None


def _group_norm_rule(step: Step, get_tangent: GetTangent) -> tuple[Tensor, None, None]:
    """Rule for GroupNorm."""
    weight = step.argument(1, "weight")
    product = _normalized_rows_jvp(step, get_tangent)
    channels = (1, -1, *[1] * (product.dim() - 2))
    return (product if weight is None else product * weight.view(channels)), None, None


def _normalized_rows_jvp(step: Step, get_tangent: GetTangent) -> Tensor:
    """The product for LayerNorm or GroupNorm without weights.

    Each is BatchNorm of one sample, whose channels are the rows or groups. The recorded operation
    returns the mean and the inverse standard deviation of each.
    """
    x = step.argument(0, "input")
    tangent = _single_tangent(step, get_tangent)
    statistics = [values.detach().flatten() for values in step.out[1:]]
    rows = (1, len(statistics[0]), -1)
    product = batch_norm_jvp(tangent.reshape(rows), x.reshape(rows), None, 0.0, tuple(statistics))
    return product.view(x.shape)


def _rms_norm_rule(step: Step, get_tangent: GetTangent) -> Tensor:
    """Rule for RMSNorm, x w / r with the root r of the mean square of a row."""
    x = step.argument(0, "input")
    tangent = _single_tangent(step, get_tangent).to(x.dtype)
    shape = step.argument(1, "normalized_shape")
    weight = step.argument(2, "weight")
    eps = step.argument(3, "eps")
    eps = torch.finfo(x.dtype).eps if eps is None else eps

    dims = tuple(range(-len(shape), 0))
    inverse_root = (x.square().mean(dims, keepdim=True) + eps).rsqrt()
    normalized = x * inverse_root
    overlap = (normalized * tangent).mean(dims, keepdim=True)
    product = (tangent - normalized * overlap) * inverse_root
    return product if weight is None else product * weight


def find_functions(names: str) -> list[Any]:
    """Returns the functions and methods of PyTorch with these names, separated by spaces."""
    pairs = product((torch, Tensor, F, torch._C._nn), names.split())
    return [getattr(owner, name) for owner, name in pairs if hasattr(owner, name)]


LIKE = {*find_functions("to type_as view_as reshape_as expand_as")}
"""Operations that read only the type or the shape of their second argument."""

CONSTANT = {
    Tensor.data.__get__,  # type: ignore[attr-defined]
    *find_functions(
        "detach sign sgn round floor ceil trunc zeros_like ones_like empty_like full_like "
        "rand_like randn_like new_zeros new_ones new_empty new_full new_tensor"
    ),
}
"""Operations with a result that does not change with their arguments, except at jumps."""

_by_sigmoid = _kernel_rule(torch.ops.aten.sigmoid_backward, by_result=True)
_by_tanh = _kernel_rule(torch.ops.aten.tanh_backward, by_result=True)

RULE_NAMES: dict[str, list[tuple[Rule, str]]] = {
    "layers": [
        (_affine_rule, "linear conv1d conv2d conv3d"),
        (_affine_rule, "conv_transpose1d conv_transpose2d conv_transpose3d"),
        (_matrix_rule, "matmul bmm __matmul__"),
        (_product_rule, "einsum __rmatmul__"),
    ],
    "normalisation": [
        (_layer_norm_rule, "native_layer_norm"),
        (_group_norm_rule, "native_group_norm"),
        (_rms_norm_rule, "rms_norm"),
    ],
    "activations": [
        (_relu_rule, "relu"),
        (_prelu_rule, "prelu"),
        (_kernel_rule(_slope_kernel(SILU)), "silu"),
        (_kernel_rule(_slope_kernel(MISH)), "mish"),
        (_kernel_rule(_slope_kernel(HARDSIGMOID)), "hardsigmoid"),
        (_by_sigmoid, "sigmoid"),
        (_by_tanh, "tanh"),
        (_softmax_rule, "softmax"),
        (_forward_mode_rule, "leaky_relu elu selu celu softplus hardtanh relu6 hardswish"),
        (_forward_mode_rule, "log_softmax logsumexp logsigmoid"),
    ],
    "arithmetic": [
        (_sum_rule, "add sub __add__ __radd__ __sub__"),
        (_linear_rule, "neg sum mean cumsum __neg__"),
        (_product_rule, "mul __mul__ __rmul__"),
        (_forward_mode_rule, "div pow reciprocal square sqrt rsqrt exp log log1p sin cos erf abs"),
        (_forward_mode_rule, "clamp clamp_min clamp_max maximum minimum where norm var std"),
        (_forward_mode_rule, "__rsub__ __truediv__ __rtruediv__ __pow__ __rpow__"),
        (_fill_rule, "masked_fill"),
    ],
    "pooling and sizes": [
        (_linear_rule, "avg_pool1d avg_pool2d avg_pool3d"),
        (_linear_rule, "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d"),
        (_forward_mode_rule, "max_pool1d max_pool2d max_pool3d"),
        (_forward_mode_rule, "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"),
        (_linear_rule, "interpolate pixel_shuffle pixel_unshuffle"),
        (_forward_mode_rule, "pad"),
    ],
    "shapes": [
        (_reshape_rule, "reshape view flatten unflatten squeeze unsqueeze"),
        (_concat_rule, "cat concat concatenate stack"),
        (_linear_rule, "transpose swapaxes permute movedim t narrow chunk split unbind flip"),
        (_linear_rule, "expand repeat tile repeat_interleave roll gather index_select"),
        (_linear_rule, "unfold fold clone contiguous float double __getitem__"),
        (_like_rule, "to type_as view_as reshape_as expand_as"),
    ],
}
"""Kind -> rules with the names of the functions or methods that they are for."""

RULES: dict[Any, Rule] = {
    function: rule
    for pairs in RULE_NAMES.values()
    for rule, names in pairs
    for function in find_functions(names)
}
"""Operation -> rule for its tangents."""
RULES[gelu_with_slope] = _gelu_rule
RULES[F.batch_norm] = _batch_norm_rule
RULES[F.instance_norm] = _instance_norm_rule
RULES |= {getattr(Tensor, name).__get__: _linear_rule for name in ("T", "mT")}
