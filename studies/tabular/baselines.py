"""Models of tabular data that injective flows are compared with: flow matching and Gaussians."""

from typing import Any

import torch
from pythae.models.base.base_utils import ModelOutput
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal

from pythae_fif.errors import requires_extra
from pythae_fif.nn.tabular import TabularEncoder
from pythae_fif.volume_change import squared_error

FLOW_STEPS = 50
"""Steps of the midpoint rule; a sample takes twice as many evaluations of the net."""


class FlowMatching(nn.Module):
    """A flow of D dimensions on straight paths from noise to data (Lipman et al. 2023).

    It has no codes of fewer dimensions, and no density on a manifold.

    Args:
        input_dim: Shape (D,) of a row.
        hidden_dim: Width of the velocity's net, which has the architecture of FIF's encoder.
    """

    def __init__(self, input_dim: tuple[int, ...], hidden_dim: int) -> None:
        super().__init__()
        with requires_extra("flow-matching", "model flow_matching"):
            from flow_matching.path import CondOTProbPath
            from flow_matching.solver import ODESolver
        (self.dim,) = input_dim
        self.net = TabularEncoder((self.dim + 1,), self.dim, hidden_dim, nn.SiLU)
        self.path = CondOTProbPath()
        self.solver = ODESolver(self._velocity)

    def forward(self, inputs: Any, **kwargs: Any) -> ModelOutput:
        """Computes the velocity's squared error at a random time of each row, as `loss`."""
        x = inputs["data"]
        sample = self.path.sample(x_0=torch.randn_like(x), x_1=x, t=torch.rand(len(x)))
        loss = squared_error(self._velocity(sample.x_t, sample.t), sample.dx_t).mean()
        return ModelOutput(loss=loss)

    def sample(self, num_samples: int) -> Tensor:
        """Draws rows, (num_samples, D)."""
        return self.solver.sample(
            torch.randn(num_samples, self.dim), step_size=1 / FLOW_STEPS, method="midpoint"
        )

    def log_prob(self, x: Tensor) -> Tensor:
        """Computes log-densities of rows (B, D) in nats, (B,), with the exact divergence."""
        base = Independent(Normal(torch.zeros(self.dim), torch.ones(self.dim)), 1)
        _, log_prob = self.solver.compute_likelihood(
            x, base.log_prob, 1 / FLOW_STEPS, "midpoint", exact_divergence=True
        )
        return log_prob

    def _velocity(self, x: Tensor, t: Tensor) -> Tensor:
        times = t.expand(len(x))[:, None]
        return self.net(torch.cat([x, times], 1)).embedding


class LinearGaussian:
    """Probabilistic PCA (Tipping and Bishop 1999): a Gaussian, fitted by maximum likelihood.

    With D components it has the full covariance of the rows.

    Args:
        components: Directions d with a variance for each; all others share one variance.
    """

    def __init__(self, components: int) -> None:
        self.pca = PCA(components)

    def fit(self, rows: Tensor) -> None:
        """Fits the mean and covariance of rows, (N, D)."""
        self.pca.fit(rows.double().numpy())
        mean = torch.from_numpy(self.pca.mean_)
        self.gaussian = MultivariateNormal(mean, torch.from_numpy(self.pca.get_covariance()))

    def sample(self, num_samples: int) -> Tensor:
        """Draws rows, (num_samples, D), with the noise around the directions."""
        return self.gaussian.sample((num_samples,)).float()

    def log_prob(self, x: Tensor) -> Tensor:
        """Computes log-densities of rows (B, D) in nats, (B,)."""
        return self.gaussian.log_prob(x.double())

    def reconstruct(self, x: Tensor) -> Tensor:
        """Projects rows (B, D) to the span of the directions."""
        projection = self.pca.inverse_transform(self.pca.transform(x.double().numpy()))
        return torch.from_numpy(projection).float()
