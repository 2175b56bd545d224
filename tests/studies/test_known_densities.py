"""The study `known_densities`: its data's density, its models, and its verdicts."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from studies import known_densities
from studies.charts import CODE_NAMES, NOISE_STD, Chart, ChartCodes, ChartSample
from studies.known_densities import (
    AUTOENCODERS,
    IN_DATA_SPACE,
    ModelOfChart,
    cells_that_count,
    judge_cell,
    judge_claim,
    make_page,
)


@pytest.mark.parametrize("name", CODE_NAMES)
def test_codes_have_mean_zero_and_variance_one(name):
    codes = ChartCodes(name, latent_dim=2).sample(100_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(codes.mean(0), torch.zeros(2).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(codes.T.cov(), torch.eye(2).double(), atol=0.03, rtol=0)


@pytest.mark.parametrize("name", CODE_NAMES)
def test_density_is_the_integral_over_the_codes(name):
    chart = Chart(name, latent_dim=1, dim=4, seed=0)
    sample = chart.sample(10, torch.Generator().manual_seed(0))
    grid = torch.linspace(-6, 9, 6_001, dtype=torch.float64)[:, None]
    squared_distances = torch.cdist(sample.points.double(), chart.embed(grid)).square()
    log_noise = -squared_distances / (2 * NOISE_STD**2) - 2 * math.log(2 * math.pi * NOISE_STD**2)
    log_joint = log_noise + chart.codes.log_prob(grid)
    expected = log_joint.logsumexp(1) + math.log(15 / 6_000)

    torch.manual_seed(0)
    torch.testing.assert_close(chart.log_prob(sample, 10_000), expected, atol=0.05, rtol=0)


def test_samples_have_the_noise_that_the_density_assumes():
    chart = Chart("normal", latent_dim=2, dim=16, seed=0)
    sample: ChartSample = chart.sample(5_000, torch.Generator().manual_seed(0))
    noise = sample.points - chart.embed(sample.codes)
    assert noise.std().item() == pytest.approx(NOISE_STD, rel=0.02)


@pytest.mark.parametrize("model", ["fif", "wae_10", "vae", "flow_matching", "mixture"])
def test_a_model_is_trained_and_measured(model, monkeypatch):
    monkeypatch.setattr(known_densities, "TEST_POINTS", 200)
    monkeypatch.setattr(known_densities, "CHOICE_POINTS", 100)
    monkeypatch.setattr(known_densities, "EPOCH_POINTS", 2_000)
    run = ModelOfChart(
        codes="bimodal", latent_dim=1, dim=4, points=500, model=model, seconds=0.3, seed=0
    )
    scores = run.compute(lambda share: None)
    priors = {"data space"} if model in IN_DATA_SPACE else {"normal", "mixture"}
    assert scores.keys() == priors
    for score in scores.values():
        assert -3 * score.kl_error < score.kl < 5
        assert (score.noise_std is None) == (model in IN_DATA_SPACE)


def make_rows(gains: dict[tuple[str, int], float], noise_ratio: float = 1.0) -> pd.DataFrame:
    """Rows of all models; (codes, n) -> nats that FIF with N gains on its rivals, which are alike.

    WAE with weight 10 has the lowest KL of test points, and AE that of the points of choice.
    """
    rng = np.random.default_rng(0)
    rows = []
    for (codes, points), gain in gains.items():
        cell = {"codes": codes, "d": 2, "D": 16, "n": points, "kl_error": 0.1}
        for seed in range(5):
            for model in AUTOENCODERS:
                for prior in ("normal", "mixture"):
                    is_fif = model == "fif" and prior == "normal"
                    kl = 2.0 - gain * is_fif - 0.5 * (model == "wae_10")
                    rows.append({
                        **cell, "seed": seed, "model": model, "prior": prior,
                        "kl": kl + 0.01 * rng.standard_normal(),
                        "choice_kl": 2.0 - 0.5 * (model == "ae"),
                        "squared_noise_ratio": noise_ratio, "reconstruction": 0.5, "rest": 1.5,
                    })  # fmt: skip
            for model in IN_DATA_SPACE:
                rows.append({
                    **cell, "seed": seed, "model": model, "prior": "data space",
                    "kl": 3.0 + 0.01 * rng.standard_normal(), "choice_kl": 3.0,
                })  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("gain", "verdict"), [(0.3, "wins"), (-0.3, "loses"), (0.0, "undecided")])
def test_the_rival_of_a_cell_is_chosen_on_other_points(gain, verdict):
    rows = make_rows({("skewed", 500): gain})
    rows = rows[rows["prior"] == "normal"]
    is_fif = rows["model"] == "fif"
    found = judge_cell(rows[is_fif], rows[~is_fif])
    assert (found.rival, found.text) == ("ae", verdict)
    assert found.gain == pytest.approx(gain, abs=0.02)


def test_a_cell_counts_if_the_autoencoder_reaches_the_noise():
    rows = pd.concat([
        make_rows({("skewed", 500): 0.3}, noise_ratio=1.2),
        make_rows({("normal", 500): 0.3}, noise_ratio=1.05),
    ])  # fmt: skip
    assert cells_that_count(rows) == {("normal", 2, 16, 500)}


@pytest.mark.parametrize(
    ("normal", "skewed", "bimodal", "pays"),
    [
        (0.0, (0.3, 0.3), (0.3, -0.3), True),
        (0.0, (0.3, 0.0), (0.3, 0.0), False),  # half of the cells
        (-0.3, (0.3, 0.3), (0.3, 0.3), False),
    ],
)
def test_the_claim_is_judged_as_written(normal, skewed, bimodal, pays):
    gains = {("normal", 500): normal}
    gains |= {("skewed", points): gain for points, gain in enumerate(skewed)}
    gains |= {("bimodal", points): gain for points, gain in enumerate(bimodal)}
    rows = make_rows(gains)
    assert judge_claim(rows).startswith("Joint training pays" if pays else "Joint training does")
    assert "(" in make_page(pd.concat([rows, make_rows({("skewed", 7): 0.3}, noise_ratio=1.2)]))
