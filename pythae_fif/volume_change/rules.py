"""What single operations do to tangents: the rules that replayed tangents are made of.

An operation without an entry in `RULES` goes by `by_differentiation`. An entry is there for speed,
or for a gradient that is right where PyTorch takes statistics for constants.
"""

__all__ = ["RULES"]

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from pythae_fif.volume_change.batch_norm import batch_norm_jvps
from pythae_fif.volume_change.operations import named
from pythae_fif.volume_change.precision import at_least_float32
from pythae_fif.volume_change.step import (
    OtherFormError,
    Rule,
    Step,
    TangentOf,
    linear_map,
    of_input,
)


def _batched(operation: Callable[..., Tensor], tangent: Tensor, *args: Any) -> Tensor:
    """An operation on (N, ...) applied to all K x B tangents at once."""
    out: Tensor = operation(tangent.flatten(0, 1), *args).unflatten(0, tangent.shape[:2])
    return out


def _linear(step: Step, tangent_of: TangentOf) -> Tensor:
    tangent = of_input(step, tangent_of)
    return F.linear(tangent, step.argument(1, "weight").to(tangent.dtype))


def _convolution(operation: Any, *defaults: Any) -> Rule:
    """A convolution without its bias; the defaults are those of its arguments from `stride` on."""
    names = ["stride", "padding", "dilation", "groups"]
    if len(defaults) == 5:
        names = ["stride", "padding", "output_padding", "groups", "dilation"]

    def rule(step: Step, tangent_of: TangentOf) -> Tensor:
        options = [step.argument(3 + i, names[i], default) for i, default in enumerate(defaults)]
        tangent = of_input(step, tangent_of)
        weight = step.argument(1, "weight").to(tangent.dtype)
        return _batched(operation, tangent, weight, None, *options)

    return rule


