"""The precision of float32 matrix products and convolutions."""

__all__ = ["allows_tf32", "at_least_float32", "full_float32"]

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Floating-point numbers of half precision in float32, others as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@contextmanager
def full_float32() -> Iterator[None]:
    """Turns TF32 and autocast off, for numbers that are called exact.

    TF32 keeps 10 bits of a float32 factor. cuDNN's convolutions use it unless told otherwise. The
    user's setting is as before in the end; it is one for all threads.

    Example:
        >>> with full_float32():
        ...     allows_tf32()
        {'matmul': False, 'cudnn': False}
    """
    before = [(switch, attribute, getattr(switch, attribute)) for switch, attribute in _switches()]
    try:
        for switch, attribute in _switches():
            setattr(switch, attribute, _OFF[attribute])
        with ExitStack() as stack:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        for switch, attribute, value in before:
            setattr(switch, attribute, value)


def allows_tf32() -> dict[str, bool]:
    """Whether the user's setting allows less than float32, in 'matmul' and in 'cudnn'."""
    allowed = [getattr(switch, name) not in (_OFF[name], "none") for switch, name in _switches()]
    return {"matmul": allowed[0], "cudnn": any(allowed[1:])}


_OFF: dict[str, Any] = {"fp32_precision": "ieee", "allow_tf32": False}


def _switches() -> list[tuple[Any, str]]:
    """Those of products first. From PyTorch 2.9 on they have another name."""
    products: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    if hasattr(products, "fp32_precision"):
        return [(switch, "fp32_precision") for switch in (products, cudnn.conv, cudnn.rnn)]
    return [(products, "allow_tf32"), (cudnn, "allow_tf32")]
