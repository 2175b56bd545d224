"""The claims of the studies of small models, with margins."""

import math
from typing import get_args

import numpy as np
import pandas
import pytest
import torch

from pythae_fif.data import load_images, to_float
from pythae_fif.volume_change import sample_hutchinson, volume_surrogate
from pythae_fif.volume_change.hutchinson import HutchinsonKind
from studies import curvature, estimator, linear, spectrum, toy


def ignore_progress(share):
    """Progress callback that does nothing."""


def train_linear_models(**size):
    """Returns the results of linear models, a row for each spectrum and regime."""
    spec = linear.LinearModels(seed=1, **size)
    return pandas.DataFrame(vars(spec.compute(ignore_progress)))


# ---------------------------------------------------------------- linear


@pytest.fixture(scope="module")
def linear_rows():
    return train_linear_models(restarts=16, steps=400, batch_size=16)


@pytest.mark.parametrize("regime", linear.REGIMES)
def test_theorem_c4_for_ten_random_spectra(linear_rows, regime):
    rows = linear_rows[linear_rows.regime == regime]
    assert len(rows) == 10
    assert (rows.overlap_theorem > 0.95).all()
    assert (rows.loss_above_theorem.abs() < 0.05).all()

    if regime == "below":
        assert (rows.theorem == "3 4").all()
    if regime == "above":
        assert (rows.theorem == "0 1").all()


def test_likelihood_does_not_move_a_linear_model_with_a_free_decoder():
    """Shows why a free decoder does not find theorem C.4's choice."""
    root = torch.randn(5, 5, dtype=torch.float64)
    covariance = root @ root.T
    x = torch.linalg.qr(torch.randn(40, 5, dtype=torch.float64)).Q * math.sqrt(40) @ root.T
    a = torch.randn(2, 5, dtype=torch.float64)
    a = torch.linalg.solve(torch.linalg.cholesky(a @ covariance @ a.T), a).requires_grad_()
    w = (covariance @ a.T).detach()  # optimal for the reconstruction, as A Sigma A^T = I
    eps = sample_hutchinson(len(x), 2, 2, dtype=x.dtype)

    def likelihood_gradient(decoder):
        out = volume_surrogate(lambda x: x @ a.T, lambda z: z @ decoder.T, x, eps)
        loss = (out.z.square().sum(1) / 2 + out.surrogate).mean()
        (gradient,) = torch.autograd.grad(loss, a)
        return gradient

    assert likelihood_gradient(w).abs().max() < 1e-10
    tied_decoder = torch.linalg.pinv(a.detach())
    assert likelihood_gradient(tied_decoder).abs().max() > 1e-2


def test_a_linear_model_that_diverged_is_not_the_best(monkeypatch):
    linear_loss = linear.linear_loss

    def loss_with_diverged_model(*arguments):
        losses = linear_loss(*arguments)
        if len(losses) == 100:  # those of all restarts
            losses = losses.where(torch.arange(100) > 0, math.nan)
        return losses

    monkeypatch.setattr(linear, "linear_loss", loss_with_diverged_model)
    rows = train_linear_models(restarts=2, steps=20, batch_size=8)
    assert np.isfinite(rows.loss_above_theorem).all()


# ---------------------------------------------------------------- curvature


@pytest.mark.slow
def test_on_manifold_training_bends_and_off_manifold_training_straightens():
    curvatures = {}
    for jacobian_at, variant in curvature.VARIANTS.items():
        spec = curvature.CurvatureSpec(jacobian_at=jacobian_at, epochs=30, seeds=(1,))
        rows = pandas.DataFrame(spec.compute(ignore_progress).measurements)
        curvatures[variant] = rows.groupby("step").curvature.median()

    on_manifold = curvatures["on-manifold"]
    off_manifold = curvatures["off-manifold"]
    start = on_manifold[0]
    assert start == off_manifold[0] == pytest.approx(1 / curvature.RADIUS, rel=0.1)
    assert on_manifold[120] > 1.5 * start
    assert off_manifold[120] < 0.3 * start


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
    """Trains four small models with a low and four with a high beta."""
    spec = toy.ToyModels(
        dataset="sinusoid",
        noise=0.1,
        test_noise=0.1,
        betas=(0.01, 10.0),
        seeds=(0, 1, 2, 3),
        points=4000,
        epochs=12,
        batch_size=128,
        learning_rate=1e-3,
        blocks=2,
        width=32,
        residual=True,
    )
    result = vars(spec.compute(ignore_progress))

    rows = pandas.DataFrame({key: result[key] for key in ("along", "reconstruction", "nll")})
    low = rows[:4]
    high = rows[4:]
    assert high.along.min() > 0.95
    assert low.along.median() < 0.6
    assert low.reconstruction.median() > 3 * high.reconstruction.median()
    assert low.nll.median() < high.nll.min() - 0.3


