"""The study of when joint training pays: its data's density, its verdicts, and its models."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from studies import when
from studies.tori import EmbeddedTorus
from studies.when import TorusModel, compare_pairs

NOISE = 0.03


def test_density_of_a_circle_is_the_integral_over_its_angle():
    torus = EmbeddedTorus(latent_dim=1, dim=16, noise=NOISE)
    sample = torus.sample(50, torch.Generator().manual_seed(0))
    angles = torch.linspace(-math.pi, math.pi, 5_001, dtype=torch.float64)[:-1, None]
    squared_distances = torch.cdist(sample.points.double(), torus.embed(angles)).square()
    log_noise = -squared_distances / (2 * NOISE**2) - 8 * math.log(2 * math.pi * NOISE**2)
    log_joint = log_noise + torus.mixture.log_prob(angles)
    expected = log_joint.logsumexp(1) + math.log(2 * math.pi / len(angles))

    torch.manual_seed(0)
    torch.testing.assert_close(torus.log_prob(sample), expected, atol=0.05, rtol=0)


@pytest.mark.parametrize("latent_dim", [1, 4])
def test_same_seed_gives_the_same_distribution(latent_dim):
    samples = [
        EmbeddedTorus(latent_dim, 16, NOISE).sample(50, torch.Generator().manual_seed(1))
        for _ in range(2)
    ]
    assert torch.equal(samples[0].points, samples[1].points)
    other = EmbeddedTorus(latent_dim, 16, NOISE, seed=1)
    assert not torch.equal(other.embed(samples[0].angles), samples[0].points.double())


@pytest.mark.parametrize("model", ["fif", "fif_true_noise", "wae_10", "vae"])
def test_a_model_is_trained_and_measured(model, monkeypatch):
    monkeypatch.setattr(when, "FITTED_PRIORS", ("mixture",))  # a flow takes ten times as long
    monkeypatch.setattr(when, "TEST_POINTS", 200)
    monkeypatch.setattr(when, "FIRST_STEPS", 4)
    monkeypatch.setattr(when, "TIMED_STEPS", 20)
    spec = TorusModel(model=model, latent_dim=1, dim=16, points=200, seconds=0.2, seed=0)
    result = spec.compute(lambda share: None)
    assert result.kl.keys() == {"normal", "fitted"}
    assert all(value > 0 for value in result.kl.values())
    assert 1 <= result.best_epoch <= result.epochs


def make_rows(gains, *, seeds=5):
    """Rows of two FIFs, AE and VAE for cells (d, D, n), for both priors.

    FIF gains on AE, and FIF with the true noise on VAE, the given numbers of nats on average.
    """
    rng = np.random.default_rng(0)
    rows = []
    for (d, dim, n), gain in gains.items():
        for seed in range(seeds):
            ae_noise, fif_noise = 0.01 * rng.standard_normal(2)
            kl = {
                "fif": 1.0,
                "fif_true_noise": 9.0 - gain + fif_noise,
                "ae": 1.0 + gain + ae_noise,
                "vae": 9.0,
            }
            rows += [
                {"d": d, "D": dim, "n": n, "seed": seed, "model": m, "prior": prior, "kl": value}
                for m, value in kl.items()
                for prior in ("normal", "fitted")
            ]
    return pd.DataFrame(rows)


def test_each_torus_counts_once():
    rows = make_rows({(1, 16, 500): 0.5, (1, 16, 2_000): -0.5, (4, 16, 500): 0.0})
    further = [rows[rows["model"] == "vae"].assign(model=name) for name in ("wae_10", "wae_100")]
    compared = compare_pairs(pd.concat([rows, *further])).set_index(["fif", "rival", "prior"])
    ae = compared.loc["fif", "ae", "normal"]
    by_torus = [(math.log(1.5) + math.log(0.5)) / 2, 0]
    assert ae["ratio"] == pytest.approx(math.exp(-np.mean(by_torus)), abs=0.03)
    assert compared.loc["fif", "vae", "fitted"]["lower"] == "3 of 3"
