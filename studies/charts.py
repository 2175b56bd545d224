"""Distributions of known density: codes on a manifold with one chart, and noise around it."""

import math
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Gumbel,
    Independent,
    MixtureSameFamily,
    Normal,
)

from pythae_fif.device import fork_rng
from pythae_fif.models.marginal_likelihood import MarginalLikelihood
from pythae_fif.models.priors import Condition, Generator, Prior

CodeName = Literal["normal", "skewed", "bimodal"]
CODE_NAMES: tuple[CodeName, ...] = get_args(CodeName)

NOISE_STD = 0.2
"""Standard deviation of the noise in each of the D dimensions."""
BEND = 0.5
"""Size of the bend. The variance of all coordinates of h is then about a tenth of the codes'."""
HIDDEN = 16
"""Hidden units of the bend."""
PEAK = 0.95
"""Distance of the two peaks of bimodal codes from 0."""


class ChartCodes(Prior):
    """A distribution of d independent codes, each of mean 0 and variance 1.

    Args:
        name: 'normal', 'skewed' (all codes have Gumbel distributions), or 'bimodal' (the first is a
            mixture of two Gaussians, the others are normal).
        latent_dim: d.
    """

    def __init__(self, name: CodeName, latent_dim: int) -> None:
        zeros = torch.zeros(latent_dim, dtype=torch.float64)
        self.latent_dim = latent_dim
        self.distribution: Distribution = Independent(Normal(zeros, zeros + 1), 1)
        if name == "skewed":
            scale = math.sqrt(6) / math.pi
            self.distribution = Independent(Gumbel(zeros - np.euler_gamma * scale, scale), 1)
        if name == "bimodal":
            means = torch.stack([zeros, zeros])
            means[:, 0] = torch.tensor([-PEAK, PEAK])
            deviations = torch.ones_like(means)
            deviations[:, 0] = math.sqrt(1 - PEAK**2)
            peaks = Independent(Normal(means, deviations), 1)
            self.distribution = MixtureSameFamily(Categorical(torch.ones(2)), peaks)

    def log_prob(self, z: Tensor, condition: Condition = None) -> Tensor:
        """Computes the log-density of codes (..., d), in nats."""
        log_prob: Tensor = self.distribution.log_prob(z.double())
        return log_prob

    def sample(self, size: int, generator: Generator = None, condition: Condition = None) -> Tensor:
        """Draws codes, (n, d)."""
        with fork_rng():  # torch's distributions take no generator
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            codes: Tensor = self.distribution.sample((size,))
        return codes

    def moments(self, condition: Condition = None) -> tuple[Tensor, Tensor]:
        """Returns mean (d,) and covariance (d, d), which are 0 and I."""
        identity = torch.eye(self.latent_dim, dtype=torch.float64)
        return torch.zeros_like(identity[0]), identity


class ChartSample(NamedTuple):
    """Noisy points of a manifold.

    Attributes:
        points: Points (N, D), float32.
        codes: Codes of the points without noise, (N, d), float64.
    """

    points: Tensor
    codes: Tensor


class Chart:
    """Codes z on the manifold x = (z, h(z)) Q in R^D, with normal noise around it.

    Q is orthogonal, and h(z) = tanh(z A) B with random matrices. Each point of the manifold has one
    code, so that an autoencoder of d codes can represent it without a seam.

    Args:
        codes: Name of the codes' distribution.
        latent_dim: d.
        dim: D, above d.
        seed: Seed of the manifold.

    Example:
        >>> chart = Chart("skewed", latent_dim=2, dim=16, seed=0)
        >>> sample = chart.sample(5, torch.Generator().manual_seed(0))
        >>> sample.points.shape, chart.log_prob(sample).shape
        (torch.Size([5, 16]), torch.Size([5]))
    """

    def __init__(self, codes: CodeName, latent_dim: int, dim: int, seed: int) -> None:
        options: dict[str, Any] = {
            "generator": torch.Generator().manual_seed(seed),
            "dtype": torch.float64,
        }
        bent_dims = dim - latent_dim
        outer_scale = BEND * math.sqrt(latent_dim / (bent_dims * HIDDEN))
        self.codes = ChartCodes(codes, latent_dim)
        self._inner = torch.randn(latent_dim, HIDDEN, **options) / math.sqrt(latent_dim)
        self._outer = torch.randn(HIDDEN, bent_dims, **options) * outer_scale
        self._rotation = torch.linalg.qr(torch.randn(dim, dim, **options)).Q

    def embed(self, codes: Tensor) -> Tensor:
        """Maps codes (..., d) to points on the manifold, (..., D)."""
        bent = (codes @ self._inner).tanh() @ self._outer
        return torch.cat([codes, bent], -1) @ self._rotation

    def sample(self, size: int, generator: torch.Generator) -> ChartSample:
        """Draws noisy points.

        Args:
            size: Number of points N.
            generator: Source of random numbers.
        """
        codes = self.codes.sample(size, generator)
        clean = self.embed(codes)
        noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
        return ChartSample((clean + NOISE_STD * noise).float(), codes)

    def log_prob(self, sample: ChartSample, samples: int = 100) -> Tensor:
        """Estimates the log-density of points in R^D, by importance sampling of their codes.

        Args:
            sample: The points and their codes.
            samples: Codes drawn for each point, from torch's global random state.

        Returns:
            Log-densities in nats, (N,).
        """
        likelihood = MarginalLikelihood(
            lambda codes, _: self.embed(codes), sample.points.double(), sample.codes, drawn_starts=0
        )
        return likelihood.log_prob(self.codes, NOISE_STD, samples)
