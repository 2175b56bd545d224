"""Flow matching of a table's rows by Meta's library: what a user might take in place of a FIF."""

from typing import Any

import torch
from pythae.models.base.base_utils import ModelOutput
from torch import Tensor, nn

from pythae_fif.errors import importing
from pythae_fif.nn.tabular import TabularEncoder
from pythae_fif.volume_change import squared_error

STEPS = 50
"""Of the midpoint rule, by which a sample takes twice as many evaluations of the net."""


class FlowMatching(nn.Module):
    """A flow of D dimensions on straight paths from noise to data (Lipman et al. 2023).

    It has no codes of fewer dimensions, and no density on a manifold.

    Args:
        input_dim: Shape (D,) of a row.
        hidden_dim: Width of the net of the velocity, which is of the kind of FIF's encoder.
    """

    def __init__(self, input_dim: tuple[int, ...], hidden_dim: int) -> None:
        super().__init__()
        with importing("flow-matching", "model flow_matching"):
            from flow_matching.path import CondOTProbPath
            from flow_matching.solver import ODESolver
        (self.dim,) = input_dim
        self.net = TabularEncoder((self.dim + 1,), self.dim, hidden_dim, nn.SiLU)
        self.path, self.solver = CondOTProbPath(), ODESolver(self._velocity)

    def forward(self, inputs: Any) -> ModelOutput:
        """The squared error of the velocity at a random time of each row's path, as `nll_loss`."""
        x = inputs["data"]
        at = self.path.sample(x_0=torch.randn_like(x), x_1=x, t=torch.rand(len(x)))
        loss = squared_error(self._velocity(at.x_t, at.t), at.dx_t).mean()
        return ModelOutput(nll_loss=loss, recon_loss=torch.zeros(()))

    def sample(self, num_samples: int) -> Tensor:
        """Rows, (n, D)."""
        noise, step = torch.randn(num_samples, self.dim), 1 / STEPS
        return self.solver.sample(noise, step_size=step, method="midpoint")

    def _velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(torch.cat([x, t.expand(len(x))[:, None]], 1)).embedding
