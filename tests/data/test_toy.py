"""Toy data: points are on their manifolds and have the stated density."""

import math

import pytest
import torch

from pythae_fif.data.toy import MAJOR, MINOR, TOY_DATA


def draw(name, count=20_000, seed=0):
    """Draws points of a toy data set, and their log-density."""
    return TOY_DATA[name].sample(count, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", TOY_DATA)
def test_shapes_and_seeds(name):
    points, log_density = draw(name, 100)
    assert points.shape == (100, TOY_DATA[name].dim)
    assert log_density.shape == (100,)
    assert points.isfinite().all() and log_density.isfinite().all()

    assert torch.equal(points, draw(name, 100)[0])
    assert not torch.equal(points, draw(name, 100, seed=1)[0])


def spiral_length(t: float) -> float:
    """Returns the length of the spiral r = t / 10 from its centre to t."""
    return (t * math.sqrt(1 + t * t) + math.asinh(t)) / 20


SPIRAL_LENGTH = spiral_length(4 * math.pi) - spiral_length(math.pi)


@pytest.mark.parametrize(
    "name, volume",
    [
        ("two_moons", 2 * math.pi),
        ("circle", 2 * math.pi),
        ("von_mises_circle", 2 * math.pi),
        ("spiral", SPIRAL_LENGTH),
        ("swiss_roll", 2 * SPIRAL_LENGTH),
        ("torus", 4 * math.pi**2 * MAJOR * MINOR),
        ("sphere", 4 * math.pi),
    ],
)
def test_density_integrates_to_the_volume(name, volume):
    """E_p[1 / p] is the length or area of the manifold: an importance estimate of it."""
    _, log_density = draw(name, 100_000)
    assert float((-log_density).exp().mean()) == pytest.approx(volume, rel=0.02)


def test_points_are_on_their_manifolds():
    torus, _ = draw("torus")
    distance_from_ring = torch.linalg.vector_norm(torus[:, :2], dim=1) - MAJOR
    squared_radius = distance_from_ring.square() + torus[:, 2].square()
    assert torch.allclose(squared_radius, torch.tensor(MINOR**2))

    sphere, _ = draw("sphere")
    assert torch.allclose(torch.linalg.vector_norm(sphere, dim=1), torch.ones(len(sphere)))

    sinusoid, _ = draw("sinusoid")
    assert torch.allclose(sinusoid[:, 1], torch.sin(math.pi * sinusoid[:, 0] / 2))

    roll, _ = draw("swiss_roll")
    assert roll[:, 1].abs().max() <= 1
