"""Operations that are recorded as several operations, each of which has a rule."""

import math
from collections.abc import Callable
from functools import cache
from itertools import product
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pythae_fif.volume_change.kernels import gelu_with_slope
from pythae_fif.volume_change.rules import RULE_NAMES, find_functions


def _layer_norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """LayerNorm by the operation that also returns the statistics, which its rule uses."""
    return torch.native_layer_norm(input, normalized_shape, weight, bias, eps)[0]


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    """GroupNorm by the operation that also returns the statistics, which its rule uses."""
    samples, channels, *sides = input.shape
    return torch.native_group_norm(
        input.contiguous(), weight, bias, samples, channels, math.prod(sides), num_groups, eps
    )[0]


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
    """Scaled dot-product attention, as PyTorch's documentation defines it."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale

    scores = (query * scale) @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.dropout(scores.softmax(-1), dropout_p, True) @ value


def _gelu(input: Tensor, *, approximate: str = "none") -> Tensor:
    """GELU by the operation that also returns its slope, or its approximation by tanh."""
    if approximate == "none":
        return gelu_with_slope(input)[0]
    cubic = input + 0.044715 * input * input * input
    return 0.5 * input * (1 + torch.tanh(math.sqrt(2 / math.pi) * cubic))


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    """The first half times the sigmoid of the second half."""
    first, second = input.chunk(2, dim)
    return first * second.sigmoid()


def _add_product(
    input: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """The sum of a tensor and a product of matrices."""
    return beta * input + alpha * (left @ right)


def _add_elementwise_product(
    input: Tensor, left: Tensor, right: Tensor, *, value: float = 1
) -> Tensor:
    """The sum of a tensor and the product of two tensors of its shape."""
    return torch.add(input, left * right, alpha=value)


def _dropout(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Dropout as the product with a mask, which is the same for the value and its tangent."""

    def multiply_by_mask(input: Tensor, p: float, train: bool) -> Tensor:
        if not train or p == 0:
            return input
        return input * function(torch.ones_like(input), p, train)

    return multiply_by_mask


def _out_of_place(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function that computes what an operation in place writes, with its type."""
    return lambda target, *args, **kwargs: function(target, *args, **kwargs).to(target.dtype)


def _find_in_place_versions() -> dict[Any, Callable[..., Any]]:
    names = [name for pairs in RULE_NAMES.values() for _, names in pairs for name in names.split()]
    return {
        getattr(owner, name + "_"): _out_of_place(getattr(owner, name))
        for owner, name in product((torch, Tensor, F), names)
        if hasattr(owner, name + "_")
    }


IN_PLACE = _find_in_place_versions()
"""Operation that overwrites its first argument -> the same operation out of place."""

_COMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.layer_norm: _layer_norm,
    torch.group_norm: _group_norm,
    F.gelu: _gelu,
    F.glu: _glu,
    F.scaled_dot_product_attention: _attention,
    **dict.fromkeys(find_functions("addcmul"), _add_elementwise_product),
    **{function: _dropout(function) for function in (torch.dropout, torch.feature_dropout)},
    **dict.fromkeys(find_functions("addmm baddbmm"), _add_product),
}


@cache
def find_composition(operation: Any) -> Callable[..., Any] | None:
    """Returns a function with the same result, made of operations that have rules, or None.

    For the functions of PyTorch that are written in Python, such as
    `multi_head_attention_forward`, this is their own code.

    Args:
        operation: An operation without a rule.
    """
    if operation in _COMPOSITIONS:
        return _COMPOSITIONS[operation]
    code = getattr(operation, "__code__", None)
    if code is None or operation.__module__ not in ("torch.nn.functional", "torch.functional"):
        return None

    # The functions begin by asking whether someone records them, and would stop there.
    questions = [name for name in code.co_names if name.startswith("has_torch_function")]
    answers = dict.fromkeys(questions, lambda *_: False)
    body = FunctionType(code, operation.__globals__ | answers, None, operation.__defaults__)
    body.__kwdefaults__ = operation.__kwdefaults__
    return body if questions else None
