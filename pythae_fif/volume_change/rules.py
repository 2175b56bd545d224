"""What single operations do to a tangent."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from pythae_fif.errors import UnsupportedOperationError
from pythae_fif.volume_change.batch_norm import batch_norm_jvp


@dataclass(eq=False)
class Step:
    """One operation, ``out = operation(*args, **kwargs)``.

    Where the tangent is that of the first samples alone, all that depends on the input is cut to
    them, and ``whole`` is the operation on the whole batch.
    """

    operation: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    whole: "Step | None" = None

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument that was given by position or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    @cached_property
    def leaves(self) -> list[Any]:
        """All arguments, those in lists one by one."""
        return tree_flatten((self.args, self.kwargs))[0]


TangentOf = Callable[[Any], "Tensor | None"]
"""The tangent of an argument, None for one that does not depend on the input."""

Rule = Callable[[Step, TangentOf], Any]
"""A step and the tangents of its arguments to the tangents of its result or results."""


def _input_tangents(step: Step, tangent_of: TangentOf) -> dict[int, Tensor]:
    """Position among the arguments -> tangent, of those that depend on the input."""
    found = ((i, tangent_of(leaf)) for i, leaf in enumerate(step.leaves))
    return {i: tangent for i, tangent in found if tangent is not None}


def _apply_with(step: Step, values: dict[int, Any]) -> Any:
    """The operation with other values in place of some arguments."""
    leaves, form = tree_flatten((step.args, step.kwargs))
    args, kwargs = tree_unflatten([values.get(i, leaf) for i, leaf in enumerate(leaves)], form)
    return step.operation(*args, **kwargs)


def _linear_rule(step: Step, tangent_of: TangentOf) -> Any:
    """An operation that is linear in the one argument that depends on the input."""
    moving = _input_tangents(step, tangent_of)
    return _forward_mode_rule(step, tangent_of) if len(moving) > 1 else _apply_with(step, moving)


def _forward_mode_rule(step: Step, tangent_of: TangentOf) -> Any:
    """Forward-mode differentiation of the operation alone."""
    moving, leaves = _input_tangents(step, tangent_of), step.leaves
    point = tuple(leaves[i] for i in moving)
    tangents = tuple(t.to(x.dtype) for t, x in zip(moving.values(), point, strict=True))

    def operation(*values: Tensor) -> Any:
        return _apply_with(step, dict(zip(moving, values, strict=True)))

    return torch.func.jvp(operation, point, tangents)[1]


def _affine_rule(step: Step, tangent_of: TangentOf) -> Tensor:
    """A linear layer or a convolution: itself, without its bias."""
    tangent, weight = tangent_of(step.argument(0, "input")), step.argument(1, "weight")
    others = weight, step.argument(2, "bias")
    if tangent is None or any(tangent_of(other) is not None for other in others):
        raise UnsupportedOperationError("a layer's weight depends on the input")
    kwargs = {k: v for k, v in step.kwargs.items() if k not in ("input", "weight", "bias")}
    return step.operation(tangent, weight, None, *step.args[3:], **kwargs)


def _reshape_rule(step: Step, tangent_of: TangentOf) -> Tensor:
    """Takes the result's shape: sizes that were given may be those of the whole batch."""
    ((_, tangent),) = _input_tangents(step, tangent_of).items()
    return tangent.reshape(step.out.shape)


def _sum_rule(step: Step, tangent_of: TangentOf) -> Tensor:
    """The sum or difference of two, broadcast as the values were."""
    a, b = step.argument(0, "input"), step.argument(1, "other")
    da, db = tangent_of(a), tangent_of(b)
    if db is None:
        assert da is not None
        return da.expand_as(step.out)
    options = {name: value for name, value in step.kwargs.items() if name == "alpha"}
    total: Tensor = step.operation(torch.zeros_like(db) if da is None else da, db, **options)
    return total.expand_as(step.out)


