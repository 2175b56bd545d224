"""Toy data on known manifolds in two and three dimensions, with their densities."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pythae_fif.device import fork_rng

KAPPA = 2.0  # concentration of the von Mises circle
MAJOR, MINOR = 1.0, 0.4  # radii of the torus


class ToySample(NamedTuple):
    """Points (N, D), and their log-densities (N,) by length or area of the manifold, in nats."""

    points: Tensor
    log_density: Tensor


class ToyManifold(NamedTuple):
    """A distribution on a manifold: a line on it, dimensions of the space and of its own, and a
    function of a number of points and a generator that draws them without noise.

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
    return low + (high - low) * torch.rand(count, generator=generator)


def _on_circle(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], 1)


def _constant(points: Tensor, volume: float) -> ToySample:
    return ToySample(points, torch.full((len(points),), -math.log(volume)))


def _sinusoid(count: int, generator: torch.Generator) -> ToySample:
    x = torch.randn(count, generator=generator)
    slope = math.pi / 2 * torch.cos(math.pi * x / 2)
    normal = -x.square() / 2 - 0.5 * math.log(2 * math.pi)
    points = torch.stack([x, torch.sin(math.pi * x / 2)], 1)
    return ToySample(points, normal - 0.5 * torch.log1p(slope.square()))


def _two_moons(count: int, generator: torch.Generator) -> ToySample:
    arc = _on_circle(_uniform(count, 0, math.pi, generator))
    lower = torch.rand(count, 1, generator=generator) < 0.5
    points = torch.where(lower, torch.tensor([1.0, 0.5]) - arc, arc)
    return _constant(points, 2 * math.pi)


def _circle(count: int, generator: torch.Generator) -> ToySample:
    return _constant(_on_circle(_uniform(count, 0, 2 * math.pi, generator)), 2 * math.pi)


def _von_mises_circle(count: int, generator: torch.Generator) -> ToySample:
    with fork_rng():  # torch's distributions take no generator
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        distribution = torch.distributions.VonMises(torch.zeros(()), torch.tensor(KAPPA))
        angle = distribution.sample((count,))
    return ToySample(_on_circle(angle), distribution.log_prob(angle))


def _spiral(count: int, generator: torch.Generator) -> ToySample:
    """r = t / 10 in polar coordinates, so that its length element is sqrt(1 + t^2) dt / 10."""
    low, high = math.pi, 4 * math.pi
    t = _uniform(count, low, high, generator)
    speed = torch.sqrt(1 + t.square()) / 10
    return ToySample(t[:, None] / 10 * _on_circle(t), -math.log(high - low) - speed.log())


def _swiss_roll(count: int, generator: torch.Generator) -> ToySample:
    """The spiral, times a uniform height in [0, 2]."""
    flat, density = _spiral(count, generator)
    height = _uniform(count, 0, 2, generator)
    points = torch.stack([flat[:, 0], height - 1, flat[:, 1]], 1)
    return ToySample(points, density - math.log(2))


def _torus(count: int, generator: torch.Generator) -> ToySample:
    """Both angles uniform, so that the inner side is denser."""
    around, along = (_uniform(count, 0, 2 * math.pi, generator) for _ in range(2))
    radius = MAJOR + MINOR * around.cos()
    points = torch.cat([radius[:, None] * _on_circle(along), MINOR * around.sin()[:, None]], 1)
    return ToySample(points, -math.log(4 * math.pi**2) - torch.log(MINOR * radius))


def _sphere(count: int, generator: torch.Generator) -> ToySample:
    points = torch.randn(count, 3, generator=generator)
    return _constant(points / torch.linalg.vector_norm(points, dim=1, keepdim=True), 4 * math.pi)


TOY_DATA: dict[str, ToyManifold] = {
    "sinusoid": ToyManifold("y = sin(pi x / 2), x ~ N(0, 1)", 2, 1, _sinusoid),
    "two_moons": ToyManifold("two half circles, uniform", 2, 1, _two_moons),
    "circle": ToyManifold("the unit circle, uniform", 2, 1, _circle),
    "von_mises_circle": ToyManifold(
        f"the unit circle, von Mises with kappa {KAPPA:g}", 2, 1, _von_mises_circle
    ),
    "spiral": ToyManifold("a spiral of one and a half turns", 2, 1, _spiral),
    "swiss_roll": ToyManifold("the spiral times a height", 3, 2, _swiss_roll),
    "torus": ToyManifold(f"radii {MAJOR:g} and {MINOR:g}, uniform angles", 3, 2, _torus),
    "sphere": ToyManifold("the unit sphere, uniform", 3, 2, _sphere),
}
"""Name -> distribution on a manifold."""