# ---------------------------------------------------------------- estimator


def variance(matrix, kind, samples):
    """Returns the variance of a trace's estimate from K Hutchinson vectors."""
    d = len(matrix)
    symmetric = (matrix + matrix.T) / 2
    total = symmetric.square().sum()
    eigenvalue_variance = torch.linalg.eigvalsh(symmetric).var(correction=0)
    sphere_variance = 2 * d**2 / (d + 2) * eigenvalue_variance  # with one vector
    return {
        "rademacher": 2 * (total - symmetric.diagonal().square().sum()) / samples,  # eq. 100
        "gaussian": 2 * total / samples,  # eq. 101
        "scaled_gaussian": sphere_variance / samples,  # eqs. 105 and 122
        "orthogonal": sphere_variance * (d - samples) / (samples * (d - 1)),  # eq. 121
    }[kind]


@pytest.mark.parametrize("samples", [1, 2, 5])
@pytest.mark.parametrize("kind", get_args(HutchinsonKind))
def test_variance_formulas_of_appendix_d_3(kind, samples):
    matrix = torch.randn(6, 6, dtype=torch.float64)
    eps = sample_hutchinson(100_000, 6, samples, kind=kind, dtype=torch.float64)
    simulated = ((eps @ matrix) * eps).sum(-1).mean(0).var()
    assert float(simulated) == pytest.approx(float(variance(matrix, kind, samples)), rel=0.04)


@pytest.fixture(scope="module")
def digits_model():
    """Returns a trained conditional model of digits, with 16 images and their labels."""
    splits = load_images("digits")
    torch.manual_seed(0)
    model = spectrum.build_model(splits.input_dim, 10, 10.0, 6, 0.25).train()
    images = to_float(splits.train)
    labels = torch.from_numpy(splits.labels["train"])

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(150):
        indices = torch.randint(len(images), (100,))
        optimizer.zero_grad()
        model({"data": images[indices], "labels": labels[indices]}).loss.backward()
        optimizer.step()
    return model.eval(), images[:16], labels[:16]


def test_gradient_distances(digits_model, monkeypatch):
    model, images, labels = digits_model

    def measure(batches, repeats, max_samples, seed=0):
        monkeypatch.setattr(estimator, "MAX_SAMPLES", max_samples)
        spec = estimator.TraceNoise(
            dataset="digits",
            latent_dim=6,
            seed=seed,
            batches=batches,
            repeats=repeats,
            data_hash="",
            labels_hash="",
            channel_multiplier=0.25,
            steps=150,
        )
        rows = spec.distances(model, images, labels)
        return {(row.space, row.batch_size, row.samples): row.distance for row in rows}

    distances = measure((1, 16), 6, 64)
    assert distances["latent", 1, 6] < 1e-4
    assert distances["data", 1, 64] < 1e-3

    for batch in (1, 16):
        # One vector only, and so many repeats that no single draw decides.
        single_vector = measure((batch,), 60, batch, seed=1)
        assert single_vector["data", batch, 1] > 1.4 * single_vector["latent", batch, 1]

    for space in ("latent", "data"):
        assert distances[space, 16, 1] < 0.7 * distances[space, 1, 1]


# ---------------------------------------------------------------- toy


CIRCLE = {
    "dataset": "circle", "points": 40, "epochs": 1, "blocks": 1, "width": 8, "residual": False,
    "noise": 0.02, "test_noise": 0.0, "betas": (100.0,), "seeds": (0, 1), "batch_size": 20,
    "learning_rate": 1e-3,
}  # fmt: skip


@pytest.mark.parametrize("loss", [math.nan, -math.inf])
def test_a_model_that_diverged_is_not_the_best(monkeypatch, loss):
    def samples_of_best(first_model_loss):
        log_probs = torch.tensor([[-first_model_loss], [-1.0]])
        monkeypatch.setattr(toy.Ensemble, "log_prob", lambda *_: log_probs)
        monkeypatch.setattr(toy.Ensemble, "reconstruction_error", lambda *_: torch.ones(2, 1))
        return toy.ToyModels(**CIRCLE).compute(ignore_progress).samples

    assert samples_of_best(loss) == samples_of_best(2.0) != samples_of_best(0.0)