def _concat_rule(step: Step, tangent_of: TangentOf) -> Any:
    """Tangents side by side; those of constants, such as a joined condition, are zero."""
    rows = None if step.whole is None else len(step.out)
    tensors = {i: leaf for i, leaf in enumerate(step.leaves) if isinstance(leaf, Tensor)}
    zeros = {i: torch.zeros_like(t[:rows] if rows else t) for i, t in tensors.items()}
    return _apply_with(step, zeros | _input_tangents(step, tangent_of))


def _relu_rule(step: Step, tangent_of: TangentOf) -> Tensor:
    """The kernel of its own backward pass: a third of the time of a product with a mask."""
    ((_, tangent),) = _input_tangents(step, tangent_of).items()
    out = step.out.detach()
    return torch.ops.aten.threshold_backward(tangent.to(out.dtype), out, 0)


def _batch_norm_rule(step: Step, tangent_of: TangentOf) -> Tensor:
    """In training mode the derivative of the whole-batch map, cross-sample terms included.

    For a part of the batch the statistics are constants of x, dh = dx / std, but still functions of
    the parameters. The gradient of a random part is therefore an unbiased estimate of the whole
    batch's with such statistics.
    """
    ((_, tangent),) = _input_tangents(step, tangent_of).items()
    x, running_var = step.argument(0, "input"), step.argument(2, "running_var")
    weight, eps = step.argument(3, "weight"), step.argument(7, "eps", 1e-5)
    if step.argument(5, "training", False):
        if step.whole is None:
            return batch_norm_jvp(tangent, x, weight, eps)
        whole = step.whole.argument(0, "input")
        whole = whole.to(torch.promote_types(whole.dtype, torch.float32))
        running_var = torch.var(whole, [0, *range(2, x.dim())], correction=0)
    scale: Tensor = (running_var + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    return tangent * scale.to(tangent.dtype).view(1, -1, *[1] * (x.dim() - 2))


def _named(names: str) -> list[Any]:
    """The functions of these names in torch, Tensor and torch.nn.functional."""
    owners = (torch, Tensor, F)
    return [getattr(o, name) for name in names.split() for o in owners if hasattr(o, name)]


CONSTANT = {
    Tensor.data.__get__,  # type: ignore[attr-defined]
    *_named("detach sign sgn round floor ceil trunc zeros_like ones_like empty_like full_like"),
    *_named("rand_like randn_like new_zeros new_ones new_empty new_full new_tensor"),
}
"""Operations whose result does not move with their arguments."""

_RULES: list[tuple[Rule, str]] = [
    (
        _affine_rule,
        "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d",
    ),
    (_relu_rule, "relu"),
    (_sum_rule, "add sub __add__ __radd__ __sub__"),
    (_reshape_rule, "reshape view flatten unflatten squeeze unsqueeze"),
    (_concat_rule, "cat concat concatenate stack"),
    (_linear_rule, "neg __neg__ sum mean clone float double to contiguous mul __mul__ __rmul__"),
    (
        _linear_rule,
        "matmul __matmul__ __rmatmul__ bmm transpose permute t narrow chunk split unbind",
    ),
    (_linear_rule, "__getitem__ flip expand repeat roll gather index_select interpolate"),
    (_linear_rule, "pixel_shuffle pixel_unshuffle avg_pool1d avg_pool2d adaptive_avg_pool2d"),
    (_forward_mode_rule, "__rsub__ div __truediv__ __rtruediv__ pow __pow__ __rpow__ reciprocal"),
    (_forward_mode_rule, "square sqrt rsqrt exp log log1p sin cos erf abs clamp maximum minimum"),
    (_forward_mode_rule, "where sigmoid tanh silu gelu softplus leaky_relu elu selu celu mish"),
    (_forward_mode_rule, "hardtanh relu6 softmax log_softmax logsumexp logsigmoid max_pool2d pad"),
]

RULES: dict[Any, Rule] = {f: rule for rule, names in _RULES for f in _named(names)}
"""Operation -> what it does to tangents. Normalisation by a sample's own statistics has no rule:
PyTorch's gradient of its product takes the statistics for constants."""
RULES[F.batch_norm] = _batch_norm_rule
