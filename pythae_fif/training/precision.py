"""Networks in bfloat16, losses in float32; and memory that is kept for the next step."""

import ctypes
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from pythae.models.base.base_utils import ModelOutput
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt


@contextmanager
def networks_in_bfloat16(
    model: nn.Module, device_type: str, enabled: bool = True
) -> Iterator[None]:
    """Autocast for a model's networks and not its losses; nothing unless `enabled`.

    Autocast alone leaves what a network returns in bfloat16, and so losses: a KL divergence has two
    digits then, and MS-SSIM can be minus infinity. So networks return float32 here, and a part
    of the model without parameters is a loss and runs in float32.

    Example:
        >>> from pythae.models import VAE, VAEConfig
        >>> model = VAE(VAEConfig(input_dim=(1, 4, 4), latent_dim=2))
        >>> with networks_in_bfloat16(model, "cpu"):
        ...     model.encoder(torch.zeros(3, 1, 4, 4)).embedding.dtype
        torch.float32
    """

    def to_float32(_: nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return output.float() if output.dtype == torch.bfloat16 else output
        if isinstance(output, ModelOutput):
            for name, value in output.items():
                output[name] = to_float32(_, __, value)
        return output

    if not enabled:
        yield
        return
    switch = partial(torch.set_autocast_enabled, device_type)
    with ExitStack() as stack, torch.autocast(device_type, dtype=torch.bfloat16):
        if device_type == "cpu":
            stack.enter_context(_SeparateBias())
        for part in model.children():
            if next(part.parameters(), None) is not None:
                stack.enter_context(part.register_forward_hook(to_float32))
            else:
                enter = part.register_forward_pre_hook(lambda *_: switch(False))
                leave = part.register_forward_hook(lambda *_: switch(True), always_call=True)
                stack.enter_context(enter)
                stack.enter_context(leave)
        yield


class _SeparateBias(TorchFunctionMode):
    """Adds a transposed convolution's bias apart: with it oneDNN takes up to 6 times as long."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.conv_transpose2d and len(args) > 2 and args[2] is not None:
            x, weight, bias, *others = args
            output = func(x, weight, None, *others)
            return output + bias.to(output.dtype).view(-1, 1, 1)
        return func(*args, **(kwargs or {}))


def keep_freed_memory() -> None:
    """Tells the C library never to give memory back to the operating system, in this process.

    A step frees and allocates the same activations again; above 128 KiB each would come fresh
    from the system, page by page. Peak memory stays the same, memory between the peaks does not.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: None)
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)
