"""The claims of the studies of small models, with margins."""

import math
from typing import get_args

import numpy as np
import pandas
import pytest
import torch

from pythae_fif.data import load_images, to_float
from pythae_fif.studies import curvature, estimator, linear, spectrum, toy
from pythae_fif.volume_change import sample_hutchinson, volume_surrogate
from pythae_fif.volume_change.hutchinson import HutchinsonKind


def picked(**size):
    """What linear models pick."""
    spec = linear.LinearModels(seed=1, **size)
    return pandas.DataFrame(vars(spec.compute(lambda _: None)))


# ---------------------------------------------------------------- linear


@pytest.fixture(scope="module")
def linear_rows():
    return picked(restarts=16, steps=400, batch_size=16)


@pytest.mark.parametrize("regime", linear.REGIMES)
def test_theorem_c4_for_ten_random_spectra(linear_rows, regime):
    tied = linear_rows[linear_rows.regime == regime]
    assert len(tied) == 10
    assert (tied.overlap_theorem > 0.95).all() and (tied.loss_above_theorem.abs() < 0.05).all()
    pca, last = ((tied.theorem == chosen).sum() for chosen in ("0 1", "3 4"))
    assert (pca, last) in {"below": [(0, 10)], "above": [(10, 0)]}.get(regime, [(pca, last)])


def test_likelihood_does_not_move_a_linear_model_with_a_free_decoder():
    """Why a free decoder does not find theorem C.4's choice; see the caption of the figure."""
    root = torch.randn(5, 5, dtype=torch.float64)
    covariance = root @ root.T
    x = torch.linalg.qr(torch.randn(40, 5, dtype=torch.float64)).Q * math.sqrt(40) @ root.T
    a = torch.randn(2, 5, dtype=torch.float64)
    a = torch.linalg.solve(torch.linalg.cholesky(a @ covariance @ a.T), a).requires_grad_()
    w = (covariance @ a.T).detach()  # optimal for the reconstruction, as A Sigma A^T = I
    eps = sample_hutchinson(len(x), 2, 2, dtype=x.dtype)
    out = volume_surrogate(lambda x: x @ a.T, lambda z: z @ w.T, x, eps)
    (out.z.square().sum(1) / 2 + out.surrogate).mean().backward()
    assert a.grad.abs().max() < 1e-10
    tied = torch.linalg.pinv(a.detach())
    out = volume_surrogate(lambda x: x @ a.T, lambda z: z @ tied.T, x, eps)
    a.grad = None
    (out.z.square().sum(1) / 2 + out.surrogate).mean().backward()
    assert a.grad.abs().max() > 1e-2


def test_a_linear_model_that_diverged_is_not_the_best(monkeypatch):
    real = linear.linear_loss

    def diverged(encoders, *rest):
        losses = real(encoders, *rest)
        restarts = len(losses) == 100
        return losses.where(torch.arange(100) > 0, math.nan) if restarts else losses

    monkeypatch.setattr(linear, "linear_loss", diverged)
    assert np.isfinite(picked(restarts=2, steps=20, batch_size=8).loss_above_theorem).all()


# ---------------------------------------------------------------- curvature


def test_on_manifold_training_bends_and_off_manifold_training_straightens():
    ends = {}
    for at, name in curvature.VARIANTS.items():
        spec = curvature.CurvatureSpec(jacobian_at=at, epochs=30, seeds=(1,))
        rows = pandas.DataFrame(spec.compute(lambda _: None).looks)
        ends[name] = [rows[rows.step == step].curvature.median() for step in (0, 120)]
    (start, bent), (same, straight) = ends["on-manifold"], ends["off-manifold"]
    assert start == same == pytest.approx(1 / curvature.RADIUS, rel=0.1)
    assert bent > 1.5 * start and straight < 0.3 * start


def test_curvature_of_a_circle():
    angle = torch.linspace(0, 1, 200, dtype=torch.float64)
    circle = torch.stack([4 * angle.cos(), 4 * angle.sin()], 1)[None]
    assert torch.allclose(curvature.curve_curvature(circle), torch.tensor(0.25).double(), rtol=1e-3)


