"""One pass of a network noted down, and its derivative applied to a tangent.

Forward-mode differentiation runs a network anew for every tangent, and the gradient of its product
is wrong where BatchNorm is in training mode. Here the one pass that the loss needs anyway is noted,
operation by operation. Its derivative is linear and is then applied to a tangent: a convolution of
the tangent is the same convolution without its bias, an activation multiplies it by its slope. The
result is ordinary autograd arithmetic, so that one backward pass gives its gradient.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_flatten, tree_map

from pythae_fif.device import full_float32
from pythae_fif.errors import UnsupportedOperationError
from pythae_fif.volume_change.rules import CONSTANT, RULES, Step

OVERWRITTEN = "what an operation has overwritten in place is used once more"
HIDDEN = "a module hides some of its operations, as a compiled one or an autograd.Function does"


class Tape(TorchFunctionMode):
    """Runs a function of PyTorch's operations once, as always, and notes those on tensors that
    depend on its point; the tape is then their derivative.

    Args:
        function: From (B, ...) to (B, ...).
        point: Its input.

    Attributes:
        value: What the function returned.

    Raises:
        UnsupportedOperationError: An operation has no rule, or writes into its argument.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
        >>> tape = Tape(net, torch.zeros(5, 3))
        >>> tape.value.shape, tape.jvp(torch.ones(5, 3)).shape
        (torch.Size([5, 2]), torch.Size([5, 2]))
    """

    def __init__(self, function: Callable[[Tensor], Tensor], point: Tensor) -> None:
        super().__init__()
        self._point = point
        self._steps: list[Step] = []
        self._follows = {id(point): point}  # all that is computed of it, masks and constants too
        self._moves = {id(point)}
        self._seen = {id(point): (point, point.grad_fn)}  # with its graph, by functions seen here
        self._overwritten: dict[int, Tensor] = {}
        self._with_gradient = torch.is_grad_enabled()
        with self:
            self.value = function(point)
        self._refuse_hidden([self.value])
        if id(self.value) not in self._follows:
            raise UnsupportedOperationError(HIDDEN)

    def _refuse_hidden(self, values: list[Any]) -> None:
        """Refuses what has a graph that no function gave here, or was overwritten in place."""
        for of in (value for value in values if isinstance(value, Tensor)):
            graph = of.grad_fn
            if graph is not None and self._seen.get(id(of), (of, None))[1] is not graph:
                raise UnsupportedOperationError(HIDDEN)
            if self._overwritten and id(_whole(of)) in self._overwritten:
                raise UnsupportedOperationError(OVERWRITTEN)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, leaves = kwargs or {}, tree_flatten((args, kwargs))[0]
        leaves = leaves[:1] if func is Tensor.to else leaves  # `c.to(x)` does not move with x
        if getattr(func, "__name__", "") != "__set__":  # which an autograd.Function's apply calls
            self._refuse_hidden(leaves)
        if kwargs.get("inplace"):
            kwargs, old = {**kwargs, "inplace": False}, _whole(args[0] if args else kwargs["input"])
            self._overwritten[id(old)] = old
        out = func(*args, **kwargs)
        outs = [o for o in tree_flatten(out)[0] if isinstance(o, Tensor)]
        constant = self._with_gradient and not torch.is_grad_enabled()  # its slopes have no graph
        if not constant:
            written = (leaf for leaf in leaves if isinstance(leaf, Tensor))  # as by __setitem__
            self._seen.update((id(o), (o, o.grad_fn)) for o in (*outs, *written))
        arguments = set(map(id, leaves))
        if arguments.isdisjoint(self._follows):
            return out
        self._follows.update((id(o), o) for o in outs)
        numbers = any(o.is_floating_point() or o.is_complex() for o in outs)
        numbers |= func in (Tensor.__setitem__, Tensor.register_hook)
        if arguments.isdisjoint(self._moves) or not numbers or constant or func in CONSTANT:
            return out
        if func not in RULES:
            raise UnsupportedOperationError(f"operation {resolve_name(func) or func} has no rule")
        if id(out) not in self._moves:  # else the same tensor, as after a reshape to its shape
            self._moves.update(map(id, outs))
            self._steps.append(Step(func, args, kwargs, out))
        return out

    def jvp(self, tangent: Tensor) -> Tensor:
        """J tangent, the shape of the value; differentiable.

        Arguments:
            tangent: The shape of the point, or (b, ...) of the first b samples of a batch, which
                must not meet in the function. For b < B BatchNorm's statistics are constants.
        """
        cut: dict[int, Any] = {}  # the same object every time: tangents are found by id
        in_part, rows = len(tangent) < len(self._point), len(tangent)

        def first(argument: Any) -> Any:
            if not in_part or id(argument) not in self._follows:
                return argument
            if argument.shape[:1] != self._point.shape[:1]:  # no samples, but such as x.new_ones(3)
                return argument
            return cut.setdefault(id(argument), argument[:rows])

        last_use = {id(a): i for i, step in enumerate(self._steps) for a in step.leaves}
        known = {id(first(self._point)): tangent}
        for i, whole in enumerate(self._steps):
            step = whole
            if in_part:
                args, kwargs, out = tree_map(first, (whole.args, whole.kwargs, whole.out))
                step = Step(whole.operation, args, kwargs, out, whole)
            products = RULES[step.operation](step, lambda argument: known.get(id(argument)))
            outs = step.out if isinstance(step.out, tuple | list) else (step.out,)
            products = products if isinstance(products, tuple | list) else (products,)
            known.update((id(out), p) for out, p in zip(outs, products, strict=True))
            for argument in whole.leaves:  # without gradient, a layer's tangent ends here
                if last_use[id(argument)] == i and argument is not self.value:
                    known.pop(id(first(argument)), None)
        value = first(self.value)
        return known[id(value)] if id(value) in known else torch.zeros_like(value)


def _whole(tensor: Tensor) -> Tensor:
    """The tensor of whose memory this is a view."""
    return tensor if tensor._base is None else tensor._base


def check_replay(function: Callable[[Tensor], Tensor], point: Tensor, *, parts: bool) -> None:
    """Refuses a function of which a part is hidden, at the cost of one backward pass.

    A compiled module hides its operations and an `autograd.Function` its derivative. So <J v, u> of
    the replay is compared with <v, J^T u> of the backward pass, v = J^T u.

    Arguments:
        function: To be recorded.
        point: One sample or more of its input, (B, ...).
        parts: Whether J v of a part of the samples must also be that part of J v.

    Raises:
        UnsupportedOperationError: It cannot be recorded, or what is recorded is not its derivative.
    """
    with torch.enable_grad(), full_float32():
        point = point.detach().requires_grad_()
        tape = Tape(function, point)
        # Numbers of both signs that need no generator, whose state is the training's.
        u = torch.arange(1, tape.value.numel() + 1, device=point.device).sin().to(tape.value)
        u = u.view_as(tape.value)
        (v,) = torch.autograd.grad(tape.value, point, u)
        with torch.no_grad():
            product, square = tape.jvp(v), v.square().sum()
            if not ((product * u).sum() - square).abs() <= 1e-3 * square:
                raise UnsupportedOperationError(HIDDEN)
        if parts:
            check_parts(tape, v, product)


@torch.no_grad()
def check_parts(tape: Tape, tangent: Tensor, product: Tensor | None = None) -> None:
    """Refuses a pass that has no product J v of a part of the samples, or another than in J v."""
    if len(tangent) > 1:
        with suppress(RuntimeError, IndexError):
            part = tape.jvp(tangent[:-1])
            expected = part if product is None else product[:-1]
            fits = len(part) == len(tangent) - 1
            if fits and (part - expected).norm() <= 1e-3 * expected.norm():
                return
        raise UnsupportedOperationError("the samples of a batch meet in a network")
