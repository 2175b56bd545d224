"""Toy data: points lie on their manifolds, with the density that is stated."""

import math

import pytest
import torch

from pythae_fif.data.toy import MAJOR, MINOR, TOY_DATA


def draw(name, count=20_000, seed=0):
    return TOY_DATA[name].sample(count, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", TOY_DATA)
def test_contract(name):
    points, log_density = draw(name, 100)
    assert points.shape == (100, TOY_DATA[name].dim)
    assert log_density.shape == (100,)
    assert points.isfinite().all() and log_density.isfinite().all()
    assert torch.equal(points, draw(name, 100)[0])
    assert not torch.equal(points, draw(name, 100, seed=1)[0])


@pytest.mark.parametrize(
    "name, length",
    [
        ("two_moons", 2 * math.pi),
        ("circle", 2 * math.pi),
        ("von_mises_circle", 2 * math.pi),
        ("spiral", None),
        ("swiss_roll", None),
        ("torus", 4 * math.pi**2 * MAJOR * MINOR),
        ("sphere", 4 * math.pi),
    ],
)
def test_density_integrates_to_the_volume(name, length):
    """E_p[1 / p] is the length or area of the manifold: an importance estimate of it."""
    if length is None:
        low, high = math.pi, 4 * math.pi
        length = sum((t * math.sqrt(1 + t * t) + math.asinh(t)) / 20 * s
                     for t, s in ((high, 1), (low, -1)))  # fmt: skip
        length *= 2 if name == "swiss_roll" else 1
    density = draw(name, 100_000)[1]
    assert float((-density).exp().mean()) == pytest.approx(length, rel=0.02)


def test_shapes():
    torus = draw("torus")[0]
    ring = torch.linalg.vector_norm(torus[:, :2], dim=1) - MAJOR
    assert torch.allclose(ring.square() + torus[:, 2].square(), torch.tensor(MINOR**2))
    sphere = draw("sphere")[0]
    assert torch.allclose(torch.linalg.vector_norm(sphere, dim=1), torch.ones(len(sphere)))
    sinusoid = draw("sinusoid")[0]
    assert torch.allclose(sinusoid[:, 1], torch.sin(math.pi * sinusoid[:, 0] / 2))
    roll = draw("swiss_roll")[0]
    assert roll[:, 1].abs().max() <= 1
