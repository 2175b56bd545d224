"""The forward pass of a training: a model on batches, on its device and in its precision."""

from typing import Any

import torch
from pythae.models import BaseAE
from pythae.models.base.base_utils import ModelOutput
from torch import Tensor

from pythae_fif.names import Precision
from pythae_fif.training.precision import networks_in_bfloat16


class ForwardPass:
    """Runs a model on batches, as Pythae's trainers do.

    In training mode the networks run in the chosen precision, in evaluation mode in float32.

    Args:
        model: The model, which is moved to the device.
        device: 'cpu' or 'cuda'.
        precision: Precision of the networks in training mode.
    """

    def __init__(self, model: BaseAE, device: str, precision: Precision) -> None:
        self._device = device
        self._uses_bfloat16 = precision == "bfloat16"
        # Convolutions in bfloat16 are up to a quarter faster with channels last, on a CPU.
        channels_last = self._uses_bfloat16 and all(w.dim() < 5 for w in model.parameters())
        self._layout = torch.channels_last if channels_last else torch.preserve_format

        self._model = model.to(device, memory_format=self._layout)
        self._model.device = device

    def __call__(
        self, inputs: Any, *, epoch: int, dataset_size: int, **progress: float
    ) -> ModelOutput:
        """Returns the model's output for a batch.

        Args:
            inputs: The batch, a dictionary with "data" (B, ...).
            epoch: Number of the pass over the training data, from 1.
            dataset_size: Number of data points in the data set of the batch.
            progress: `share_done`, the share of the training that is done, for batches of training.
        """
        uses_bfloat16 = self._uses_bfloat16 and self._model.training
        with networks_in_bfloat16(self._model, self._device, uses_bfloat16):
            return self._model(
                self._to_device(inputs),
                uses_ddp=False,
                epoch=epoch,
                dataset_size=dataset_size,
                **progress,
            )

    def _to_device(self, inputs: Any) -> dict[str, Any]:
        """Moves the tensors of a batch to the device and the memory layout of the training."""
        batch = {
            key: value.to(self._device) if isinstance(value, Tensor) else value
            for key, value in inputs.items()
        }
        if batch["data"].dim() == 4:
            batch["data"] = batch["data"].to(memory_format=self._layout)
        return batch
