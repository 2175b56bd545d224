"""Replayed tangents: Jacobian-vector products from the linear maps that one pass has recorded.

Forward-mode differentiation runs a function anew for every tangent, and the gradient of its
products is wrong where BatchNorm is in training mode. Here the one pass that the loss needs
anyway is recorded, operation by operation, and its derivative, which is linear, is then applied to
any number of tangents at once: a convolution of tangents is the same convolution without its bias,
an activation multiplies them by its slope. The result is ordinary autograd arithmetic, so that the
gradient flows through weights and slopes with a single backward pass.

What each operation does to tangents is in :mod:`~pythae_fif.volume_change.rules`, and in
:mod:`~pythae_fif.volume_change.step` for those without a rule.
"""

__all__ = ["Tape", "check_replay", "record"]

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_map

from pythae_fif.errors import first_line
from pythae_fif.volume_change.operations import (
    COMPOSED,
    CONSTANT,
    MASKED,
    REFUSED,
    draws,
    without_writing,
)
from pythae_fif.volume_change.precision import full_float32
from pythae_fif.volume_change.rules import RULES
from pythae_fif.volume_change.step import (
    OtherFormError,
    Rule,
    Step,
    TangentOf,
    UnsupportedOperationError,
    by_differentiation,
    differentiable,
)

HIDDEN = (
    "a module hides some of its operations (a compiled or scripted module) or their derivative (an "
    "autograd.Function)"
)


class Tape:
    """The linear map of one recorded pass.

    Attributes:
        value: What the function returned.
        differentiates: Whether a product so far went through `by_differentiation`, whose own
            gradient is PyTorch's.
    """

    def __init__(self, point: Tensor, value: Tensor, steps: list[tuple[Rule, Step]]) -> None:
        self.value = value
        self._point = point
        self._steps = steps  # holds every tensor that an id below stands for
        self.differentiates = False

    def jvps(self, tangents: Tensor) -> Tensor:
        """J tangents, (K, b, ...), of tangents (K, b, ...); differentiable.

        Arguments:
            tangents: Those of the first b samples of the batch, b <= B. For b < B BatchNorm's
                statistics are constants, see `_batch_norm`; where a result does not begin with the
                samples, those of the others are pushed along, as zeros. A type of lower precision
                than the pass makes the products in that precision.

        Raises:
            UnsupportedOperationError: PyTorch cannot differentiate an operation.
        """
        rows, batch = tangents.shape[1], len(self._point)
        if rows == batch:
            return self._push(tangents, batch)

        def padded(size: int) -> Tensor:
            others = tangents.new_zeros(len(tangents), size - rows, *tangents.shape[2:])
            return torch.cat([tangents, others], 1) if size > rows else tangents

        few = max(rows, 2)  # one alone would broadcast
        try:
            return self._push(padded(few), few, part=True)[:, :rows]
        except LostSamplesError:
            return self._push(padded(batch), batch, part=True)[:, :rows]

    def _push(self, tangents: Tensor, rows: int, part: bool = False) -> Tensor:
        whole_batch = rows == len(self._point)
        depends: set[int] = set()
        if not whole_batch:
            depends = {id(self._point), *(id(out) for _, step in self._steps for out in step.outs)}
        cut: dict[int, Tensor] = {}  # the same object every time: tangents are found by id

        def first(argument: Any) -> Any:
            if whole_batch or id(argument) not in depends:
                return argument
            return cut.setdefault(id(argument), argument[:rows])

        last_use = {id(a): i for i, (_, step) in enumerate(self._steps) for a in step.arguments}
        known = {id(first(self._point)): tangents}

        def tangent_of(argument: Any) -> Tensor | None:
            return known.get(id(argument))

        for i, (rule, whole) in enumerate(self._steps):
            step = whole
            try:
                # Indices of all samples, given to a part of them, end a process on a GPU.
                if not whole_batch and any(self._are_indices(a, depends) for a in whole.arguments):
                    raise LostSamplesError
                if part:  # a tensor without a first axis raises IndexError
                    args, out, outs = (
                        _each(first, of) for of in (whole.args, whole.out, whole.outs)
                    )
                    kwargs = {name: _each(first, value) for name, value in whole.kwargs.items()}
                    step = Step(whole.operation, args, kwargs, out, outs, whole)
                products = self._apply(rule, step, tangent_of)
            except (RuntimeError, ValueError, IndexError) as error:
                if whole_batch:
                    raise
                raise LostSamplesError from error
            for out, product in zip(whole.outs, products, strict=True):
                # The sizes that depend on the number of samples show which axis they are on.
                if not whole_batch and product.shape[1:] != (rows, *out.shape[1:]):
                    raise LostSamplesError
                known[id(first(out))] = product
            for argument in whole.arguments:  # without gradient, a layer's tangents end here
                if last_use[id(argument)] == i and argument is not self.value:
                    known.pop(id(first(argument)), None)
        return known[id(first(self.value))]

    def _are_indices(self, argument: Any, depends: set[int]) -> bool:
        """Whether an argument is a constant with a whole number for each sample."""
        if not isinstance(argument, Tensor) or id(argument) in depends or not argument.dim():
            return False
        return len(argument) == len(self._point) and argument.dtype in (torch.int64, torch.int32)

    def _apply(self, rule: Rule, step: Step, tangent_of: TangentOf) -> tuple[Tensor, ...]:
        try:
            products = rule(step, tangent_of)
        except OtherFormError:
            rule, products = by_differentiation, by_differentiation(step, tangent_of)
        self.differentiates |= rule is by_differentiation
        return products if isinstance(products, tuple) else (products,)


