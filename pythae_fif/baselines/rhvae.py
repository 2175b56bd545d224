"""Pythae's RHVAE, with the metric in its state and without tensors of all pairs."""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic.dataclasses import dataclass
from pythae.models import RHVAE as PythaesRHVAE
from pythae.models import RHVAEConfig
from torch import Tensor
from typing_extensions import Self

from pythae_fif.models.saved import HubModel, require_trust


@dataclass
class SavedMetricRHVAEConfig(RHVAEConfig):
    """Pythae's configuration, with a name by which `AutoModel` finds our class."""


class RHVAE(HubModel, PythaesRHVAE):
    r"""Pythae's Riemannian Hamiltonian VAE (Chadebec et al. 2022), the same model.

    Its inverse metric is Pythae's,
    :math:`G^{-1}(z) = \sum_i M_i \exp(-\|c_i - z\|^2 / T^2) + \lambda I`, with a centroid
    :math:`c_i` for each of the last training images. Here the sum is one matrix product in place
    of a tensor of size B N d^2. Matrices and centroids are part of the `state_dict`, so that
    checkpoints contain them. :meth:`load_from_folder` also reads what Pythae's class saved;
    `AutoModel` loads that as Pythae's class.

    Args:
        model_config: Pythae's configuration.
        *networks: Further arguments of Pythae's class.
        **options: Further arguments of Pythae's class.
    """

    config_class = SavedMetricRHVAEConfig

    # Pythae assigns functions of its own to each model. They are ignored, so that the metric is
    # always the one of the buffers, in a copy, too.
    G = property(lambda self: self._metric, lambda self, function: None)
    G_inv = property(lambda self: self._inverse_metric, lambda self, function: None)

    def __init__(self, model_config: RHVAEConfig, *networks: Any, **options: Any) -> None:
        values = {key: value for key, value in model_config.to_dict().items() if key != "name"}
        super().__init__(SavedMetricRHVAEConfig(**values), *networks, **options)
        # Buffers move to a device with the model. Until the end of the first epoch the metric is
        # Pythae's up to the temperature.
        del self.M_tens, self.centroids_tens
        self.register_buffer("M_tens", torch.eye(self.latent_dim)[None], persistent=False)
        self.register_buffer("centroids_tens", torch.zeros(1, self.latent_dim), persistent=False)

    def _weighted_sum(self, z: Tensor, terms: Tensor) -> Tensor:
        """The sum over i of exp(-|c_i - z|^2 / T^2) and the i-th of N terms (d, n), (B, d, n)."""
        c = self.centroids_tens
        squared_distances = z.square().sum(1, keepdim=True) + c.square().sum(1) - 2 * z @ c.T
        weights = torch.exp(-squared_distances.clamp(min=0) / self.temperature**2)
        return (weights @ terms.flatten(1)).view(-1, *terms.shape[1:])

    def _metric(self, z: Tensor) -> Tensor:
        return torch.linalg.inv_ex(self._inverse_metric(z)).inverse  # `inv` waits for the device

    def _inverse_metric(self, z: Tensor) -> Tensor:
        return self._weighted_sum(z, self.M_tens) + self.lbd * torch.eye(self.latent_dim).to(z)

    def sampler_force(self, z: Tensor) -> Tensor:
        r"""Computes what Pythae's sampler uses as the gradient of log sqrt det G^-1.

        It is :math:`G(z) \sum_i w_i M_i (c_i - z) / T^2`. The true gradient would have a trace in
        it. The sampler accepts or rejects each step, which corrects for the difference.

        Args:
            z: Codes, (B, d).

        Returns:
            The force, (B, d, 1).
        """
        d = self.latent_dim
        matrices = self.M_tens
        matrix_centroids = matrices @ self.centroids_tens[..., None]
        terms = torch.cat([matrices, matrix_centroids], -1)
        matrix_sum, centroid_sum = self._weighted_sum(z, terms).split([d, 1], -1)

        inverse_metric = matrix_sum + self.lbd * torch.eye(d).to(z)
        difference = centroid_sum - matrix_sum @ z[..., None]
        return torch.linalg.solve_ex(inverse_metric, difference).result / self.temperature**2

    def get_extra_state(self) -> Tensor:
        """Returns matrices and centroids side by side, (N, d, d + 1)."""
        return torch.cat([self.M_tens, self.centroids_tens[..., None]], -1)

    def set_extra_state(self, state: Tensor) -> None:
        """Sets matrices and centroids from (N, d, d + 1)."""
        state = state.to(self.lbd)
        self.M_tens = state[..., :-1]
        self.centroids_tens = state[..., -1]

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Loads weights and metric; without a metric, as in Pythae's files, keeps the present one.

        Args:
            state_dict: Weights, with or without the metric.
            *args: Further arguments of PyTorch's method.
            **kwargs: Further arguments of PyTorch's method.
        """
        full_state = {"_extra_state": self.get_extra_state(), **state_dict}
        return super().load_state_dict(full_state, *args, **kwargs)

    @classmethod
    def load_from_folder(cls, dir_path: str, trust: bool = False) -> Self:
        """Loads a model that this class or Pythae's class saved.

        Args:
            dir_path (str): The folder.
            trust (bool): Whether pickled networks may be opened. Open only those of people you
                trust.

        Returns:
            The model.

        Raises:
            ConfigError: A network is an untrusted pickle.
        """
        require_trust(dir_path, trust)
        return super().load_from_folder(dir_path)