def _batch_norm(step: Step, tangent_of: TangentOf) -> Tensor:
    """In training mode the derivative of the whole-batch map, cross-sample terms included.

    For a part of the batch the statistics are constants of x, dh = dx / std, but still functions of
    the parameters. The gradient of a random part is therefore an unbiased estimate of the whole
    batch's with such statistics.
    """
    x = step.argument(0, "input")
    running_var, weight = step.argument(2, "running_var"), step.argument(3, "weight")
    eps = step.argument(7, "eps", 1e-5)
    tangent = of_input(step, tangent_of)
    if step.argument(5, "training", False):
        if step.whole is None:
            return batch_norm_jvps(tangent, x, weight, eps)
        whole = step.whole.argument(0, "input")
        running_var = torch.var(at_least_float32(whole), [0, *range(2, x.dim())], correction=0)
    scale = (running_var + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    out: Tensor = tangent * scale.to(tangent.dtype).view(1, -1, *[1] * (x.dim() - 2))
    return out


def _normalised(
    length: Callable[[Step, Tensor], int], weight_at: int, eps_at: int, channels: bool = True
) -> Rule:
    """Rows of numbers, each with a mean and a variance of its own: BatchNorm of one sample whose
    channels are the rows.

    Arguments:
        length: That of a row.
        weight_at, eps_at: Positions of these arguments.
        channels: Whether there is a weight a channel, or one a number of a row.
    """

    def rule(step: Step, tangent_of: TangentOf) -> Tensor:
        tangent, x = of_input(step, tangent_of), step.argument(0, "input")
        rows = x.reshape(1, -1, length(step, x))
        eps, weight = step.argument(eps_at, "eps", 1e-5), step.argument(weight_at, "weight")
        tangent_rows = tangent.reshape(len(tangent), *rows.shape)
        out = batch_norm_jvps(tangent_rows, rows, None, eps, _statistics(step))
        out = out.view_as(tangent)
        if weight is None:
            return out
        weight = weight.view(-1, *[1] * (x.dim() - 2)) if channels else weight
        scaled: Tensor = out * weight.to(tangent.dtype)
        return scaled

    return rule


def _statistics(step: Step) -> tuple[Tensor, Tensor] | None:
    """Mean and inverse deviation of every row, as the pass kept them for its own gradient.

    None where they are gone, as after a backward pass, or of too low a precision.
    """
    if torch.compiler.is_compiling():
        return None
    node = (step.whole or step).out.grad_fn
    try:
        mean, inverse = (getattr(node, f"_saved_result{i}", None) for i in (1, 2))
    except RuntimeError:
        return None
    precision = at_least_float32(step.argument(0, "input")).dtype
    if mean is None or inverse is None or mean.dtype != precision:
        return None
    return mean[: len(step.out)].flatten(), inverse[: len(step.out)].flatten()


def _instance(step: Step, x: Tensor) -> int:
    if not step.argument(5, "use_input_stats", True):
        raise OtherFormError
    return x[0, 0].numel()


def _rms_norm(step: Step, tangent_of: TangentOf) -> Tensor:
    """y = x / sqrt(mean x^2 + eps): dy = (dx - y mean(y dx)) / sqrt(mean x^2 + eps)."""
    tangent, x = of_input(step, tangent_of), at_least_float32(step.argument(0, "input"))
    weight, eps = step.argument(2, "weight"), step.argument(3, "eps")
    dims = tuple(range(-len(step.argument(1, "normalized_shape")), 0))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    scale = (x.square().mean(dims, keepdim=True) + eps).rsqrt()
    y = (x * scale).to(tangent.dtype)
    scale = scale if weight is None else scale * weight
    across: Tensor = tangent - y * (y * tangent).mean(dims, keepdim=True)
    product: Tensor = across * scale.to(tangent.dtype)
    return product


_aten: Any = torch.ops.aten


def _softmax(step: Step, tangent_of: TangentOf) -> Tensor:
    """Its Jacobian diag(p) - p p^T is symmetric: by the kernel of its own backward pass."""
    tangent, dim = of_input(step, tangent_of), step.argument(1, "dim")
    if dim is None:
        raise OtherFormError
    out, dim = step.out.expand(tangent.shape), dim % step.out.dim() + 1
    product: Tensor = _aten._softmax_backward_data(tangent.to(out.dtype), out, dim, out.dtype)
    return product.to(tangent.dtype)


def _elementwise(kernel: Callable[[Step, Tensor], Tensor]) -> Rule:
    """A function of single numbers, by its own backward pass of a tensor: both are diagonal."""

    def rule(step: Step, tangent_of: TangentOf) -> Tensor:
        tangent = of_input(step, tangent_of)
        if len(tangent) == 1 and tangent.dtype == step.out.dtype:
            return kernel(step, tangent.squeeze(0)).unsqueeze(0)
        return tangent * kernel(step, torch.ones_like(step.out)).to(tangent.dtype)

    return rule


class _GeluSlope(torch.autograd.Function):
    """u = t f'(x) of GELU f(x) = x P(x), P the normal distribution function, p = P' its density:
    f' = P + x p and f'' = (2 - x^2) p, in fewer passes than autograd's own second derivative.
    """

    @staticmethod
    def forward(ctx: Any, t: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(t, x)
        return _aten.gelu_backward(t, x)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        t, x = ctx.saved_tensors
        scale = 1 / math.sqrt(2 * math.pi)
        curvature = torch.addcmul(x.new_full((), 2 * scale), x, x, value=-scale)
        curvature *= torch.addcmul(x.new_zeros(()), x, x, value=-0.5).exp_()
        return _aten.gelu_backward(grad, x), curvature.mul_(grad).mul_(t)


class _SiluSlope(torch.autograd.Function):
    """u = t f'(x) of SiLU f(x) = x s(x), s the logistic function: f' = s + f (1 - s) and
    f'' = s (1 - s) (2 + x - 2 f). PyTorch's own kernel of f' has no derivative.
    """

    @staticmethod
    def forward(ctx: Any, t: Tensor, x: Tensor, out: Tensor) -> Tensor:
        ctx.save_for_backward(t, x, out)
        return _aten.silu_backward(t, x)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        t, x, out = ctx.saved_tensors
        sigmoid = torch.sigmoid(x)
        curvature = torch.addcmul(sigmoid, sigmoid, sigmoid, value=-1)
        curvature *= torch.sub(x, out, alpha=2).add_(2)
        return _aten.silu_backward(grad, x), curvature.mul_(grad).mul_(t), None


def _silu(step: Step, tangent: Tensor) -> Tensor:
    slope: Any = _SiluSlope.apply
    return slope(tangent, step.argument(0, "input"), step.out.detach())  # type: ignore[no-any-return]


def _softplus(step: Step, tangent: Tensor) -> Tensor:
    beta, threshold = step.argument(1, "beta", 1), step.argument(2, "threshold", 20)
    return _aten.softplus_backward(tangent, step.argument(0, "input"), beta, threshold)  # type: ignore[no-any-return]


def _leaky_relu(step: Step, tangent: Tensor) -> Tensor:
    slope = step.argument(1, "negative_slope", 0.01)
    return _aten.leaky_relu_backward(tangent, step.argument(0, "input"), slope, False)  # type: ignore[no-any-return]


def _gelu(step: Step, tangent: Tensor) -> Tensor:
    approximate, x = step.argument(1, "approximate", "none"), step.argument(0, "input")
    if approximate == "none":
        slope: Any = _GeluSlope.apply
        return slope(tangent, x)  # type: ignore[no-any-return]
    return _aten.gelu_backward(tangent, x, approximate=approximate)  # type: ignore[no-any-return]


def _relu(step: Step, tangent_of: TangentOf) -> Tensor:
    """The kernel of its own backward pass: a third of the time of a product with a mask."""
    tangent = of_input(step, tangent_of)
    if tangent.dtype != step.out.dtype:
        return torch.mul(tangent, step.out > 0)
    on = step.out.detach().expand_as(tangent)
    out: Tensor = torch.ops.aten.threshold_backward(tangent, on, 0)
    return out


def _reshaped(step: Step, tangent_of: TangentOf) -> Tensor:
    tangent = of_input(step, tangent_of)
    return tangent.reshape(len(tangent), *step.out.shape)


def _sum(first: float, second: float) -> Rule:
    """A sum of two with these factors and PyTorch's alpha, broadcast as the values were."""

    def rule(step: Step, tangent_of: TangentOf) -> Tensor:
        a, b = step.argument(0, "input"), step.argument(1, "other")
        alpha = step.kwargs.get("alpha", 1)
        terms = [
            _aligned(tangent, step.out) * scale if scale != 1 else _aligned(tangent, step.out)
            for tangent, scale in ((tangent_of(a), first), (tangent_of(b), second * alpha))
            if tangent is not None
        ]
        return _total(terms, step.out)

    return rule


def _product(step: Step, tangent_of: TangentOf) -> Tensor:
    a, b = step.argument(0, "input"), step.argument(1, "other")
    terms = [
        _aligned(tangent, step.out) * _factor(other, step.out, tangent.dtype)
        for tangent, other in ((tangent_of(a), b), (tangent_of(b), a))
        if tangent is not None
    ]
    return _total(terms, step.out)


def _matmul(step: Step, tangent_of: TangentOf) -> Tensor:
    if len(step.args) < 2 or min(step.args[0].dim(), step.args[1].dim()) < 2:
        raise OtherFormError
    a, b = step.args[:2]
    da, db = tangent_of(a), tangent_of(b)
    terms: list[Tensor] = []
    if da is not None:
        terms.append(_aligned(da, step.out) @ b.to(da.dtype))
    if db is not None:
        terms.append(a.to(db.dtype) @ _aligned(db, step.out))
    return _total(terms, step.out)


def _factor(value: Any, out: Tensor, dtype: torch.dtype) -> Any:
    """A factor in the type of the tangents, cut to their samples if it has one row a sample."""
    if not isinstance(value, Tensor):
        return value
    for axis in range(-value.dim(), 0):
        if value.shape[axis] > out.shape[axis]:
            value = value.narrow(axis, 0, out.shape[axis])
    return value.to(dtype)


def _aligned(tangent: Tensor, out: Tensor) -> Tensor:
    """K tangents with ones inserted behind K, so that they broadcast as their value did.

    One alone is without its axis: all that it meets would have a gradient summed over that axis.
    """
    if len(tangent) == 1:
        return tangent.squeeze(0)
    missing = out.dim() - (tangent.dim() - 1)
    return tangent.view(len(tangent), *[1] * missing, *tangent.shape[1:])


def _total(terms: list[Tensor], out: Tensor) -> Tensor:
    """The sum of one or two terms that were aligned, (K, ...)."""
    total = terms[0] if len(terms) == 1 else terms[0] + terms[1]
    if total.dim() > out.dim():
        return total.expand(-1, *out.shape)
    return total.expand_as(out).unsqueeze(0)


def _cat(step: Step, tangent_of: TangentOf) -> Tensor:
    """Tangents side by side; those of constants, such as a joined condition, are zero."""
    tensors = step.argument(0, "tensors")
    dim = step.argument(1, "dim", step.kwargs.get("axis", 0)) % step.out.dim()
    tangents = [tangent_of(tensor) for tensor in tensors]
    (known, *_) = [tangent for tangent in tangents if tangent is not None]
    if any(tensor.dim() != step.out.dim() for tensor in tensors):  # an empty vector, which fits all
        raise OtherFormError
    parts, shape = [], [len(known), *step.out.shape]
    for tensor, tangent in zip(tensors, tangents, strict=True):
        shape[dim + 1] = tensor.shape[dim]
        parts.append(known.new_zeros(()).expand(shape) if tangent is None else tangent)
    return torch.cat(parts, dim + 1)


_TABLE: list[tuple[Rule, list[Any]]] = [
    (_linear, [F.linear]),
    (_matmul, named("matmul __matmul__ bmm")),
    (_convolution(torch.conv1d, 1, 0, 1, 1), [torch.conv1d]),
    (_convolution(torch.conv2d, 1, 0, 1, 1), [torch.conv2d]),
    (_convolution(torch.conv3d, 1, 0, 1, 1), [torch.conv3d]),
    (_convolution(torch.conv_transpose1d, 1, 0, 0, 1, 1), [torch.conv_transpose1d]),
    (_convolution(torch.conv_transpose2d, 1, 0, 0, 1, 1), [torch.conv_transpose2d]),
    (_convolution(torch.conv_transpose3d, 1, 0, 0, 1, 1), [torch.conv_transpose3d]),
    (_batch_norm, [F.batch_norm]),
    (
        _normalised(lambda step, x: math.prod(step.argument(1, "normalized_shape")), 2, 4, False),
        named("layer_norm"),
    ),
    (_rms_norm, named("rms_norm")),
    (
        _normalised(lambda step, x: x[0].numel() // step.argument(1, "num_groups"), 2, 4),
        named("group_norm"),
    ),
    (_normalised(_instance, 3, 7), [F.instance_norm]),
    (_softmax, named("softmax")),
    (_relu, named("relu")),
    (_elementwise(lambda step, t: _aten.sigmoid_backward(t, step.out)), named("sigmoid")),
    (_elementwise(lambda step, t: _aten.tanh_backward(t, step.out)), named("tanh")),
    (_elementwise(_silu), named("silu")),
    (_elementwise(_gelu), named("gelu")),
    (_elementwise(_softplus), named("softplus")),
    (_elementwise(_leaky_relu), named("leaky_relu")),
    (_reshaped, named("reshape view flatten unflatten squeeze unsqueeze")),
    (_cat, named("cat concat concatenate")),
    (_sum(1.0, 1.0), named("add __add__ __radd__")),
    (_sum(1.0, -1.0), named("sub __sub__")),
    (_sum(-1.0, 1.0), named("__rsub__")),
    (_product, named("mul __mul__ __rmul__")),
    (
        linear_map,
        [
            Tensor.T.__get__, Tensor.mT.__get__,  # type: ignore[attr-defined]
            *named(
                "neg __neg__ div __truediv__ sum mean cumsum clone float to transpose permute"
                " movedim swapaxes t contiguous narrow select chunk split unbind __getitem__ roll"
                " flip expand repeat tile gather index_select repeat_interleave fold unfold"
                " interpolate pixel_shuffle pixel_unshuffle avg_pool1d avg_pool2d avg_pool3d"
                " adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d"
            ),
        ],
    ),
]  # fmt: skip

RULES: dict[Any, Rule] = {function: rule for rule, functions in _TABLE for function in functions}
"""Operation -> how it maps the tangents of its arguments to that of its result."""