def _each(function: Callable[[Any], Any], argument: Any) -> Any:
    """function(argument), or that of each element of a list or tuple.

    Not a closure: one that calls itself is a reference cycle and keeps its tensors until the
    garbage collector runs.
    """
    if type(argument) in (tuple, list):
        return type(argument)(_each(function, one) for one in argument)
    return function(argument)


def record(function: Callable[[Tensor], Tensor], point: Tensor) -> Tape:
    """Runs a function once, as always, and keeps the linear map of every operation.

    Arguments:
        function: Made of operations of PyTorch.
        point: Its input, (B, ...).

    Raises:
        UnsupportedOperationError: An operation draws random numbers that its result does not show,
            or writes where another view reads, or is a form of BatchNorm without a rule, or nothing
            leads from the input to the output.

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
    value = recorder.newest(value)
    recorder.write_outside()
    if id(value) not in recorder.active:
        raise UnsupportedOperationError(
            "no recorded operation leads from the input to the output (a compiled or scripted "
            "module, or an autograd.Function, hides its own)"
        )
    return Tape(point, value, recorder.steps)


def check_replay(
    function: Callable[[Tensor], Tensor], point: Tensor, *, gradient: bool = False
) -> None:
    """Refuses a function that :func:`record` does not know whole, at the cost of one backward pass.

    A scripted or compiled module hides its operations and an `autograd.Function` its derivative:
    in a skip connection the rest would be replayed without them. So <J J^T u, u> of the replay is
    compared with `|J^T u|^2` of the backward pass; and with ``gradient`` the gradients of the two
    by the point, as PyTorch may take for constants what moves with it.

    Arguments:
        function: To be recorded.
        point: One sample or more of its input, (B, ...). With more than one it is also checked
            that a part of the batch is that part by itself.
        gradient: Whether the products are to be differentiated.

    Raises:
        UnsupportedOperationError: It cannot be recorded, or what is recorded is not its derivative.
    """
    if torch.is_autocast_enabled(point.device.type) and point.dtype != torch.float64:
        point = point.float()  # as the weights are
    with torch.inference_mode(False), torch.enable_grad(), full_float32():
        point = point.detach().clone().requires_grad_()
        tape = record(function, point)
        # Numbers of both signs that need no generator, whose state is the training's.
        u = torch.arange(1, tape.value.numel() + 1, device=point.device).sin().to(tape.value)
        u = u.view_as(tape.value)
        (pulled,) = torch.autograd.grad(tape.value, point, u, retain_graph=True)
        with torch.no_grad():
            there, back = (tape.jvps(pulled[None])[0] * u).sum(), pulled.square().sum()
        tolerance = max(1e-3, torch.finfo(point.dtype).eps ** 0.5)
        if not (there - back).abs() <= tolerance * back:
            raise UnsupportedOperationError(HIDDEN)
        if gradient and tape.differentiates:
            try:
                (v,) = torch.autograd.grad(tape.value, point, u, create_graph=True)
                sums = (tape.jvps(pulled[None])[0] * u).sum(), (v * pulled).sum()
                there, back = (
                    torch.autograd.grad(s + 0 * point.sum(), point, retain_graph=True)[0]
                    for s in sums
                )
            except torch.cuda.OutOfMemoryError:
                raise
            except RuntimeError as error:  # no second derivative
                raise UnsupportedOperationError(first_line(error)) from error
            if not (there - back).norm() <= 1e-2 * back.norm():
                raise UnsupportedOperationError("PyTorch's forward mode has a wrong derivative")
        if len(point) > 1:
            with torch.no_grad():
                part, whole = tape.jvps(pulled[None, :-1]), tape.jvps(pulled[None])[:, :-1]
            if not (part - whole).norm() <= tolerance * whole.norm():
                raise UnsupportedOperationError("the samples of a batch meet in a network")


class LostSamplesError(Exception):
    """A result does not begin with the samples of the batch."""


class _Recorder(TorchFunctionMode):
    """Writes down every operation on a tensor that depends on the point.

    An operation that writes into a tensor is recorded as one that returns a new tensor, which is
    what later operations then get in place of the old one: steps keep the values that they had.
    """

    def __init__(self, point: Tensor) -> None:
        super().__init__()
        self.active = {id(point): point}
        self._point = point
        self.steps: list[tuple[Rule, Step]] = []
        self._differentiates = torch.is_grad_enabled()
        # The nodes of autograd of all that is active, which the compiler cannot follow.
        self._nodes = None if torch.compiler.is_compiling() else {point.grad_fn}
        self._written: dict[int, tuple[Tensor, Tensor]] = {}  # id of the old -> old, new

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
        if self._written:
            args, kwargs = tree_map(self.newest, (args, kwargs))
        if func in CONSTANT or not self._depends([*args, *kwargs.values()]):
            return func(*args, **kwargs)
        if (pure := without_writing(func, args, kwargs)) is not None:
            new = self.__torch_function__(pure[0], types, pure[1], pure[2])
            old = args[0] if args else kwargs["input"]
            if new is not old:
                self._written[id(old)] = (old, new)
            return None if func is Tensor.__setitem__ else new
        if self._differentiates and not torch.is_grad_enabled():  # a constant, to autograd, too
            return func(*args, **kwargs)
        if (composed := COMPOSED.get(func) or MASKED.get(func)) is not None:
            with self:
                return composed(*args, **kwargs)
        if func in REFUSED:
            raise UnsupportedOperationError(f"operation {resolve_name(func) or func} has no rule")
        out = func(*args, **kwargs)
        step = Step(func, args, kwargs, out, differentiable(out))
        if not step.outs:
            return out
        drawn = draws(func, args, kwargs)
        if drawn or kwargs.get("out") is not None:
            why = "draws random numbers" if drawn else "writes to out"
            raise UnsupportedOperationError(f"operation {step.name} {why}")
        if any(self._is_hidden(argument) for argument in step.arguments):
            raise UnsupportedOperationError(HIDDEN)
        if id(out) in self.active:  # the same tensor again, e.g. a reshape to its own shape
            return out
        self.active.update((id(result), result) for result in step.outs)
        if self._nodes is not None:
            self._nodes.update(result.grad_fn for result in step.outs)
        self.steps.append((RULES.get(func, by_differentiation), step))
        return out

    def newest(self, argument: Any) -> Any:
        """What an argument has become by operations in place."""
        argument = self._last(argument)
        if isinstance(argument, Tensor) and any(
            argument.untyped_storage().data_ptr() == old.untyped_storage().data_ptr() != 0
            for old, _ in self._written.values()
        ):
            raise UnsupportedOperationError("another view of a tensor that is written in place")
        return argument

    def write_outside(self) -> None:
        """Writes what a plain pass would have written into tensors from before, such as buffers."""
        for old, _ in self._written.values():
            if id(old) not in self.active:
                old.data.copy_(self._last(old).detach())

    def _is_hidden(self, argument: Any) -> bool:
        """Whether an argument depends on the point in a way that was not recorded."""
        constant = not isinstance(argument, Tensor) or id(argument) in self.active
        if constant or self._nodes is None or argument.grad_fn is None:
            return False
        seen, waiting = set(), [argument.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            if node in self._nodes or getattr(node, "variable", None) is self._point:
                return True
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
        return False

    def _last(self, argument: Any) -> Any:
        while id(argument) in self._written:
            argument = self._written[id(argument)][1]
        return argument

    def _depends(self, arguments: list[Any]) -> bool:
        return any(
            self._depends(list(a)) if isinstance(a, tuple | list) else id(a) in self.active
            for a in arguments
        )
