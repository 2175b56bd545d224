"""The study of when joint training pays: its data's density, its verdicts, and its models."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from studies import when
from studies.tori import EmbeddedTorus
from studies.when import (
    TorusModel,
    compare_cells,
    count_by_rival,
    describe_trainings,
    describe_true_noise,
    judge_hypotheses,
)

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


def test_verdicts_follow_the_paired_test_against_the_best_rival():
    gains = {(1, 16, 500): 0.5, (1, 16, 10_000): -0.5, (4, 16, 500): 0.0}
    rows = make_rows(gains)
    cells = compare_cells(rows[rows["model"] != "fif_true_noise"], "fif", "normal")
    assert list(cells["rival"]) == ["ae"] * 3
    assert list(cells["verdict"]) == ["wins", "loses", "undecided"]


@pytest.mark.parametrize(
    ("gains", "is_confirmed"),
    [
        (
            {(1, 16, 500): 0.5, (1, 16, 2_000): -0.5, (4, 16, 2_000): 0.5},
            (True, True, False),
        ),
        (
            {(1, 16, 500): 0.5, (1, 16, 2_000): 0.5, (4, 16, 2_000): 0.5},
            (True, False, True),
        ),
        ({(1, 16, 500): -0.5, (1, 16, 2_000): -0.5}, (False, False, False)),
    ],
)
def test_hypotheses_are_judged_as_written(gains, is_confirmed):
    rows = make_rows(gains)
    compared = rows[rows["model"] != "fif_true_noise"]
    cells = pd.concat([compare_cells(compared, "fif", prior) for prior in ("normal", "fitted")])
    sentences = judge_hypotheses(cells.reset_index(drop=True), rows)
    for sentence, name, confirmed in zip(sentences, "ABC", is_confirmed, strict=True):
        verdict = "is confirmed" if confirmed else "is not confirmed"
        assert sentence.startswith(f"Hypothesis {name} {verdict}:")


def test_data_sets_are_counted_for_each_rival():
    rows = make_rows({(1, 16, 500): 0.5, (1, 16, 2_000): -0.5, (4, 16, 500): 0.0})
    is_vae = rows["model"] == "vae"
    rows.loc[is_vae, "kl"] += rows.loc[is_vae, "seed"]  # a test needs differences that vary
    further = [rows[is_vae].assign(model=name) for name in ("wae_10", "wae_100")]
    counts = count_by_rival(pd.concat([rows, *further])).set_index(["model", "prior", "rival"])
    counts = counts.loc['FIF, beta="auto"']
    ae = counts.loc["N", "AE"]
    assert (ae["wins"], ae["loses"]) == (1, 1)
    assert ae["median gain"] == pytest.approx(0, abs=0.02)
    vae = counts.loc["fitted prior", "VAE, true noise"]
    assert (vae["lower"], vae["median gain"]) == ("3 of 3", 10.0)


def test_the_gain_by_the_true_noise_is_counted_for_each_number_of_points():
    gains = {(1, 16, 500): 8.5, (4, 16, 500): 8.5, (1, 16, 2_000): 8.5, (1, 16, 10_000): 0.0}
    normal, fitted = describe_true_noise(make_rows(gains))  # FIF has 1, with the noise 9 - gain
    counts = "2 of 2 (n = 500), 1 of 1 (n = 2,000), 0 of 1 (n = 10,000) data sets"
    assert f"{counts} (N)" in normal
    assert f"{counts} (fitted prior)" in fitted


def test_trainings_are_described_by_their_epochs_and_errors():
    rows = pd.DataFrame(
        [
            {"d": 1, "D": 16, "n": n, "model": model, "prior": prior, "kl": kl, "kl_error": 0.5,
             "epochs": 10 * (n // 500) * (1 + (model == "ae")), "best_epoch": 10}
            for model in when.MODELS
            for prior, kl in (("normal", 3.0), ("fitted", 1.0))
            for n in (500, 1_000)
        ]
    )  # fmt: skip
    prior_gain, epochs, kept, noise = describe_trainings(rows)
    assert prior_gain.startswith("A fitted prior lowers the mean KL by 2 (FIF")
    assert "0.50 to 0.50 (VAE" in epochs
    assert "1.00 (FIF" in kept
    assert "0.50 (AE)" in kept
    assert "0.5 nats on average, 0.5 at most" in noise
