"""One recorded operation, and how tangents pass through any such: by differentiating it alone."""

__all__ = [
    "OtherFormError",
    "Rule",
    "Step",
    "TangentOf",
    "UnsupportedOperationError",
    "by_differentiation",
    "differentiable",
    "linear_map",
    "of_input",
]

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import resolve_name
from torch.utils._pytree import tree_flatten, tree_unflatten

from pythae_fif.errors import FIFError
from pythae_fif.volume_change.operations import kernels_of


class UnsupportedOperationError(FIFError, NotImplementedError):
    """A function that cannot be replayed; the message names the operation."""


class OtherFormError(Exception):
    """An operation is used in a form that its own rule does not know."""


class Step(NamedTuple):
    """One recorded operation, ``out = operation(*args, **kwargs)``.

    Where the tangents are those of the first samples alone, all that depends on the input is cut
    to them, and ``whole`` is the operation on the whole batch. ``outs`` are the results that have
    tangents.
    """

    operation: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    outs: tuple[Tensor, ...]
    whole: "Step | None" = None

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument that was given by position or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    @property
    def name(self) -> str:
        return resolve_name(self.operation) or str(self.operation)

    @property
    def arguments(self) -> list[Any]:
        """All arguments, those in lists one by one."""
        found: list[Any] = []
        for argument in (*self.args, *self.kwargs.values()):
            found += argument if isinstance(argument, tuple | list) else [argument]
        return found


def differentiable(out: Any) -> tuple[Tensor, ...]:
    """The results of an operation that can have tangents: not indices, for example."""
    outs = out if isinstance(out, tuple | list) else (out,)
    return tuple(
        o for o in outs if isinstance(o, Tensor) and (o.is_floating_point() or o.is_complex())
    )


TangentOf = Callable[[Any], "Tensor | None"]
"""Tangent (K, ...) of an argument, None for one that does not depend on the input."""

Rule = Callable[[Step, TangentOf], "Tensor | tuple[Tensor, ...]"]
"""Step and tangents of its arguments to those of its result, or of its several results."""


def of_input(step: Step, tangent_of: TangentOf) -> Tensor:
    """Tangent of the first argument, the only one that may depend on the input."""
    tangent = tangent_of(step.argument(0, "input"))
    others = [*step.args[1:], *(v for name, v in step.kwargs.items() if name != "input")]
    if tangent is None or any(tangent_of(other) is not None for other in others):
        raise OtherFormError
    return tangent


def by_differentiation(step: Step, tangent_of: TangentOf) -> tuple[Tensor, ...]:
    """Any operation, by PyTorch's forward mode of it alone, or else by its backward mode twice.

    The operation runs once more: it must draw no random numbers (`operations.draws`). The gradient
    is right unless PyTorch takes for a constant what moves with the input, as it does with the
    statistics of norms; `check_replay` compares.

    Raises:
        UnsupportedOperationError: PyTorch has neither.
    """
    leaves, form = tree_flatten((step.args, step.kwargs))
    found = dict(enumerate(map(tangent_of, leaves)))
    leaves = [_with_written_gradient(leaf) for leaf in leaves]
    moving = {i: tangent for i, tangent in found.items() if tangent is not None}
    point, dtype = tuple(leaves[i] for i in moving), next(iter(moving.values())).dtype
    pushed = [t.to(x.dtype) for t, x in zip(moving.values(), point, strict=True)]

    def outs(*values: Tensor) -> tuple[Tensor, ...]:
        filled = dict(zip(moving, values, strict=True))
        args, kwargs = tree_unflatten([filled.get(i, leaf) for i, leaf in enumerate(leaves)], form)
        return differentiable(step.operation(*args, **kwargs))

    def forward(*tangents: Tensor) -> tuple[Tensor, ...]:
        return torch.func.jvp(outs, point, tangents)[1]  # type: ignore[no-any-return]

    def backward_twice(*tangents: Tensor) -> tuple[Tensor, ...]:
        values, pull = torch.func.vjp(outs, *point)[:2]  # u -> u^T J: its transpose is u -> J u
        push = torch.func.vjp(pull, tuple(map(torch.zeros_like, values)))[1]
        return push(tangents)[0]  # type: ignore[no-any-return]

    with kernels_of(step.operation):
        for way in (forward, backward_twice):
            with contextlib.suppress(NotImplementedError):
                products = _for_each(way, *pushed)
                low = dtype != point[0].dtype
                if low:  # which complex numbers have not
                    return tuple(p if p.is_complex() else p.to(dtype) for p in products)
                return products
    raise UnsupportedOperationError(
        f"operation {step.name} has neither a forward nor a second derivative in PyTorch"
    )


class _WrittenGradient(torch.autograd.Function):
    """The identity. In place of a gradient that is a zero without memory its backward has zeros.

    Where a product does not move with its input, PyTorch gives such a gradient. GroupNorm's own
    backward kernel then returns what is by chance in memory (torch 2.13, CPU), and fused Adam
    raises. Compiled by inductor, gradients are written in any case.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.zeros_like(grad) if grad._is_zerotensor() else grad


def _with_written_gradient(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor) or not leaf.requires_grad or torch.compiler.is_compiling():
        return leaf
    identity: Any = _WrittenGradient.apply
    return identity(leaf)


def linear_map(step: Step, tangent_of: TangentOf) -> tuple[Tensor, ...]:
    """An operation that is linear in its first argument, applied to the tangents themselves."""
    if "rounding_mode" in step.kwargs:
        raise OtherFormError
    kwargs = {name: value for name, value in step.kwargs.items() if name != "input"}
    return _for_each(
        lambda t: differentiable(step.operation(t, *step.args[1:], **kwargs)),
        of_input(step, tangent_of),
    )


def _for_each(product: Callable[..., tuple[Tensor, ...]], *tangents: Tensor) -> tuple[Tensor, ...]:
    """The products of K tangents, each (K, ...), at once where PyTorch can."""
    if len(tangents[0]) > 1:
        try:
            return torch.func.vmap(product)(*tangents)
        except (NotImplementedError, torch.cuda.OutOfMemoryError):
            raise
        except RuntimeError:  # such as writing into what does not depend on the input
            pass
        rows = [product(*row) for row in zip(*tangents, strict=True)]
        return tuple(torch.stack(row) for row in zip(*rows, strict=True))
    # Views alone: the gradient of a row that is taken out of many is a copy of all.
    return tuple(p.unsqueeze(0) for p in product(*(t.squeeze(0) for t in tangents)))
