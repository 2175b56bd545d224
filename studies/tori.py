"""Distributions of known density: mixtures on tori, embedded in R^D by a smooth map, with noise."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, VonMises

from pythae_fif.device import fork_rng
from pythae_fif.models.marginal_likelihood import MarginalLikelihood
from pythae_fif.models.priors import Condition, Generator, Prior

COMPONENTS = 3
CONCENTRATIONS = (2.0, 10.0)
"""Range of the concentrations of the von Mises distributions."""

HIDDEN = 64
"""Hidden units of the embedding."""

CURVATURE = 0.5
"""Size of the embedding's nonlinear part, relative to its linear part."""


class TorusMixture(Prior):
    """A mixture of products of von Mises distributions of d angles.

    Args:
        latent_dim: d.
        generator: Source of its parameters.
    """

    def __init__(self, latent_dim: int, generator: torch.Generator) -> None:
        shape = (COMPONENTS, latent_dim)
        options: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
        low, high = CONCENTRATIONS
        means = math.pi * (2 * torch.rand(shape, **options) - 1)
        concentrations = low + (high - low) * torch.rand(shape, **options)
        weights = 1 + torch.rand(COMPONENTS, **options)

        self.latent_dim = latent_dim
        self.mixture = MixtureSameFamily(
            Categorical(weights / weights.sum()), Independent(VonMises(means, concentrations), 1)
        )

    def log_prob(self, z: Tensor, condition: Condition = None) -> Tensor:
        """Computes the log-density of angles (..., d), in nats. Its period is 2 pi."""
        log_prob: Tensor = self.mixture.log_prob(z.double())
        return log_prob

    def sample(self, size: int, generator: Generator = None, condition: Condition = None) -> Tensor:
        """Draws angles, (n, d)."""
        with fork_rng():  # torch's distributions take no generator
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            angles: Tensor = self.mixture.sample((size,))
        return angles

    def moments(self, condition: Condition = None) -> tuple[Tensor, Tensor]:
        """Returns moments as wide as a period; angles have no mean that all agree on."""
        variance = math.pi**2 / 3 * torch.eye(self.latent_dim, dtype=torch.float64)
        return torch.zeros(self.latent_dim, dtype=torch.float64), variance


class TorusSample(NamedTuple):
    """Noisy points of an embedded torus.

    Attributes:
        points: Points (N, D), float32.
        angles: Angles of the points without noise, (N, d), float64.
    """

    points: Tensor
    angles: Tensor


class EmbeddedTorus:
    """A mixture on the torus T^d, embedded in R^D, with normal noise around it.

    The embedding is u -> A u + c B tanh(C u) with u = (cos t, sin t) in R^2d, where A has
    orthonormal columns.

    Args:
        latent_dim: d.
        dim: D, at least 2 d.
        noise: Standard deviation of the noise.
        seed: Seed of the mixture and of the embedding.

    Example:
        >>> torus = EmbeddedTorus(latent_dim=2, dim=16, noise=0.03)
        >>> sample = torus.sample(5, torch.Generator().manual_seed(0))
        >>> sample.points.shape, torus.log_prob(sample).shape
        (torch.Size([5, 16]), torch.Size([5]))
    """

    def __init__(self, latent_dim: int, dim: int, noise: float, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        options: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
        inputs = 2 * latent_dim
        self.noise = noise
        self.mixture = TorusMixture(latent_dim, generator)
        self._linear = torch.linalg.qr(torch.randn(dim, inputs, **options)).Q
        self._inner = torch.randn(HIDDEN, inputs, **options)
        self._outer = CURVATURE * torch.randn(dim, HIDDEN, **options) / math.sqrt(HIDDEN)

    def embed(self, angles: Tensor) -> Tensor:
        """Maps angles (..., d) to points on the embedded torus, (..., D)."""
        u = torch.cat([angles.cos(), angles.sin()], -1)
        return u @ self._linear.mT + (u @ self._inner.mT).tanh() @ self._outer.mT

    def sample(self, size: int, generator: torch.Generator) -> TorusSample:
        """Draws noisy points.

        Args:
            size: Number of points N.
            generator: Source of random numbers.
        """
        angles = self.mixture.sample(size, generator)
        clean = self.embed(angles)
        noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
        return TorusSample((clean + self.noise * noise).float(), angles)

    def log_prob(self, sample: TorusSample, samples: int = 100) -> Tensor:
        """Estimates the log-density of points in R^D, by importance sampling of their angles.

        Args:
            sample: The points and their angles.
            samples: Angles drawn for each point, from torch's global random state.

        Returns:
            Log-densities in nats, (N,).
        """
        likelihood = MarginalLikelihood(
            lambda angles, _: self.embed(angles),
            sample.points.double(),
            sample.angles,
            drawn_starts=0,
        )
        return likelihood.log_prob(self.mixture, self.noise, samples)