def test_small_circles_have_the_lowest_loss():
    circles = curvature.circle_losses()
    for beta in curvature.BETAS:
        losses = circles[f"loss_{beta:g}"].to_numpy()
        assert losses[0] < min(losses[len(losses) // 2 :]) - 1
        assert losses[0] < losses[-1] - 5


@pytest.mark.parametrize("radius", [0.3, 2.0])
def test_entropy_of_projected_data_against_samples(radius):
    x = np.random.default_rng(0).standard_normal(200_000)
    density, edges = np.histogram(radius * np.arctan(x / radius), 400, density=True)
    sampled = -np.sum(np.diff(edges) * density * np.log(np.maximum(density, 1e-12)))
    assert curvature.project_to_circle(radius)[0] == pytest.approx(sampled, abs=0.02)


# ---------------------------------------------------------------- sinusoid


def test_low_beta_encodes_the_noise_and_high_beta_the_sinusoid():
    """Four small models at either end of beta."""
    size = {"points": 4000, "epochs": 12, "blocks": 2, "width": 32, "seeds": (0, 1, 2, 3)}
    how = {"dataset": "sinusoid", "batch_size": 128, "learning_rate": 1e-3, "residual": True}
    spec = toy.ToyModels(noise=0.1, test_noise=0.1, betas=(0.01, 10.0), **how, **size)
    found = vars(spec.compute(lambda _: None))
    rows = pandas.DataFrame({key: found[key] for key in ("along", "reconstruction", "nll")})
    low, high = rows[:4], rows[4:]
    assert high.along.min() > 0.95 and low.along.median() < 0.6
    assert low.reconstruction.median() > 3 * high.reconstruction.median()
    assert low.nll.median() < high.nll.min() - 0.3


# ---------------------------------------------------------------- estimator


def variance(matrix, kind, samples):
    """Of the estimate of a trace from K Hutchinson vectors."""
    symmetric, d = (matrix + matrix.T) / 2, len(matrix)
    total, spread = symmetric.square().sum(), torch.linalg.eigvalsh(symmetric).var(correction=0)
    one = 2 * d**2 / (d + 2) * spread
    return {
        "rademacher": 2 * (total - symmetric.diagonal().square().sum()) / samples,  # eq. 100
        "gaussian": 2 * total / samples,  # eq. 101
        "scaled_gaussian": one / samples,  # eqs. 105 and 122
        "orthogonal": one * (d - samples) / (samples * (d - 1)),  # eq. 121
    }[kind]


@pytest.mark.parametrize("samples", [1, 2, 5])
@pytest.mark.parametrize("kind", get_args(HutchinsonKind))
def test_variance_formulas_of_appendix_d_3(kind, samples):
    matrix = torch.randn(6, 6, dtype=torch.float64)
    eps = sample_hutchinson(100_000, 6, samples, kind=kind, dtype=torch.float64)
    simulated = ((eps @ matrix) * eps).sum(-1).mean(0).var()
    assert float(simulated) == pytest.approx(float(variance(matrix, kind, samples)), rel=0.04)


def test_gradient_distances(monkeypatch):
    splits = load_images("digits")
    torch.manual_seed(0)
    model = spectrum.build_model(splits.input_dim, 10, 10.0, 6, 0.25).train()
    images, labels = to_float(splits.train), torch.from_numpy(splits.labels["train"])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(150):
        some = torch.randint(len(images), (100,))
        optimizer.zero_grad()
        model({"data": images[some], "labels": labels[some]}).loss.backward()
        optimizer.step()
    model.eval()

    def measured(batches, repeats, largest, seed=0):
        monkeypatch.setattr(estimator, "MAX_SAMPLES", largest)
        given = {"data_hash": "", "labels_hash": "", "channel_multiplier": 0.25, "steps": 150}
        spec = estimator.TraceNoise(
            dataset="digits", latent_dim=6, seed=seed, batches=batches, repeats=repeats, **given
        )
        rows = spec.distances(model, images[:16], labels[:16])
        return {(row.space, row.batch_size, row.samples): row.distance for row in rows}

    distance = measured((1, 16), 6, 64)
    assert distance["latent", 1, 6] < 1e-4
    assert distance["data", 1, 64] < 1e-3
    for batch in (1, 16):  # of one vector alone, often enough that a draw does not decide
        one = measured((batch,), 60, batch, seed=1)
        data, latent = (one[space, batch, 1] for space in ("data", "latent"))
        assert data > 1.4 * latent
    for space in ("latent", "data"):
        one, many = (distance[space, batch, 1] for batch in (1, 16))
        assert many < 0.7 * one


# ---------------------------------------------------------------- toy


CIRCLE = {
    "dataset": "circle", "points": 40, "epochs": 1, "blocks": 1, "width": 8, "residual": False,
    "noise": 0.02, "test_noise": 0.0, "betas": (100.0,), "seeds": (0, 1), "batch_size": 20,
    "learning_rate": 1e-3,
}  # fmt: skip


@pytest.mark.parametrize("loss", [math.nan, -math.inf])
def test_a_model_that_diverged_is_not_the_best(monkeypatch, loss):
    def samples(of_first):
        scores = torch.tensor([[-of_first], [-1.0]])
        monkeypatch.setattr(toy.Ensemble, "log_prob", lambda *_: scores)
        monkeypatch.setattr(toy.Ensemble, "reconstruction_error", lambda *_: torch.ones(2, 1))
        return toy.ToyModels(**CIRCLE).compute(lambda _: None).samples

    assert samples(loss) == samples(2.0) != samples(0.0)
