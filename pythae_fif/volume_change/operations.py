"""What a recorder and PyTorch's own differentiation need to know of single operations.

Some operations write into their arguments, some draw random numbers, some are many in one, and some
have kernels that can be differentiated only once.
"""

__all__ = [
    "COMPOSED",
    "CONSTANT",
    "MASKED",
    "REFUSED",
    "TwiceDifferentiable",
    "draws",
    "kernels_of",
    "named",
    "without_writing",
]

import math
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverloadPacket
from torch.overrides import TorchFunctionMode

from pythae_fif.volume_change.precision import at_least_float32


def named(names: str, *owners: Any) -> list[Any]:
    """The functions of these names in torch, Tensor and torch.nn.functional, or in other owners."""
    owners = owners or (torch, Tensor, F)
    return [getattr(o, name) for name in names.split() for o in owners if hasattr(o, name)]


CONSTANT = {
    *named("zeros_like ones_like empty_like full_like rand_like randn_like randint_like", torch),
    *named("new_zeros new_ones new_empty new_full new_tensor detach requires_grad_", Tensor),
    *named("sign sgn round floor ceil trunc bernoulli"),
}
"""Operations whose result does not move with their arguments."""

_BATCH_NORMS = (
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_functional"
    " _batch_norm_with_update _batch_norm_with_update_functional"
)
_PACKETS = named(_BATCH_NORMS, torch.ops.aten)
REFUSED = {
    *named(_BATCH_NORMS, torch),
    *_PACKETS,
    *(getattr(packet, name) for packet in _PACKETS for name in packet.overloads()),
}
"""Forms of BatchNorm without a rule: of their statistics PyTorch's forward mode knows nothing."""

_DRAWS = set(
    named(
        "alpha_dropout feature_alpha_dropout feature_dropout native_dropout rrelu gumbel_softmax"
        " fractional_max_pool2d fractional_max_pool2d_with_indices"
        " fractional_max_pool3d fractional_max_pool3d_with_indices"
    )
)
_RECURRENT_NAMES = "lstm gru rnn_tanh rnn_relu"
_RECURRENT = {
    *named(_RECURRENT_NAMES, torch),
    *(getattr(torch.ops.aten, name).input for name in _RECURRENT_NAMES.split()),
}


def draws(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operation draws random numbers that its result does not show."""
    if operation in _RECURRENT:
        numbers = [argument for argument in args if isinstance(argument, int | float)]
        _has_biases, _num_layers, dropout = numbers[:3]
        return dropout > 0
    packet = getattr(operation, "overloadpacket", operation)
    if not isinstance(packet, OpOverloadPacket):
        return operation in _DRAWS
    # Of torch.ops, which networks of torch.export call: PyTorch marks those that may draw.
    ways = [getattr(packet, name) for name in packet.overloads()]
    if not any(torch.Tag.nondeterministic_seeded in way.tags for way in ways):
        return False
    way = ways[0] if operation is packet else operation
    given = {a.name: a.default_value for a in way._schema.arguments} | kwargs
    given |= {a.name: value for a, value in zip(way._schema.arguments, args, strict=False)}
    idle = given.get("train") is False or given.get("training") is False
    rate = given.get("p", given.get("dropout_p"))
    return not (idle or (isinstance(rate, int | float) and rate == 0))


# ------------------------------------------------------------------ many operations in one


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q k^T / sqrt(d) + mask) v (Vaswani et al. 2017), as PyTorch's mathematical kernel."""
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = torch.matmul(query * scale, key.transpose(-2, -1))
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is None:
        weights = torch.softmax(scores, -1)
    else:
        if attn_mask.dtype == torch.bool:
            attn_mask = scores.new_zeros(attn_mask.shape).masked_fill(~attn_mask, -math.inf)
        none = attn_mask.isneginf().all(-1, keepdim=True)  # of the keys: the result is zero
        weights = torch.softmax(scores + attn_mask.masked_fill(none, 0.0), -1) * ~none
    return torch.matmul(F.dropout(weights, dropout_p, dropout_p > 0), value)


def _by_mask(dropout: Any) -> Callable[..., Tensor]:
    """Dropout as a product with the mask that it draws, the same numbers in the same order."""

    def by_mask(
        input: Tensor,
        p: float = 0.5,
        training: bool = True,
        inplace: bool = False,
        train: bool = True,
    ) -> Tensor:
        if not (training and train):
            return input
        mask: Tensor = dropout(torch.ones_like(input), p, True)
        return input * mask

    return by_mask


def _cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str | None = None) -> Tensor:
    distance: Tensor = torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)
    return distance


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    a, b = input.chunk(2, dim)
    return a * torch.sigmoid(b)


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    return F.hardtanh(input + 3, 0.0, 6.0) / 6


