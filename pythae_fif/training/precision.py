"""The forward pass of a training in its precision, and memory that is kept for the next step."""

import ctypes
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from pythae.models import BaseAE
from pythae.models.base.base_utils import ModelOutput
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pythae_fif.names import Precision
from pythae_fif.training.traced_step import TracedStep

# Options of glibc's `mallopt`.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


class ForwardPass:
    """Runs a model on batches, as Pythae's trainers do.

    In training mode the networks run in the chosen precision, in evaluation mode in float32.

    Args:
        model: The model, which is moved to the device.
        device: 'cpu' or 'cuda'.
        precision: Precision of the networks in training mode.
        trace: Whether training steps may run as a graph.
        total_steps: Number of training steps; None if it is not known.

    Attributes:
        has_used_graph: Whether a training step ran as a graph.
    """

    def __init__(
        self,
        model: BaseAE,
        device: str,
        precision: Precision,
        *,
        trace: bool,
        total_steps: int | None = None,
    ) -> None:
        self.has_used_graph = False
        self._device = device
        self._uses_bfloat16 = precision == "bfloat16"
        # Convolutions in bfloat16 are up to a quarter faster with channels last, on a CPU.
        channels_last = self._uses_bfloat16 and all(w.dim() < 5 for w in model.parameters())
        self._layout = torch.channels_last if channels_last else torch.preserve_format

        self._model = model.to(device, memory_format=self._layout)
        self._model.device = device
        self._traced_step = None
        if trace:
            self._traced_step = TracedStep(self._model, total_steps=total_steps)

    def __call__(
        self, inputs: Any, *, epoch: int, dataset_size: int, **progress: float
    ) -> ModelOutput:
        """Returns the model's output for a batch.

        Args:
            inputs: The batch, a dictionary with "data" (B, ...).
            epoch: Number of the pass over the training data, from 1.
            dataset_size: Number of data points in the data set of the batch.
            progress: `share_done`, the share of the training that is done, for batches of training,
                and `position`, the number of earlier data points, for batches of evaluation.
        """
        uses_bfloat16 = self._uses_bfloat16 and self._model.training
        with networks_in_bfloat16(self._model, self._device, uses_bfloat16):
            step = self._traced_step or self._model
            output = step(
                self._to_device(inputs),
                uses_ddp=False,
                epoch=epoch,
                dataset_size=dataset_size,
                **progress,
            )
        if self._traced_step is not None:
            self.has_used_graph |= self._traced_step.uses_graph
        return output

    def _to_device(self, inputs: Any) -> dict[str, Any]:
        """Moves the tensors of a batch to the device and the memory layout of the training."""
        batch = {
            key: value.to(self._device) if isinstance(value, Tensor) else value
            for key, value in inputs.items()
        }
        if batch["data"].dim() == 4:
            batch["data"] = batch["data"].to(memory_format=self._layout)
        return batch


@contextmanager
def networks_in_bfloat16(
    model: nn.Module, device_type: str, enabled: bool = True
) -> Iterator[None]:
    """Runs a model's networks in bfloat16 by autocast, and its losses in float32.

    Autocast by itself leaves a network's outputs, and so the losses, in bfloat16: a KL divergence
    then has two digits, and MS-SSIM can be minus infinity. So here the outputs of networks are
    converted to float32, and a part of the model without parameters is taken to be a loss and runs
    in float32.

    Args:
        model: The model; its children are networks and losses.
        device_type: 'cpu' or 'cuda'.
        enabled: False leaves everything as it is.

    Example:
        >>> from pythae.models import VAE, VAEConfig
        >>> model = VAE(VAEConfig(input_dim=(1, 4, 4), latent_dim=2))
        >>> with networks_in_bfloat16(model, "cpu"):
        ...     model.encoder(torch.zeros(3, 1, 4, 4)).embedding.dtype
        torch.float32
    """
    if not enabled:
        yield
        return

    set_autocast = partial(torch.set_autocast_enabled, device_type)
    with ExitStack() as stack, torch.autocast(device_type, dtype=torch.bfloat16):
        if device_type == "cpu":
            stack.enter_context(_SeparateBias())
        for part in model.children():
            if next(part.parameters(), None) is not None:
                stack.enter_context(part.register_forward_hook(_outputs_to_float32))
            else:
                stack.enter_context(part.register_forward_pre_hook(lambda *_: set_autocast(False)))
                stack.enter_context(
                    part.register_forward_hook(lambda *_: set_autocast(True), always_call=True)
                )
        yield


def _outputs_to_float32(network: nn.Module, inputs: Any, output: Any) -> Any:
    """Converts the bfloat16 tensors that a network returns, as a forward hook."""
    if isinstance(output, Tensor):
        return output.float() if output.dtype == torch.bfloat16 else output

    if isinstance(output, ModelOutput):
        for name, value in output.items():
            output[name] = _outputs_to_float32(network, inputs, value)
    return output


class _SeparateBias(TorchFunctionMode):
    """Adds the bias of a transposed convolution in a separate operation.

    With the bias as an argument, oneDNN takes up to 6 times as long.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.conv_transpose2d and len(args) > 2 and args[2] is not None:
            x, weight, bias, *options = args
            output = func(x, weight, None, *options)
            return output + bias.to(output.dtype).view(-1, 1, 1)

        return func(*args, **(kwargs or {}))


def keep_freed_memory() -> None:
    """Makes the C library of this process keep freed memory, for the next step to use.

    A step frees and allocates the same activations again, and each above 128 KiB would come fresh
    from the operating system, page by page. The peak of memory stays the same; between the peaks
    the process holds more.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: None)
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)
