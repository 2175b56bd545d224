"""Replayed tangents: Jacobian-vector products from the linear maps that one pass has recorded.

Forward-mode differentiation runs a function anew for every tangent, and the gradient of its
products is wrong where BatchNorm is in training mode. Here the one pass that the loss needs
anyway is recorded, operation by operation, and its derivative, which is linear, is then applied to
any number of tangents at once: a convolution of tangents is the same convolution without its bias,
an activation multiplies them by its slope. The result is ordinary autograd arithmetic, so that the
gradient flows through weights and slopes with a single backward pass.

To support another operation, add an entry to `RULES`.
"""

__all__ = ["RULES", "Tape", "UnsupportedOperationError", "record"]

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from pythae_fif.errors import FIFError


class UnsupportedOperationError(FIFError, NotImplementedError):
    """A function uses an operation that has no entry in `RULES`."""


class Step(NamedTuple):
    """One recorded operation, ``out = operation(*args, **kwargs)``."""

    args: tuple
    kwargs: dict[str, Any]
    out: Tensor

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument that was given by position or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)


TangentOf = Callable[[Any], "Tensor | None"]
"""Tangent (K, ...) of an argument, None for one that does not depend on the input."""

Rule = Callable[[Step, TangentOf], Tensor]


class Tape:
    """The linear map of one recorded pass.

    Attributes:
        value: What the function returned.
    """

    def __init__(self, point: Tensor, value: Tensor, steps: list[tuple[Rule, Step]]) -> None:
        self.value = value
        self._point = point
        self._steps = steps  # holds every tensor that an id below stands for

    def jvps(self, tangents: Tensor) -> Tensor:
        """J tangents, (K, *value.shape), of tangents (K, *point.shape); differentiable."""
        known = {id(self._point): tangents}

        def tangent_of(argument: Any) -> Tensor | None:
            return known.get(id(argument))

        for rule, step in self._steps:
            known[id(step.out)] = rule(step, tangent_of)
        return known[id(self.value)]


def record(function: Callable[[Tensor], Tensor], point: Tensor) -> Tape:
    """Runs a function once, as always, and keeps the linear map of every operation.

    Arguments:
        function: Made of the operations in `RULES`.
        point: Its input, (B, ...).

    Raises:
        UnsupportedOperationError: Another operation is used on something that depends on the
            input; the message names it.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
        >>> tape = record(net, torch.zeros(5, 3))
        >>> tape.value.shape, tape.jvps(torch.ones(7, 5, 3)).shape
        (torch.Size([5, 2]), torch.Size([7, 5, 2]))
    """
    recorder = _Recorder(point)
    with recorder:
        value = function(point)
    if id(value) not in recorder.active:
        raise UnsupportedOperationError(
            "no recorded operation leads from the input to the output (a compiled or scripted "
            "module hides its operations)"
        )
    return Tape(point, value, recorder.steps)