def _opened(function: Any) -> Any:
    """A function of torch.nn.functional that leaves the recording to the operations inside it."""
    inside = {**function.__globals__, "has_torch_function": lambda *_: False}
    return types.FunctionType(function.__code__, inside, None, function.__defaults__)


def _batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


COMPOSED: dict[Any, Callable[..., Any]] = {
    F.scaled_dot_product_attention: _attention,
    torch.ops.aten.scaled_dot_product_attention.default: _attention,  # of an exported network
    F.multi_head_attention_forward: _opened(F.multi_head_attention_forward),
    torch.cdist: _cdist,
    F.glu: _glu,
    F.hardsigmoid: _hardsigmoid,
    torch.batch_norm: _batch_norm,
    torch.ops.aten.batch_norm.default: _batch_norm,
}
"""Operation -> the same in terms of others, which can be differentiated in any way."""


def _standardised(input: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    wide = at_least_float32(input)
    centred = wide - wide.mean(dims, keepdim=True)
    return centred * (centred.square().mean(dims, keepdim=True) + eps).rsqrt()


def _layer_norm(
    input: Tensor,
    normalized_shape: tuple[int, ...],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    output = _standardised(input, tuple(range(-len(normalized_shape), 0)), eps)
    output = output if weight is None else output * weight
    return (output if bias is None else output + bias).to(input.dtype)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    if not use_input_stats:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    dims = tuple(range(2, input.dim()))
    if running_mean is not None and running_var is not None:
        with torch.no_grad(), torch._C.DisableTorchFunction():  # which moves them
            wide = input.to(running_mean.dtype)
            F.instance_norm(wide, running_mean, running_var, momentum=momentum, eps=eps)
    output, channels = _standardised(input, dims, eps), (-1, *[1] * len(dims))
    output = output if weight is None else output * weight.view(channels)
    return (output if bias is None else output + bias.view(channels)).to(input.dtype)


_NORMALISED: dict[Any, Callable[..., Tensor]] = {
    **dict.fromkeys(named("layer_norm"), _layer_norm),
    F.instance_norm: _instance_norm,
    torch.instance_norm: lambda x, weight, bias, mean, var, *rest: _instance_norm(
        x, mean, var, weight, bias, *rest
    ),
}
"""Normalisation by a sample's own statistics -> the same in terms of others.

PyTorch's gradient of its Jacobian-vector product takes the statistics for constants. The recorder
has rules for these operations.
"""

MASKED: dict[Any, Callable[..., Tensor]] = {
    dropout: _by_mask(dropout) for dropout in named("dropout dropout1d dropout2d dropout3d")
}
"""Dropout -> the same in terms of others, one of which draws."""


# ------------------------------------------------------------------ operations in place

_WRITES = {
    getattr(owner, name): getattr(owner, name[:-1], None)
    for owner in (torch, Tensor, F)
    for name in dir(owner)
    if name.endswith("_") and not name.endswith("__")
} | {Tensor.__setitem__: None, Tensor.__ipow__: Tensor.pow}

_FLAG_AT = {
    function: function.__code__.co_varnames.index("inplace")
    for function in vars(F).values()
    if isinstance(function, types.FunctionType) and "inplace" in function.__code__.co_varnames
}


def without_writing(
    operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any]] | None:
    """An operation that writes into its first argument, as one that returns what it would write.

    Returns:
        Operation and arguments; None for one that writes nothing.
    """
    if operation in _FLAG_AT:
        at = _FLAG_AT[operation]
        if not (kwargs.get("inplace") or args[at : at + 1] == (True,)):
            return None
        return operation, args[:at], {k: v for k, v in kwargs.items() if k != "inplace"}
    if operation not in _WRITES:
        return None
    if _WRITES[operation] is not None:
        return _WRITES[operation], args, kwargs

    def written(target: Tensor, *rest: Any, **options: Any) -> Tensor:
        copy = target.clone()
        operation(copy, *rest, **options)
        return copy

    return written, args, kwargs


# ------------------------------------------------------------------ kernels


def kernels_of(operation: Any) -> AbstractContextManager[None]:
    """Within it an operation takes a kernel that can be differentiated more than once."""
    return _without_cudnn() if operation in _RECURRENT else nullcontext()


@contextmanager
def _without_cudnn() -> Iterator[None]:
    """Of cuDNN's `flags` this one alone: they fail where the user has set its precisions apart."""
    enabled = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = enabled


class TwiceDifferentiable(TorchFunctionMode):
    """Within it every operation can be; fast paths of PyTorch's transformers are off, too."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if (composed := COMPOSED.get(func) or _NORMALISED.get(func)) is not None:
            with self:
                return composed(*args, **(kwargs or {}))
        with kernels_of(func):
            return func(*args, **(kwargs or {}))
