"""Further names of the methods of injective flows: Pythae's, and deprecated ones."""

from typing import Any

import torch
from pythae.models.base.base_utils import ModelOutput
from torch import Tensor
from typing_extensions import deprecated

from pythae_fif.models.marginal_likelihood import MARGINAL_SAMPLES
from pythae_fif.models.outputs import Labels
from pythae_fif.models.saved import SavedModel


class MethodAliases(SavedModel):
    """Further names of the methods of :class:`~pythae_fif.models.InjectiveFlow`."""

    def embed(self: Any, inputs: Any, labels: Labels = None) -> Tensor:
        """Pythae's name of :meth:`encode`; the result has a graph if gradients are enabled."""
        return self.encode(inputs, labels, gradients=torch.is_grad_enabled())

    def predict(self: Any, inputs: Any, labels: Labels = None) -> ModelOutput:
        """Returns ``embedding`` (B, d) and ``recon_x`` (B, ...); see :meth:`embed`."""
        z = self.embed(inputs, labels)
        x_hat = self.decode(z, labels, gradients=torch.is_grad_enabled())
        return ModelOutput(recon_x=x_hat, embedding=z)

    @deprecated("renamed to estimate_noise_std")
    def tube_scale(self: Any, data: Any, labels: Labels = None) -> float:
        """Deprecated name of :meth:`estimate_noise_std`."""
        return self.estimate_noise_std(data, labels)

    @deprecated("renamed to marginal_log_prob")
    def tube_log_prob(
        self: Any, x: Any, scale: float, labels: Labels = None, *, samples: int = MARGINAL_SAMPLES
    ) -> Tensor:
        """Deprecated name of :meth:`marginal_log_prob`."""
        return self.marginal_log_prob(x, scale, labels, samples=samples)

    @deprecated("renamed to marginal_likelihood")
    def tube(self: Any, x: Any, scale: float, labels: Labels = None) -> Any:
        """Deprecated name of :meth:`marginal_likelihood`."""
        return self.marginal_likelihood(x, scale, labels)
