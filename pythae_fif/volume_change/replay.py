"""Records one forward pass of a network and applies its Jacobian to tangents.

Forward-mode differentiation runs a network again for every tangent, and the gradient of its
product is wrong where BatchNorm is in training mode. Here the one pass that the loss needs anyway
is recorded, operation by operation. Its derivative is linear, and is applied to a tangent in a
second step: a convolution of the tangent is the same convolution without its bias, an activation
multiplies the tangent by its slope. The result is ordinary autograd arithmetic, so that one
backward pass gives its gradient.
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
from pythae_fif.volume_change.compositions import IN_PLACE, find_composition
from pythae_fif.volume_change.rules import CONSTANT, LIKE, RULES, Step

HIDDEN = (
    "a module hides some of its operations, as compiled modules and autograd.Function classes do"
)


class Tape(TorchFunctionMode):
    """Runs a function once, records its operations, and then is the function's derivative.

    Only operations on tensors that depend on the input are recorded. The function must consist of
    PyTorch's operations and runs as it would without a tape.

    Args:
        function: Maps (B, ...) to (B, ...).
        point: The function's input, (B, ...).

    Attributes:
        value: What the function returned.
        has_tangent: Whether the value may change with the input: not if it was detached.

    Raises:
        UnsupportedOperationError: If an operation has no rule or overwrites its argument.

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
        self._with_gradient = torch.is_grad_enabled()

        # Tensors are recognised by their id. The dictionaries also hold the tensors themselves,
        # because the id of a deleted tensor may be given to a new one.
        self._depends_on_input = {id(point): point}  # masks and constants included
        self._has_tangent = {id(point)}
        self._graph_of = {id(point): (point, point.grad_fn)}  # graphs made by recorded operations
        self._overwritten: dict[int, Tensor] = {}

        with self:
            self.value = function(point)
        self._check_arguments([self.value])
        if id(self.value) not in self._depends_on_input:
            raise UnsupportedOperationError(HIDDEN)
        self.has_tangent = id(self.value) in self._has_tangent

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs an operation and, if it moves with the input, records it."""
        kwargs = kwargs or {}
        arguments = tree_flatten((args, kwargs))[0]
        if func in LIKE:
            arguments = arguments[:1]

        # An in-place autograd.Function sets a property of its argument, and must not fail there.
        if getattr(func, "__name__", "") != "__set__":
            self._check_arguments(arguments)

        # In a pass with gradient, operations under `no_grad` compute constants of the loss.
        is_constant = self._with_gradient and not torch.is_grad_enabled()
        has_tangent = not is_constant and any(id(a) in self._has_tangent for a in arguments)

        composition = find_composition(func) if has_tangent and func not in RULES else None

        # In place of overwriting a tensor that was computed in this pass, a new one is made.
        target: Any = args[0] if args else kwargs.get("input")
        overwrites = kwargs.get("inplace", False)
        if overwrites:
            kwargs = {**kwargs, "inplace": False}
        elif func in IN_PLACE and has_tangent and id(target) in self._depends_on_input:
            overwrites = True
            composition = IN_PLACE[func]

        if composition is None:
            out = self._record(func, args, kwargs, arguments, is_constant, has_tangent)
        else:
            with self:
                out = composition(*args, **kwargs)

        if overwrites and out is not target:
            overwritten = _base_tensor(target)
            self._overwritten[id(overwritten)] = overwritten
        return out

    def _record(
        self,
        func: Any,
        args: Any,
        kwargs: dict[str, Any],
        arguments: list[Any],
        is_constant: bool,
        has_tangent: bool,
    ) -> Any:
        """Runs an operation, and records it if its result has a tangent."""
        out = func(*args, **kwargs)
        outputs = [output for output in tree_flatten(out)[0] if isinstance(output, Tensor)]
        if not is_constant:
            self._record_graphs(arguments, outputs)
        if not any(id(argument) in self._depends_on_input for argument in arguments):
            return out
        for output in outputs:
            self._depends_on_input[id(output)] = output

        changes_argument = func in (Tensor.__setitem__, Tensor.register_hook)
        has_derivative = changes_argument or any(
            output.is_floating_point() or output.is_complex() for output in outputs
        )
        if func in CONSTANT or not has_derivative or not has_tangent:
            return out

        if func not in RULES:
            raise UnsupportedOperationError(f"{resolve_name(func) or func} has no replay rule")
        if id(out) not in self._has_tangent:  # a reshape to the same shape returns its argument
            self._has_tangent.update(map(id, outputs))
            copies = {name: _copy_list(value) for name, value in kwargs.items()}
            self._steps.append(Step(func, tuple(map(_copy_list, args)), copies, out))
        return out

    def _check_arguments(self, arguments: list[Any]) -> None:
        """Raises an error for tensors that were overwritten in place or have a hidden graph.

        A graph is hidden if it was not made by recorded operations.
        """
        for argument in arguments:
            if not isinstance(argument, Tensor):
                continue

            graph = argument.grad_fn
            if graph is not None:
                _, recorded_graph = self._graph_of.get(id(argument), (argument, None))
                if graph is not recorded_graph:
                    raise UnsupportedOperationError(HIDDEN)

            if self._overwritten and id(_base_tensor(argument)) in self._overwritten:
                raise UnsupportedOperationError(
                    "a tensor that was overwritten in place is used again"
                )

    def _record_graphs(self, arguments: list[Any], outputs: list[Tensor]) -> None:
        """Notes the graphs of an operation's tensors: `__setitem__` changes its argument's."""
        for tensor in (*arguments, *outputs):
            if isinstance(tensor, Tensor):
                self._graph_of[id(tensor)] = (tensor, tensor.grad_fn)

    def jvp(self, tangent: Tensor) -> Tensor:
        """Returns the product of the Jacobian and a tangent, with a graph.

        Args:
            tangent: Of the point's shape, or (b, ...) for the first b samples of a batch, which
                the function must not mix. With b < B, BatchNorm's statistics are constants.

        Returns:
            The product, of the value's shape or (b, ...).
        """
        rows = len(tangent)
        is_part = rows < len(self._point)
        cut_arguments: dict[int, Any] = {}  # an argument is cut only once: tangents go by its id

        def cut(argument: Any) -> Any:
            """The first rows of an argument that has a row for each sample."""
            if not is_part or id(argument) not in self._depends_on_input:
                return argument
            if argument.shape[:1] != self._point.shape[:1]:  # such as x.new_ones(3)
                return argument
            return cut_arguments.setdefault(id(argument), argument[:rows])

        tangents = {id(cut(self._point)): tangent}

        def get_tangent(argument: Any) -> Tensor | None:
            return tangents.get(id(argument))

        last_use = self._find_last_uses()
        for index, recorded in enumerate(self._steps):
            step = recorded
            if is_part:
                args, kwargs, out = tree_map(cut, (recorded.args, recorded.kwargs, recorded.out))
                step = Step(recorded.operation, args, kwargs, out, batch_step=recorded)

            products = RULES[step.operation](step, get_tangent)
            outputs = step.out if isinstance(step.out, tuple | list) else (step.out,)
            products = products if isinstance(products, tuple | list) else (products,)
            for output, product in zip(outputs, products, strict=True):
                tangents[id(output)] = product

            # Tangents that no later step needs are dropped, which frees memory without a graph.
            for argument in recorded.leaves:
                if last_use[id(argument)] == index and argument is not self.value:
                    tangents.pop(id(cut(argument)), None)

        value = cut(self.value)
        return tangents[id(value)] if id(value) in tangents else torch.zeros_like(value)

    def _find_last_uses(self) -> dict[int, int]:
        """The number of the last step that uses an argument, by the argument's id."""
        last_use = {}
        for index, step in enumerate(self._steps):
            last_use.update(dict.fromkeys(map(id, step.leaves), index))
        return last_use


