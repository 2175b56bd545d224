"""Toy data on known manifolds in two and three dimensions, with their densities."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pythae_fif.device import fork_rng

KAPPA = 2.0  # concentration of the von Mises circle
MAJOR = 1.0  # radii of the torus
MINOR = 0.4


class ToySample(NamedTuple):
    """Points on a manifold and their density.

    Attributes:
        points: Points (N, D).
        log_density: Log-densities (N,) with respect to the manifold's length or area, in nats.
    """

    points: Tensor
    log_density: Tensor


class ToyManifold(NamedTuple):
    """A distribution on a manifold.

    Attributes:
        description: One line that describes it.
        dim: Dimension D of the space.
        latent_dim: Dimension of the manifold.
        sample: Draws a number of points without noise, from a generator.

    Example:
        >>> sphere = TOY_DATA["sphere"]
        >>> points, log_density = sphere.sample(100, torch.Generator().manual_seed(0))
        >>> points.shape, bool(torch.allclose(log_density.exp(), torch.tensor(1 / (4 * torch.pi))))
        (torch.Size([100, 3]), True)
    """

    description: str
    dim: int
    latent_dim: int
    sample: Callable[[int, torch.Generator], ToySample]


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Draws numbers from [low, high), (N,)."""
    return low + (high - low) * torch.rand(count, generator=generator)


def _on_circle(angle: Tensor) -> Tensor:
    """Returns the points of the unit circle at angles (N,), (N, 2)."""
    return torch.stack([angle.cos(), angle.sin()], 1)


def _constant(points: Tensor, volume: float) -> ToySample:
    """Returns points with the uniform density on a manifold of this volume."""
    return ToySample(points, torch.full((len(points),), -math.log(volume)))


def _sinusoid(count: int, generator: torch.Generator) -> ToySample:
    """Draws x from N(0, 1); the density is divided by the curve's length element."""
    x = torch.randn(count, generator=generator)
    slope = math.pi / 2 * torch.cos(math.pi * x / 2)
    normal = -x.square() / 2 - 0.5 * math.log(2 * math.pi)
    points = torch.stack([x, torch.sin(math.pi * x / 2)], 1)
    return ToySample(points, normal - 0.5 * torch.log1p(slope.square()))


def _two_moons(count: int, generator: torch.Generator) -> ToySample:
    """Draws from either half circle with equal probability."""
    arc = _on_circle(_uniform(count, 0, math.pi, generator))
    lower = torch.rand(count, 1, generator=generator) < 0.5
    points = torch.where(lower, torch.tensor([1.0, 0.5]) - arc, arc)
    return _constant(points, 2 * math.pi)


def _circle(count: int, generator: torch.Generator) -> ToySample:
    """Draws angles uniformly."""
    return _constant(_on_circle(_uniform(count, 0, 2 * math.pi, generator)), 2 * math.pi)


def _von_mises_circle(count: int, generator: torch.Generator) -> ToySample:
    """Draws angles from the von Mises distribution."""
    with fork_rng():  # torch's distributions take no generator
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        distribution = torch.distributions.VonMises(torch.zeros(()), torch.tensor(KAPPA))
        angle = distribution.sample((count,))
    return ToySample(_on_circle(angle), distribution.log_prob(angle))


def _spiral(count: int, generator: torch.Generator) -> ToySample:
    """Draws from the spiral r = t / 10, with length element sqrt(1 + t^2) dt / 10."""
    low = math.pi
    high = 4 * math.pi
    t = _uniform(count, low, high, generator)
    speed = torch.sqrt(1 + t.square()) / 10
    return ToySample(t[:, None] / 10 * _on_circle(t), -math.log(high - low) - speed.log())


def _swiss_roll(count: int, generator: torch.Generator) -> ToySample:
    """Draws from the spiral times a uniform height in [0, 2]."""
    flat, density = _spiral(count, generator)
    height = _uniform(count, 0, 2, generator)
    points = torch.stack([flat[:, 0], height - 1, flat[:, 1]], 1)
    return ToySample(points, density - math.log(2))


def _torus(count: int, generator: torch.Generator) -> ToySample:
    """Draws both angles uniformly, so that the inner side is denser."""
    tube_angle = _uniform(count, 0, 2 * math.pi, generator)
    ring_angle = _uniform(count, 0, 2 * math.pi, generator)
    radius = MAJOR + MINOR * tube_angle.cos()
    height = MINOR * tube_angle.sin()
    points = torch.cat([radius[:, None] * _on_circle(ring_angle), height[:, None]], 1)
    return ToySample(points, -math.log(4 * math.pi**2) - torch.log(MINOR * radius))


def _sphere(count: int, generator: torch.Generator) -> ToySample:
    """Normalises Gaussian vectors."""
    points = torch.randn(count, 3, generator=generator)
    return _constant(points / torch.linalg.vector_norm(points, dim=1, keepdim=True), 4 * math.pi)


TOY_DATA: dict[str, ToyManifold] = {
    "sinusoid": ToyManifold(
        description="y = sin(pi x / 2), x ~ N(0, 1)",
        dim=2,
        latent_dim=1,
        sample=_sinusoid,
    ),
    "two_moons": ToyManifold(
        description="two half circles, uniform",
        dim=2,
        latent_dim=1,
        sample=_two_moons,
    ),
    "circle": ToyManifold(
        description="the unit circle, uniform",
        dim=2,
        latent_dim=1,
        sample=_circle,
    ),
    "von_mises_circle": ToyManifold(
        description=f"the unit circle, von Mises with kappa {KAPPA:g}",
        dim=2,
        latent_dim=1,
        sample=_von_mises_circle,
    ),
    "spiral": ToyManifold(
        description="a spiral of one and a half turns",
        dim=2,
        latent_dim=1,
        sample=_spiral,
    ),
    "swiss_roll": ToyManifold(
        description="the spiral times a height",
        dim=3,
        latent_dim=2,
        sample=_swiss_roll,
    ),
    "torus": ToyManifold(
        description=f"radii {MAJOR:g} and {MINOR:g}, uniform angles",
        dim=3,
        latent_dim=2,
        sample=_torus,
    ),
    "sphere": ToyManifold(
        description="the unit sphere, uniform",
        dim=3,
        latent_dim=2,
        sample=_sphere,
    ),
}
"""Name -> distribution on a manifold."""
