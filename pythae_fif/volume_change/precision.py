"""The precision of float32 matrix products and convolutions."""

__all__ = ["allows_tf32", "at_least_float32", "full_float32"]

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Floating-point numbers of half precision in float32, others as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@contextmanager
def full_float32() -> Iterator[None]:
    """Turns TF32 and autocast off, for numbers that are called exact; the user's setting is as
    before in the end.

    TF32 keeps 10 bits of a float32 factor. cuDNN's convolutions use it unless told otherwise.

    Example:
        >>> torch.backends.cudnn.allow_tf32 = True
        >>> with full_float32():
        ...     torch.backends.cudnn.allow_tf32
        False
        >>> torch.backends.cudnn.allow_tf32
        True
    """
    _TF32_OFF.enter()
    try:
        with ExitStack() as stack:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        _TF32_OFF.leave()


class _TF32Off:
    """TF32 is off while a thread has entered; PyTorch's setting is one for all threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.restore: list[Callable[[], None]] = []

    def enter(self) -> None:
        with self.lock:
            if self.inside == 0:
                self.restore = _restorers()
            self.inside += 1
            for module, attribute, off in (*_switches("matmul"), *_switches("cudnn")):
                setattr(module, attribute, off)

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                for put_back in self.restore:
                    put_back()


_TF32_OFF = _TF32Off()


def allows_tf32() -> dict[str, bool]:
    """Whether the user's setting allows less than float32, in 'matmul' and in 'cudnn'."""
    return {
        name: any(getattr(module, attribute) != off for module, attribute, off in _switches(name))
        for name in ("matmul", "cudnn")
    }


# PyTorch has an old and, from 2.9 on, a new attribute. Where the user has written the new one, it
# raises RuntimeError if the old one is read; both can always be written.


def _modules(name: str) -> tuple[Any, list[Any]]:
    """Whose is the old attribute, and whose are the new ones."""
    if name == "matmul":
        return torch.backends.cuda.matmul, [torch.backends.cuda.matmul]
    cudnn: Any = torch.backends.cudnn
    return cudnn, [part for part in (getattr(cudnn, n, None) for n in ("conv", "rnn")) if part]


def _switches(name: str) -> list[tuple[Any, str, Any]]:
    """Module, attribute and value of what turns TF32 off in the way that the user has chosen."""
    old, new = _modules(name)
    try:
        _ = old.allow_tf32
    except RuntimeError:
        return [(module, "fp32_precision", "ieee") for module in new]
    return [(old, "allow_tf32", False)]


def _restorers() -> list[Callable[[], None]]:
    """What writes back all that can be read now, the old attributes first."""
    first: list[Callable[[], None]] = []
    then: list[Callable[[], None]] = []
    for name in ("matmul", "cudnn"):
        old, new = _modules(name)
        with suppress(RuntimeError):
            first.append(partial(setattr, old, "allow_tf32", old.allow_tf32))
            if name == "matmul":
                precision = torch.get_float32_matmul_precision()
                first.append(partial(torch.set_float32_matmul_precision, precision))
        for module in new:
            with suppress(AttributeError):
                value = module.fp32_precision
                then.append(partial(setattr, module, "fp32_precision", value))
    return first + then
