"""What each operation does to tangents: the table that replayed tangents are made of.

To support another operation, add an entry to `RULES`.
"""

__all__ = ["RULES", "Rule", "Step", "UnsupportedOperationError"]

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pythae_fif.errors import FIFError
from pythae_fif.volume_change.batch_norm import at_least_float32, batch_norm_jvps


class UnsupportedOperationError(FIFError, NotImplementedError):
    """A function uses an operation that has no entry in `RULES`."""


class Step(NamedTuple):
    """One recorded operation, ``out = operation(*args, **kwargs)``.

    Where the tangents are those of the first samples alone, all that depends on the input is cut
    to them, and ``whole`` is the operation on the whole batch.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Tensor
    whole: "Step | None" = None

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument that was given by position or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)


TangentOf = Callable[[Any], "Tensor | None"]
"""Tangent (K, ...) of an argument, None for one that does not depend on the input."""

Rule = Callable[[Step, TangentOf], Tensor]


def _batched(operation: Callable[..., Tensor], tangent: Tensor, *args: Any) -> Tensor:
    """An operation on (N, ...) applied to all K x B tangents at once."""
    out: Tensor = operation(tangent.flatten(0, 1), *args).unflatten(0, tangent.shape[:2])
    return out


def _of_input(step: Step, tangent_of: TangentOf) -> Tensor:
    """Tangent of the first argument, the only one that may depend on the input."""
    tangent = tangent_of(step.argument(0, "input"))
    others = [*step.args[1:], *(v for name, v in step.kwargs.items() if name != "input")]
    if tangent is None or any(tangent_of(other) is not None for other in others):
        raise UnsupportedOperationError("an operation depends on the input by its parameters")
    return tangent


def _linear(step: Step, tangent_of: TangentOf) -> Tensor:
    tangent = _of_input(step, tangent_of)
    return F.linear(tangent, step.argument(1, "weight").to(tangent.dtype))


def _matmul(step: Step, tangent_of: TangentOf) -> Tensor:
    tangent = _of_input(step, tangent_of)
    out: Tensor = tangent @ step.args[1].to(tangent.dtype)
    return out


def _convolution(operation: Any, *defaults: Any) -> Rule:
    """A convolution without its bias; the defaults are those of its arguments from `stride` on."""
    names = ["stride", "padding", "dilation", "groups"]
    if len(defaults) == 5:
        names = ["stride", "padding", "output_padding", "groups", "dilation"]

    def rule(step: Step, tangent_of: TangentOf) -> Tensor:
        options = [step.argument(3 + i, names[i], default) for i, default in enumerate(defaults)]
        tangent = _of_input(step, tangent_of)
        weight = step.argument(1, "weight").to(tangent.dtype)
        return _batched(operation, tangent, weight, None, *options)

    return rule


def _batch_norm(step: Step, tangent_of: TangentOf) -> Tensor:
    """In training mode the derivative of the whole-batch map, cross-sample terms included.

    Tangents of a part of the batch are mapped as in evaluation mode, dh = dx / std: the statistics
    of the whole batch do not move with a sample, though they still do with the parameters. So the
    gradient of any part is an unbiased estimate of that of all samples with such statistics.
    """
    x = step.argument(0, "input")
    running_var, weight = step.argument(2, "running_var"), step.argument(3, "weight")
    eps = step.argument(7, "eps", 1e-5)
    tangent = _of_input(step, tangent_of)
    if step.argument(5, "training", False):
        if step.whole is None:
            return batch_norm_jvps(tangent, x, weight, eps)
        whole = step.whole.argument(0, "input")
        running_var = torch.var(at_least_float32(whole), [0, *range(2, x.dim())], correction=0)
    scale = (running_var + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    out: Tensor = tangent * scale.to(tangent.dtype).view(1, -1, *[1] * (x.dim() - 2))
    return out


def _slope(slope: Callable[[Step, Tensor], Tensor]) -> Rule:
    """An elementwise function, by its derivative at the input."""

    def rule(step: Step, tangent_of: TangentOf) -> Tensor:
        tangent = _of_input(step, tangent_of)
        factor = slope(step, step.argument(0, "input"))
        return tangent * (factor.to(tangent.dtype) if factor.is_floating_point() else factor)

    return rule


def _relu(step: Step, tangent_of: TangentOf) -> Tensor:
    """The kernel of its own backward pass: a third of the time of a product with a mask."""
    tangent = _of_input(step, tangent_of)
    if tangent.dtype != step.out.dtype:
        return tangent * (step.out > 0)
    on = step.out.detach().expand_as(tangent)
    out: Tensor = torch.ops.aten.threshold_backward(tangent, on, 0)
    return out


def _silu(step: Step, x: Tensor) -> Tensor:
    sigmoid = torch.sigmoid(x)
    return sigmoid + step.out * (1 - sigmoid)


def _gelu(step: Step, x: Tensor) -> Tensor:
    if step.argument(1, "approximate", "none") != "none":
        raise UnsupportedOperationError("gelu with approximate='tanh' has no replay rule")
    density = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * density


def _softplus(step: Step, x: Tensor) -> Tensor:
    scaled = step.argument(1, "beta", 1) * x
    # Above the threshold PyTorch takes the function for the identity.
    linear = scaled > step.argument(2, "threshold", 20)
    return torch.sigmoid(scaled).masked_fill(linear, 1.0)


def _reshaped(step: Step, tangent_of: TangentOf) -> Tensor:
    tangent = _of_input(step, tangent_of)
    return tangent.reshape(len(tangent), *step.out.shape)


def _sum(step: Step, tangent_of: TangentOf, sign: float) -> Tensor:
    """a + sign * alpha * b, broadcast as the values were."""
    factor = sign * step.kwargs.get("alpha", 1)
    total: Tensor | None = None
    for argument, scale in zip(step.args[:2], (1.0, factor), strict=True):
        tangent = tangent_of(argument)
        if tangent is not None:
            term = _aligned(tangent, step.out)
            term = term if scale == 1 else term * scale
            total = term if total is None else total + term
    assert total is not None
    return total.expand(-1, *step.out.shape)


def _product(step: Step, tangent_of: TangentOf) -> Tensor:
    a, b = step.args[:2]
    terms = [
        _aligned(tangent, step.out) * _factor(other, step.out, tangent.dtype)
        for tangent, other in ((tangent_of(a), b), (tangent_of(b), a))
        if tangent is not None
    ]
    out: Tensor = terms[0] if len(terms) == 1 else terms[0] + terms[1]
    return out


def _quotient(step: Step, tangent_of: TangentOf) -> Tensor:
    tangent = _of_input(step, tangent_of)
    out: Tensor = tangent / _factor(step.args[1], step.out, tangent.dtype)
    return out


def _factor(value: Any, out: Tensor, dtype: torch.dtype) -> Any:
    """A factor in the type of the tangents, cut to their samples if it has one row a sample."""
    if not isinstance(value, Tensor):
        return value
    if value.dim() == out.dim() and len(value) > len(out):
        value = value[: len(out)]
    return value.to(dtype)


def _aligned(tangent: Tensor, out: Tensor) -> Tensor:
    """A tangent with ones inserted behind K, so that it broadcasts as its value did."""
    missing = out.dim() - (tangent.dim() - 1)
    return tangent.view(len(tangent), *[1] * missing, *tangent.shape[1:])


def _cat(step: Step, tangent_of: TangentOf) -> Tensor:
    """Tangents side by side; those of constants, such as a joined condition, are zero."""
    tensors, dim = step.argument(0, "tensors"), step.argument(1, "dim", 0)
    dim = dim if dim >= 0 else dim + step.out.dim()
    if dim == 0:
        raise UnsupportedOperationError("cat of samples, along the first dimension")
    tangents = [tangent_of(tensor) for tensor in tensors]
    (known, *_) = [tangent for tangent in tangents if tangent is not None]
    size = (len(known), len(step.out))
    parts = [
        known.new_zeros(()).expand(*size, *tensor.shape[1:]) if tangent is None else tangent
        for tensor, tangent in zip(tensors, tangents, strict=True)
    ]
    return torch.cat(parts, dim + 1)


def _plus(step: Step, tangent_of: TangentOf) -> Tensor:
    return _sum(step, tangent_of, 1.0)


def _minus(step: Step, tangent_of: TangentOf) -> Tensor:
    return _sum(step, tangent_of, -1.0)


def _negative(step: Step, tangent_of: TangentOf) -> Tensor:
    return -_aligned(_of_input(step, tangent_of), step.out).expand(-1, *step.out.shape)


def _same(step: Step, tangent_of: TangentOf) -> Tensor:
    return _of_input(step, tangent_of)


_TABLE: list[tuple[Rule, list[Any]]] = [
    (_linear, [F.linear]),
    (_matmul, [torch.matmul, Tensor.matmul, Tensor.__matmul__]),
    (_convolution(torch.conv1d, 1, 0, 1, 1), [torch.conv1d]),
    (_convolution(torch.conv2d, 1, 0, 1, 1), [torch.conv2d]),
    (_convolution(torch.conv_transpose1d, 1, 0, 0, 1, 1), [torch.conv_transpose1d]),
    (_convolution(torch.conv_transpose2d, 1, 0, 0, 1, 1), [torch.conv_transpose2d]),
    (_batch_norm, [F.batch_norm]),
    (_relu, [F.relu, torch.relu, Tensor.relu]),
    (
        _slope(lambda step, x: step.out * (1 - step.out)),
        [torch.sigmoid, Tensor.sigmoid, F.sigmoid],
    ),
    (_slope(lambda step, x: 1 - step.out**2), [torch.tanh, Tensor.tanh, F.tanh]),
    (_slope(_silu), [F.silu]),
    (_slope(_gelu), [F.gelu]),
    (_slope(_softplus), [F.softplus]),
    (
        _slope(
            lambda step, x: torch.where(
                x > 0, torch.ones_like(x), step.argument(1, "negative_slope", 0.01)
            )
        ),
        [F.leaky_relu],
    ),
    (
        _reshaped,
        [
            torch.reshape, Tensor.reshape, Tensor.view, torch.flatten, Tensor.flatten,
            torch.unflatten, Tensor.unflatten, torch.squeeze, Tensor.squeeze, torch.unsqueeze,
            Tensor.unsqueeze,
        ],
    ),
    (_same, [Tensor.contiguous]),
    (_cat, [torch.cat, torch.concat, torch.concatenate]),
    (_plus, [torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__]),
    (_minus, [torch.sub, Tensor.sub, Tensor.__sub__]),
    (_product, [torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__]),
    (_quotient, [torch.div, Tensor.div, Tensor.__truediv__]),
    (_negative, [torch.neg, Tensor.neg, Tensor.__neg__, Tensor.__rsub__]),
]  # fmt: skip

RULES: dict[Any, Rule] = {function: rule for rule, functions in _TABLE for function in functions}
"""Operation -> how it maps the tangents of its arguments to that of its result."""
