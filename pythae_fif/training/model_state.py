"""What a model's Python code can read in a step, and whether it has changed."""

import operator
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

PLAIN_TYPES = (bool, int, float, complex, str, bytes, type(None))
OPAQUE_TYPES = (nn.Module, Tensor, torch.Generator, type, types.ModuleType, types.FunctionType)
"""Types of attributes that are compared by identity, not by their own attributes."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class ModelState:
    """A shallow copy of everything in Python that a model's step can read.

    These are the attributes of its modules and their classes, with the lists, dictionaries and
    plain objects (configurations) among them, the plain values among the globals and closures of
    their methods, and shape and type of weights and buffers. Values of weights and buffers are not
    among them.

    Args:
        model: The model.

    Attributes:
        weights: The trained weights by name.
        buffers: Frozen weights and buffers by name.
        generators: Random generators among the attributes.
        obstacle: Why the model's steps cannot be traced; None if they can be tried.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = [*model.modules()]
        self.obstacle = _find_obstacle(modules)
        self.generators: list[torch.Generator] = []

        parameters = dict(model.named_parameters())
        self.weights = {name: w for name, w in parameters.items() if w.requires_grad}
        frozen_weights = {name: w for name, w in parameters.items() if not w.requires_grad}
        self.buffers = {**frozen_weights, **dict(model.named_buffers())}
        self._tensors = [*self.weights.values(), *self.buffers.values()]
        self._layouts = self._read_layouts()

        self._copies: list[tuple[Any, Any]] = []  # a container, and its copy
        self._empty: list[Any] = []  # containers without items; most modules have ten of them
        self._globals: list[tuple[Callable[[], Any], Any]] = []  # reads a value, and the value
        if self.obstacle is not None:
            return

        known_ids: set[int] = set()
        classes = {cls for module in modules for cls in type(module).__mro__}
        for module in modules:
            self._copy(vars(module), known_ids)
        for cls in classes - {object, nn.Module}:
            self._copies.append((vars(cls), dict(vars(cls))))
            for function in vars(cls).values():
                if isinstance(function, types.FunctionType):
                    self._copy_globals(function)

    def is_current(self) -> bool:
        """Returns whether nothing has changed since the copy."""
        return (
            not any(self._empty)
            and all(_has_same_items(container, copy) for container, copy in self._copies)
            and all(read() == value for read, value in self._globals)
            and self._layouts == self._read_layouts()
        )

    def _copy(self, container: Any, known_ids: set[int]) -> None:
        """Copies a container and those among its items; a container is copied once."""
        if id(container) in known_ids:
            return
        known_ids.add(id(container))

        if not container:
            self._empty.append(container)
            return

        is_mapping = isinstance(container, dict)
        if type(container) is not tuple:
            copy: Any = dict(container) if is_mapping else type(container)(container)
            self._copies.append((container, copy))
        for item in container.values() if is_mapping else container:
            if isinstance(item, torch.Generator):
                self.generators.append(item)
            elif type(item) in (list, set, tuple) or isinstance(item, dict):
                self._copy(item, known_ids)
            elif not isinstance(item, OPAQUE_TYPES) and hasattr(item, "__dict__"):
                self._copy(vars(item), known_ids)

    def _copy_globals(self, function: types.FunctionType) -> None:
        """Copies the plain globals and closures that a function reads."""
        names = [name for name in function.__code__.co_names if name in function.__globals__]
        readers = [_global_reader(function, name) for name in names]
        readers += [_closure_reader(cell) for cell in function.__closure__ or ()]
        for read in readers:
            value = read()
            if isinstance(value, PLAIN_TYPES):
                self._globals.append((read, value))

    def _read_layouts(self) -> list[Any]:
        """Returns what the code can read of weights and buffers, apart from their values."""
        return [
            (tensor.requires_grad, tensor.dtype, tensor.device, tensor.shape, tensor.stride())
            for tensor in self._tensors
        ]


def _has_same_items(container: Any, copy: Any) -> bool:
    """Returns whether a container has the items of its copy: the same objects, or equal values."""
    if isinstance(container, set):
        return bool(container == copy)
    if len(container) != len(copy):
        return False

    items, copied_items = container, copy
    if isinstance(copy, dict):
        if container.keys() != copy.keys():
            return False
        items, copied_items = container.values(), copy.values()
    return all(map(operator.is_, items, copied_items)) or all(map(_is_same, items, copied_items))


def _is_same(item: Any, copied_item: Any) -> bool:
    """Returns whether an item is its copy; equal tensors are not the same weights."""
    is_plain = isinstance(item, PLAIN_TYPES) and type(item) is type(copied_item)
    return item is copied_item or (is_plain and item == copied_item)


def _global_reader(function: types.FunctionType, name: str) -> Callable[[], Any]:
    return lambda: function.__globals__.get(name)


def _closure_reader(cell: types.CellType) -> Callable[[], Any]:
    return lambda: cell.cell_contents


def _find_obstacle(modules: list[nn.Module]) -> str | None:
    """Returns why modules cannot be traced; None if nothing is known."""
    for module in modules:
        name = type(module).__name__
        if isinstance(module, torch.jit.ScriptModule):
            return f"{name} is compiled by torch.jit"
        if any(getattr(module, hooks) for hooks in HOOKS):
            return f"{name} has hooks"
    return None