def _copy_list(argument: Any) -> Any:
    """A list of arguments is copied, as a network may append to it later."""
    return argument.copy() if isinstance(argument, list) else argument


def _base_tensor(tensor: Tensor) -> Tensor:
    """The tensor that owns the memory of a view; the tensor itself if it is not a view."""
    return tensor if tensor._base is None else tensor._base


def check_replay(function: Callable[[Tensor], Tensor], point: Tensor, *, parts: bool) -> None:
    """Checks that a tape records all of a function, at the cost of one backward pass.

    A compiled module hides its operations and an `autograd.Function` its derivative. The check
    compares <J v, u> by the tape with <v, J^T u> by the backward pass, for v = J^T u.

    Args:
        function: The function to record.
        point: One sample or more of its input, (B, ...).
        parts: Whether to check products for part of the batch, too; see :func:`check_parts`.

    Raises:
        UnsupportedOperationError: If the function cannot be recorded, or if the tape is not its
            derivative.
    """
    with torch.enable_grad(), full_float32():
        point = point.detach().requires_grad_()
        tape = Tape(function, point)

        # Numbers of both signs, without a random generator: its state belongs to the training.
        u = torch.arange(1, tape.value.numel() + 1, device=point.device).sin().to(tape.value)
        u = u.view_as(tape.value)
        (v,) = torch.autograd.grad(tape.value, point, u)

        with torch.no_grad():
            product = tape.jvp(v)
            squared_norm = v.square().sum()
            error = ((product * u).sum() - squared_norm).abs()
            if not error <= 1e-3 * squared_norm:  # also if it is NaN
                raise UnsupportedOperationError(HIDDEN)

        if parts:
            check_parts(tape, v, product)


@torch.no_grad()
def check_parts(tape: Tape, tangent: Tensor, product: Tensor | None = None) -> None:
    """Checks that part of a batch has the same product J v as within the whole batch.

    Args:
        tape: The recorded pass.
        tangent: v, (B, ...). One sample has no part, and is not checked.
        product: J v, (B, ...). If None, the check is only that the part has a product.

    Raises:
        UnsupportedOperationError: If the recorded function mixes the samples of a batch.
    """
    if len(tangent) <= 1:
        return

    with suppress(RuntimeError, IndexError):
        part = tape.jvp(tangent[:-1])
        expected = part if product is None else product[:-1]
        is_complete = len(part) == len(tangent) - 1
        if is_complete and (part - expected).norm() <= 1e-3 * expected.norm():
            return
    raise UnsupportedOperationError("a network mixes the samples of a batch")