class _Recorder(TorchFunctionMode):
    """Writes down every operation on a tensor that depends on the point."""

    def __init__(self, point: Tensor) -> None:
        super().__init__()
        self.active = {id(point): point}
        self.steps: list[tuple[Rule, Step]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self._depends([*args, *kwargs.values()]) or not self._is_value(out):
            return out
        rule = RULES.get(func)
        if rule is None or kwargs.get("inplace") or isinstance(out, tuple | list):
            raise UnsupportedOperationError(
                f"operation {resolve_name(func) or func} has no replay rule"
            )
        if id(out) in self.active:  # the same tensor again, e.g. a reshape to its own shape
            if not any(out is argument for argument in args):
                raise UnsupportedOperationError(f"operation {resolve_name(func)} works in place")
            return out
        self.active[id(out)] = out
        self.steps.append((rule, Step(args, kwargs, out)))
        return out

    def _depends(self, arguments: list[Any]) -> bool:
        return any(
            self._depends(list(a)) if isinstance(a, tuple | list) else id(a) in self.active
            for a in arguments
        )

    def _is_value(self, out: Any) -> bool:
        if isinstance(out, tuple | list):
            return any(self._is_value(item) for item in out)
        return isinstance(out, Tensor) and out.is_floating_point()


# ---------------------------------------------------------------- the rules


def _batched(operation: Callable[..., Tensor], tangent: Tensor, *args: Any) -> Tensor:
    """An operation on (N, ...) applied to all K x B tangents at once."""
    return operation(tangent.flatten(0, 1), *args).unflatten(0, tangent.shape[:2])


def _of_input(step: Step, tangent_of: TangentOf) -> Tensor:
    tangent = tangent_of(step.argument(0, "input"))
    if tangent is None:
        raise UnsupportedOperationError("an operation depends on the input by its parameters")
    return tangent


def _linear(step: Step, tangent_of: TangentOf) -> Tensor:
    return F.linear(_of_input(step, tangent_of), step.argument(1, "weight"))


def _matmul(step: Step, tangent_of: TangentOf) -> Tensor:
    return _of_input(step, tangent_of) @ step.args[1]


def _convolution(operation: Any, *defaults: Any) -> Rule:
    """A convolution without its bias; the defaults are those of its arguments from `stride` on."""
    names = ["stride", "padding", "dilation", "groups"]
    if len(defaults) == 5:
        names = ["stride", "padding", "output_padding", "groups", "dilation"]

    def rule(step: Step, tangent_of: TangentOf) -> Tensor:
        options = [step.argument(3 + i, names[i], default) for i, default in enumerate(defaults)]
        tangent = _of_input(step, tangent_of)
        return _batched(operation, tangent, step.argument(1, "weight"), None, *options)

    return rule


def _batch_norm(step: Step, tangent_of: TangentOf) -> Tensor:
    """In training mode the derivative of the whole-batch map, cross-sample terms included.

    The statistics are functions of the input (Ioffe & Szegedy 2015), so with
    h = (x - mean) / std, dh = (dx - mean(dx) - h mean(h dx)) / std.
    """
    x = step.argument(0, "input")
    running_var, weight = step.argument(2, "running_var"), step.argument(3, "weight")
    eps = step.argument(7, "eps", 1e-5)
    tangent = _of_input(step, tangent_of)
    shape = (1, -1, *[1] * (x.dim() - 2))
    scale = 1.0 if weight is None else weight.view(shape)
    if not step.argument(5, "training", False):
        return tangent * (scale * (running_var.view(shape) + eps).rsqrt())
    axes = [0, *range(2, x.dim())]
    var, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    inverse = (var + eps).rsqrt()
    normalised = (x - mean) * inverse
    tangent_axes = [axis + 1 for axis in axes]
    centred = tangent - tangent.mean(tangent_axes, keepdim=True)
    overlap = (tangent * normalised).mean(tangent_axes, keepdim=True)
    return (centred - normalised * overlap) * (scale * inverse)


def _slope(slope: Callable[[Step, Tensor], Tensor]) -> Rule:
    """An elementwise function, by its derivative at the input."""

    def rule(step: Step, tangent_of: TangentOf) -> Tensor:
        return _of_input(step, tangent_of) * slope(step, step.argument(0, "input"))

    return rule


def _silu(step: Step, x: Tensor) -> Tensor:
    sigmoid = torch.sigmoid(x)
    return sigmoid + step.out * (1 - sigmoid)


def _gelu(step: Step, x: Tensor) -> Tensor:
    if step.argument(1, "approximate", "none") != "none":
        raise UnsupportedOperationError("gelu with approximate='tanh' has no replay rule")
    density = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * density


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
        _aligned(tangent, step.out) * other
        for tangent, other in ((tangent_of(a), b), (tangent_of(b), a))
        if tangent is not None
    ]
    return terms[0] if len(terms) == 1 else terms[0] + terms[1]


def _quotient(step: Step, tangent_of: TangentOf) -> Tensor:
    b = step.args[1]
    if tangent_of(b) is not None:
        raise UnsupportedOperationError("division by something that depends on the input")
    return _of_input(step, tangent_of) / b


def _aligned(tangent: Tensor, out: Tensor) -> Tensor:
    """A tangent with ones inserted behind K, so that it broadcasts as its value did."""
    missing = out.dim() - (tangent.dim() - 1)
    return tangent.view(len(tangent), *[1] * missing, *tangent.shape[1:])


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
    (_slope(lambda step, x: step.out > 0), [F.relu, torch.relu, Tensor.relu]),
    (
        _slope(lambda step, x: step.out * (1 - step.out)),
        [torch.sigmoid, Tensor.sigmoid, F.sigmoid],
    ),
    (_slope(lambda step, x: 1 - step.out**2), [torch.tanh, Tensor.tanh, F.tanh]),
    (_slope(_silu), [F.silu]),
    (_slope(_gelu), [F.gelu]),
    (_slope(lambda step, x: torch.sigmoid(step.argument(1, "beta", 1) * x)), [F.softplus]),
    (
        _slope(lambda step, x: torch.where(x > 0, 1.0, step.argument(1, "negative_slope", 0.01))),
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
    (_plus, [torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__]),
    (_minus, [torch.sub, Tensor.sub, Tensor.__sub__]),
    (_product, [torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__]),
    (_quotient, [torch.div, Tensor.div, Tensor.__truediv__]),
    (_negative, [torch.neg, Tensor.neg, Tensor.__neg__, Tensor.__rsub__]),
]  # fmt: skip

RULES: dict[Any, Rule] = {function: rule for rule, functions in _TABLE for function in functions}
"""Operation -> how it maps the tangents of its arguments to that of its result."""
