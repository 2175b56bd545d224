"""One pass of a network noted down, and its derivative applied to a tangent.

Forward-mode differentiation runs a network anew for every tangent, and the gradient of its product
is wrong where BatchNorm is in training mode. Here the one pass that the loss needs anyway is noted,
operation by operation. Its derivative is linear and is then applied to a tangent: a convolution of
the tangent is the same convolution without its bias, an activation multiplies it by its slope. The
result is ordinary autograd arithmetic, so that one backward pass gives its gradient.
"""

__all__ = ["Tape", "UnsupportedOperationError", "check_replay", "record"]

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_flatten, tree_map

from pythae_fif.volume_change.precision import at_least_float32, full_float32
from pythae_fif.volume_change.rules import CONSTANT, RULES, Step, UnsupportedOperationError


class Tape:
    """The linear map of one pass that was noted.

    Attributes:
        value: What the function returned.
    """

    def __init__(
        self, point: Tensor, value: Tensor, steps: list[Step], follows: dict[int, Tensor]
    ) -> None:
        self.value = value
        self._point = point
        self._steps = steps
        self._follows = follows  # all that is computed of the point, masks and constants too

    def jvp(self, tangent: Tensor) -> Tensor:
        """J tangent, the shape of the value; differentiable.

        Arguments:
            tangent: The shape of the point, or (b, ...) of the first b samples of a batch. For
                b < B BatchNorm's statistics are constants, see `_batch_norm`.

        Raises:
            UnsupportedOperationError: The samples cannot be told from each other, for b < B.
        """
        if len(tangent) == len(self._point):
            return self._push(tangent, lambda a: a)
        rows, follows = len(tangent), self._follows
        cut: dict[int, Any] = {}  # the same object every time: tangents are found by id

        def first(argument: Any) -> Any:
            if id(argument) not in follows or not argument.dim():
                return argument
            return cut.setdefault(id(argument), argument[:rows])

        # Indices of all samples, given to a part of them, end a process on a GPU.
        constants = (a for step in self._steps for a in step.leaves if id(a) not in follows)
        if any(isinstance(a, Tensor) and _has_a_row_each(a, len(self._point)) for a in constants):
            raise UnsupportedOperationError("a network has an index for each sample")
        try:
            product = self._push(tangent, first)
        except (RuntimeError, ValueError, IndexError) as error:
            raise UnsupportedOperationError("a part of a batch goes another way") from error
        if product.shape != (rows, *self.value.shape[1:]):
            raise UnsupportedOperationError("a part of a batch has a result of another shape")
        return product

    def _push(self, tangent: Tensor, first: Callable[[Any], Any]) -> Tensor:
        last_use = {id(a): i for i, step in enumerate(self._steps) for a in step.leaves}
        last_use[id(self.value)] = len(self._steps)
        known = {id(first(self._point)): tangent}
        for i, whole in enumerate(self._steps):
            step = whole
            if first(self._point) is not self._point:
                args, kwargs, out = tree_map(first, (whole.args, whole.kwargs, whole.out))
                step = Step(whole.rule, whole.operation, args, kwargs, out, whole)
            products = step.rule(step, lambda argument: known.get(id(argument)))
            outs = step.out if isinstance(step.out, tuple | list) else (step.out,)
            products = products if isinstance(products, tuple | list) else (products,)
            known.update((id(out), p) for out, p in zip(outs, products, strict=True))
            for argument in whole.leaves:  # without gradient, a layer's tangent ends here
                if last_use[id(argument)] == i:
                    known.pop(id(first(argument)), None)
        value = first(self.value)
        return known[id(value)] if id(value) in known else torch.zeros_like(value)


def _has_a_row_each(constant: Tensor, samples: int) -> bool:
    return constant.dim() > 0 and len(constant) == samples and not constant.is_floating_point()


def record(function: Callable[[Tensor], Tensor], point: Tensor) -> Tape:
    """Runs a function once, as always, and notes its operations.

    Arguments:
        function: Made of operations of PyTorch.
        point: Its input, (B, ...).

    Raises:
        UnsupportedOperationError: An operation has no rule, or writes into its argument.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
        >>> tape = record(net, torch.zeros(5, 3))
        >>> tape.value.shape, tape.jvp(torch.ones(5, 3)).shape
        (torch.Size([5, 2]), torch.Size([5, 2]))
    """
    recorder = _Recorder(point)
    with recorder:
        value = function(point)
    return Tape(point, value, recorder.steps, recorder.follows)


def check_replay(
    function: Callable[[Tensor], Tensor], point: Tensor, *, parts: bool = False
) -> None:
    """Refuses a function of which a part is hidden, at the cost of one backward pass.

    A scripted or compiled module hides its operations and an `autograd.Function` its derivative.
    So <J v, u> of the replay is compared with <v, J^T u> of the backward pass, v = J^T u.

    Arguments:
        function: To be recorded.
        point: One sample or more of its input, (B, ...).
        parts: Whether J v of a part of the samples must also be that part of J v.

    Raises:
        UnsupportedOperationError: It cannot be recorded, or what is recorded is not its derivative.
    """
    if torch.is_autocast_enabled(point.device.type):
        point = at_least_float32(point)  # as the weights are
    with torch.inference_mode(False), torch.enable_grad(), full_float32():
        point = point.detach().clone().requires_grad_()
        tape = record(function, point)
        # Numbers of both signs that need no generator, whose state is the training's.
        u = torch.arange(1, tape.value.numel() + 1, device=point.device).sin().to(tape.value)
        u = u.view_as(tape.value)
        v = torch.autograd.grad(tape.value, point, u, allow_unused=True, materialize_grads=True)[0]
        with torch.no_grad():
            product, square = tape.jvp(v), v.square().sum()
            tolerance = max(1e-3, torch.finfo(point.dtype).eps ** 0.5)
            if not ((product * u).sum() - square).abs() <= tolerance * square:
                raise UnsupportedOperationError(
                    "a module hides some of its operations (a compiled or scripted module) or "
                    "their derivative (an autograd.Function)"
                )
            if parts and len(point) > 1:
                part, few = tape.jvp(v[:-1]), product[:-1]
                if not (part - few).norm() <= tolerance * few.norm():
                    raise UnsupportedOperationError("the samples of a batch meet in a network")


class _Recorder(TorchFunctionMode):
    """Notes every operation on a tensor that depends on the point."""

    def __init__(self, point: Tensor) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.follows = {id(point): point}
        self._moves = {id(point)}
        self._with_gradient = torch.is_grad_enabled()

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("inplace"):
            kwargs = {**kwargs, "inplace": False}
        out = func(*args, **kwargs)
        arguments = set(map(id, tree_flatten((args, kwargs))[0]))
        if arguments.isdisjoint(self.follows):
            return out
        outs = [o for o in tree_flatten(out)[0] if isinstance(o, Tensor)]
        self.follows.update((id(o), o) for o in outs)
        numbers = any(o.is_floating_point() for o in outs) or func is Tensor.__setitem__
        constant = self._with_gradient and not torch.is_grad_enabled()
        if arguments.isdisjoint(self._moves) or not numbers or constant or func in CONSTANT:
            return out
        name = resolve_name(func) or str(func)
        if func not in RULES:
            raise UnsupportedOperationError(f"operation {name} has no rule")
        if id(out) in self._moves:  # the same tensor again, e.g. a reshape to its own shape
            return out
        self._moves.update(map(id, outs))
        self.steps.append(Step(RULES[func], func, args, kwargs, out))
        return out
