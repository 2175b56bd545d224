"""The precision of float32 matrix products and convolutions."""

__all__ = ["full_float32"]

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Turns TF32 and autocast off, for numbers that are called exact.

    TF32 keeps 10 bits of a float32 factor. cuDNN's convolutions use it unless told otherwise. The
    user's setting, which is one for all threads, is as before in the end.
    """
    cudnn: Any = torch.backends.cudnn
    switches: Any = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision
