"""Pythae's RHVAE, with its metric in its state and without tensors of all pairs."""

from collections.abc import Mapping
from typing import Any

import torch
from pythae.models import RHVAE as PythaesRHVAE
from pythae.models import RHVAEConfig
from torch import Tensor


class RHVAE(PythaesRHVAE):
    r"""Pythae's Riemannian Hamiltonian VAE (Chadebec et al. 2022), the same model.

    Its inverse metric is that of Pythae,
    :math:`G^{-1}(z) = \sum_i M_i \exp(-\|c_i - z\|^2 / T^2) + \lambda I`, with a centroid
    :math:`c_i` for each of the last training images. The sum is here one matrix product in place
    of a tensor of size B N d^2. Matrices and centroids are part of its `state_dict`, so that a
    checkpoint has them. The arguments are those of Pythae's class, whose files are loaded, too.
    """

    config_class = RHVAEConfig

    def __init__(self, model_config: RHVAEConfig, *networks: Any, **more: Any) -> None:
        super().__init__(model_config, *networks, **more)
        # Before the first epoch is over: Pythae's metric up to the temperature.
        del self.M_tens, self.centroids_tens  # buffers, which go where the model goes
        self.register_buffer("M_tens", torch.eye(self.latent_dim)[None], persistent=False)
        self.register_buffer("centroids_tens", torch.zeros(1, self.latent_dim), persistent=False)
        self._metric_of_all()

    def _metric_of_all(self) -> None:
        self.G_inv, self.G = self._inverse_metric, self._metric  # methods: a copy has its own

    def _update_metric(self) -> None:
        super()._update_metric()
        self._metric_of_all()

    def _summed(self, z: Tensor, of: Tensor) -> Tensor:
        """The sum over i of exp(-|c_i - z|^2 / T^2) times the i-th of (N, d, n), (B, d, n)."""
        c = self.centroids_tens
        squares = z.square().sum(1, keepdim=True) + c.square().sum(1) - 2 * z @ c.T
        weights = torch.exp(-squares.clamp(min=0) / self.temperature**2)
        return (weights @ of.flatten(1)).view(-1, *of.shape[1:])

    def _metric(self, z: Tensor) -> Tensor:
        return torch.linalg.inv_ex(self._inverse_metric(z)).inverse  # waits for no check

    def _inverse_metric(self, z: Tensor) -> Tensor:
        return self._summed(z, self.M_tens) + self.lbd * torch.eye(self.latent_dim).to(z)

    def sampler_force(self, z: Tensor) -> Tensor:
        r"""What Pythae's sampler takes for the gradient of log sqrt det G^-1 at codes, (B, d, 1).

        It is :math:`G(z) \sum_i w_i M_i (c_i - z) / T^2`; the gradient would have a trace in it.
        The sampler's test of each step makes up for that.
        """
        d, matrices = self.latent_dim, self.M_tens
        both = torch.cat([matrices, matrices @ self.centroids_tens[..., None]], -1)
        summed, towards = self._summed(z, both).split([d, 1], -1)
        inverse = summed + self.lbd * torch.eye(d).to(z)
        solved: Tensor = torch.linalg.solve_ex(inverse, towards - summed @ z[..., None]).result
        return solved / self.temperature**2

    def get_extra_state(self) -> Tensor:
        """Matrices and centroids side by side, (N, d, d + 1)."""
        return torch.cat([self.M_tens, self.centroids_tens[..., None]], -1)

    def set_extra_state(self, state: Tensor) -> None:
        state = state.to(self.lbd)
        self.M_tens, self.centroids_tens = state[..., :-1], state[..., -1]
        self._metric_of_all()

    def load_state_dict(self, state_dict: Mapping[str, Any], *more: Any, **how: Any) -> Any:
        """PyTorch's; the metric stays where the weights come without, as in Pythae's files."""
        whole = {"_extra_state": self.get_extra_state(), **state_dict}
        return super().load_state_dict(whole, *more, **how)
