"""Replayed tangents: Jacobian-vector products from the linear maps that one pass has recorded.

Forward-mode differentiation runs a function anew for every tangent, and the gradient of its
products is wrong where BatchNorm is in training mode. Here the one pass that the loss needs
anyway is recorded, operation by operation, and its derivative, which is linear, is then applied to
any number of tangents at once: a convolution of tangents is the same convolution without its bias,
an activation multiplies them by its slope. The result is ordinary autograd arithmetic, so that the
gradient flows through weights and slopes with a single backward pass.

What each operation does to tangents is in :mod:`~pythae_fif.volume_change.rules`.
"""

__all__ = ["Tape", "check_replay", "record"]

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from pythae_fif.volume_change.precision import full_float32
from pythae_fif.volume_change.rules import RULES, Rule, Step, UnsupportedOperationError


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
        """J tangents, (K, b, ...), of tangents (K, b, ...); differentiable.

        Arguments:
            tangents: Those of the first b samples of the batch, b <= B. For b < B BatchNorm's
                statistics are constants, see `_batch_norm`. A type of lower precision than the
                pass makes the products in that precision.

        Raises:
            UnsupportedOperationError: b < B and a result that does not begin with the samples.
        """
        rows, batch = tangents.shape[1], len(self._point)
        depends = {id(self._point), *(id(step.out) for _, step in self._steps)}
        cut: dict[int, Tensor] = {}

        def first_rows(argument: Any) -> Any:
            if isinstance(argument, tuple | list):
                return [first_rows(item) for item in argument]
            if rows == batch or id(argument) not in depends:
                return argument
            if len(argument) != batch:
                raise UnsupportedOperationError(
                    f"tangents of a part of the batch: a result of shape {tuple(argument.shape)} "
                    f"does not begin with its {batch} samples"
                )
            return cut.setdefault(id(argument), argument[:rows])

        last_use = {id(a): i for i, (_, step) in enumerate(self._steps) for a in _arguments(step)}
        known = {id(first_rows(self._point)): tangents}

        def tangent_of(argument: Any) -> Tensor | None:
            return known.get(id(argument))

        for i, (rule, whole) in enumerate(self._steps):
            args = tuple(map(first_rows, whole.args))
            kwargs = {name: first_rows(value) for name, value in whole.kwargs.items()}
            step = Step(args, kwargs, first_rows(whole.out), None if rows == batch else whole)
            known[id(step.out)] = rule(step, tangent_of)
            for argument in _arguments(whole):  # without gradient, a layer's tangents end here
                if last_use[id(argument)] == i and argument is not self.value:
                    known.pop(id(first_rows(argument)), None)
        return known[id(first_rows(self.value))]


def _arguments(step: Step) -> list[Any]:
    """All arguments, those in lists one by one."""
    found: list[Any] = []
    for argument in (*step.args, *step.kwargs.values()):
        found += argument if isinstance(argument, tuple | list) else [argument]
    return found


def record(function: Callable[[Tensor], Tensor], point: Tensor) -> Tape:
    """Runs a function once, as always, and keeps the linear map of every operation.

    Arguments:
        function: Made of the operations in `RULES`.
        point: Its input, (B, ...).

    Raises:
        UnsupportedOperationError: Another operation is used on something that depends on the
            input; the message names it.

    Example:
        >>> import torch
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


def check_replay(function: Callable[[Tensor], Tensor], point: Tensor) -> None:
    """Refuses a function that :func:`record` does not know whole, at the cost of one backward pass.

    A scripted or compiled module hides its operations and an `autograd.Function` its derivative:
    in a skip connection the rest would be replayed without them. So <J J^T u, u> of the replay is
    compared with `|J^T u|^2` of the backward pass.

    Arguments:
        function: To be recorded.
        point: One sample or more of its input, (B, ...).

    Raises:
        UnsupportedOperationError: It cannot be recorded, or what is recorded is not its derivative.
    """
    device = point.device.type
    if torch.is_autocast_enabled(device) and point.dtype != torch.float64:
        point = point.float()  # as the weights are
    full = (torch.autocast(device, enabled=False), full_float32())
    with torch.inference_mode(False), torch.enable_grad(), full[0], full[1]:
        point = point.detach().clone().requires_grad_()
        tape = record(function, point)
        # Numbers of both signs that need no generator, whose state is the training's.
        u = torch.arange(1, tape.value.numel() + 1, device=point.device).sin().to(tape.value)
        u = u.view_as(tape.value)
        (pulled,) = torch.autograd.grad(tape.value, point, u)
        with torch.no_grad():
            there, back = (tape.jvps(pulled[None])[0] * u).sum(), pulled.square().sum()
    tolerance = max(1e-3, torch.finfo(point.dtype).eps ** 0.5)
    if (there - back).abs() > tolerance * back:
        raise UnsupportedOperationError(
            "a module hides some of its operations (a compiled or scripted module) or their "
            "derivative (an autograd.Function)"
        )


class _Recorder(TorchFunctionMode):
    """Writes down every operation on a tensor that depends on the point."""

    def __init__(self, point: Tensor) -> None:
        super().__init__()
        self.active = {id(point): point}
        self.steps: list[tuple[Rule, Step]] = []

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.unflatten:  # of Python code that the compiler does not follow
            func = torch.unflatten
        out = func(*args, **kwargs)
        written = func is Tensor.__setitem__  # returns nothing, but changes a tensor
        if not self._depends([*args, *kwargs.values()]) or not (written or self._is_value(out)):
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
