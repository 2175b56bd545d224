"""`beta="auto"`: a weight of the reconstruction error that follows the error itself."""

from typing import Any

import torch
from torch import Tensor

from pythae_fif.errors import ConfigError

START = 10.0
MAX_FALL = 0.9
"""Smallest factor from one epoch to the next."""
MAX_RISE = 2.0
"""Largest factor from one epoch to the next."""
MAX_BETA = 1e6
"""Largest value. Without noise, an exact reconstruction asks for infinity."""


class AdaptiveBeta:
    """Moves beta towards (D - d) / (2 E), for the mean squared error E of an epoch.

    This is the fixed point of probabilistic PCA. Beta falls slowly: a large beta does no harm,
    because the model then trains as an autoencoder first, but with a small one it may never learn
    to reconstruct, and its error then keeps beta small. The errors of the first epochs are those of
    an untrained model.

    The value and the errors of the present epoch are buffers of the model, `beta` and `errors`, so
    that they are saved with the weights under these names.

    Args:
        model: The model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        model.register_buffer("beta", torch.tensor(START))
        # The sum of squared errors over D - d, and the number of data points.
        model.register_buffer("errors", torch.zeros(2))

    @property
    def value(self) -> Tensor:
        """The present value of beta, ()."""
        beta: Tensor = self._model.beta
        return beta

    def record(self, reconstruction: Tensor, x: Tensor) -> None:
        """Adds a batch to the errors of the epoch.

        Args:
            reconstruction: The mean squared error of the batch, ().
            x: The batch, (B, ...).

        Raises:
            ConfigError: d = D, so that no dimension is left for an error.
        """
        codimension = x[0].numel() - self._model.latent_dim
        if codimension == 0:
            raise ConfigError(
                f"{self._model.model_name}: beta='auto' needs a latent_dim below {x[0].numel()}, "
                "the dimension of the data"
            )
        error = reconstruction.detach() / codimension
        self._model.errors += len(x) * torch.stack([error, torch.ones_like(error)])

    def end_epoch(self) -> None:
        """Moves beta by the errors of the epoch, which begin anew."""
        error_sum, count = self._model.errors
        if count > 0:
            target = count / (2 * error_sum)  # infinite for an exact reconstruction
            target = target.clamp(MAX_FALL * self.value, MAX_RISE * self.value)
            self.value.copy_(target.clamp(max=MAX_BETA))
        self._model.errors.zero_()
