"""The claims of the studies of small models, with margins."""

import math

import numpy as np
import pandas
import pytest
import torch

from pythae_fif.data import load_images, to_float
from pythae_fif.pictures import write_figure
from pythae_fif.studies import curvature, estimator, linear, sinusoid, toy, trace
from pythae_fif.volume_change import sample_hutchinson, volume_surrogate


def computed(spec):
    """What a run gives."""
    return spec.compute(lambda _: None)


# ---------------------------------------------------------------- linear


@pytest.fixture(scope="module")
def linear_rows():
    size = linear.Size(restarts=16, steps=400, batch_size=16)
    return computed(linear.LinearModels(decoder="pseudo-inverse", size=size, seed=1))


@pytest.mark.parametrize("regime", linear.REGIMES)
def test_theorem_c4_for_ten_random_spectra(linear_rows, regime):
    tied = [row for row in linear_rows if row.regime == regime]
    assert len(tied) == 10
    assert all(row.overlap_theorem > 0.95 for row in tied)
    assert all(abs(row.loss_above_theorem) < 0.05 for row in tied)
    pca = sum(row.theorem == (0, 1) for row in tied)
    last = sum(row.theorem == (3, 4) for row in tied)
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
        return losses if len(losses) == 1 else losses.where(torch.arange(len(losses)) > 0, math.nan)

    monkeypatch.setattr(linear, "linear_loss", diverged)
    size = linear.Size(restarts=2, steps=20, batch_size=8)
    rows = computed(linear.LinearModels(decoder="pseudo-inverse", size=size, seed=1))
    assert all(math.isfinite(row.loss_above_theorem) for row in rows)


# ---------------------------------------------------------------- curvature


def test_on_manifold_training_bends_and_off_manifold_training_straightens():
    ends = {}
    for at, name in curvature.VARIANTS.items():
        rows = computed(curvature.Curves(jacobian_at=at, epochs=30, seeds=[0, 1])).rows
        ends[name] = [
            np.median([row.curvature for row in rows if row.step == step]) for step in (0, 120)
        ]
    (start, bent), (same, straight) = ends["on-manifold"], ends["off-manifold"]
    assert start == same == pytest.approx(1 / curvature.RADIUS, rel=0.1)
    assert bent > 1.5 * start and straight < 0.3 * start


def test_curvature_of_a_circle():
    angle = torch.linspace(0, 1, 200, dtype=torch.float64)
    circle = torch.stack([4 * angle.cos(), 4 * angle.sin()], 1)[None]
    assert torch.allclose(curvature.curve_curvature(circle), torch.tensor(0.25).double(), rtol=1e-3)


def test_small_circles_have_the_lowest_loss():
    circles = [curvature.Circle.of(radius) for radius in curvature.RADII[::10]]
    for beta in curvature.BETAS:
        losses = [circle.loss_beta[beta] for circle in circles]
        assert losses[0] < min(losses[len(losses) // 2 :]) - 1
        assert losses[0] < losses[-1] - 5


@pytest.mark.parametrize("radius", [0.3, 2.0])
def test_entropy_of_projected_data_against_samples(radius):
    x = np.random.default_rng(0).standard_normal(200_000)
    density, edges = np.histogram(radius * np.arctan(x / radius), 400, density=True)
    sampled = -np.sum(np.diff(edges) * density * np.log(np.maximum(density, 1e-12)))
    assert curvature.projected_entropy(radius) == pytest.approx(sampled, abs=0.02)


# ---------------------------------------------------------------- sinusoid


@pytest.fixture(scope="module")
def sinusoid_rows():
    """Four small models at either end of beta."""
    size, seeds = sinusoid.Size(points=4000, epochs=20, blocks=2, width=32), range(4)
    ensemble = sinusoid.train(0.1, (0.01, 10.0), seeds, size)
    return sinusoid.measure(ensemble, 0.1, seeds, size)


def test_low_beta_encodes_the_noise_and_high_beta_the_sinusoid(sinusoid_rows):
    low, high = ([r for r in sinusoid_rows if r.beta == beta] for beta in (0.01, 10.0))
    assert [row.seed for row in low] == [row.seed for row in high] == [0, 1, 2, 3]
    assert min(row.along for row in high) > 0.95
    assert max(row.across for row in high) < 0.4
    assert np.median([row.along for row in low]) < 0.6
    assert np.median([row.across for row in low]) > 0.6
    errors = [np.median([row.reconstruction for row in rows]) for rows in (low, high)]
    assert errors[0] > 3 * errors[1]
    assert np.median([row.nll for row in low]) < min(row.nll for row in high) - 0.3


def test_the_released_codes_points_have_a_variance_of_one():
    height = sinusoid.SIZES["released"].height
    points = sinusoid.clean_points(100_000, torch.Generator().manual_seed(0), height)
    assert torch.allclose(points.std(0), torch.ones(2), atol=0.01)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [([0, 0, 1, 1], math.sqrt(10)), ([0, 0.5, 0.5, 1], 1.0), ([1, 0, 0, 1], math.sqrt(1000)),
     ([0, 0, 0, 0], math.nan)],
)  # fmt: skip
def test_transition(shares, expected):
    of_betas = dict(zip((0.1, 1.0, 10.0, 100.0), shares, strict=True))
    assert sinusoid.transition(of_betas) == pytest.approx(expected, nan_ok=True)


# ---------------------------------------------------------------- estimator

KINDS = [
    *[(kind, 1) for kind in ("rademacher", "gaussian", "scaled_gaussian", "orthogonal")],
    *[(kind, k) for kind in ("scaled_gaussian", "orthogonal") for k in (2, 5)],
]


@pytest.mark.parametrize(("kind", "samples"), KINDS)
def test_variance_formulas_against_simulation(kind, samples):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    formula = trace.variance_formula(matrix, kind, samples)
    simulated = trace.simulated_variance(matrix, kind, samples, 100_000, generator)
    assert simulated == pytest.approx(formula, rel=0.04)
    if kind == "orthogonal":
        independent = trace.variance_formula(matrix, "scaled_gaussian", samples)
        assert formula / independent == pytest.approx((6 - samples) / 5)  # eq. 123


def test_orthogonal_vectors_are_exact_at_full_number():
    matrix = torch.randn(6, 6, dtype=torch.float64)
    assert trace.variance_formula(matrix, "orthogonal", 6) == 0
    generator = torch.Generator().manual_seed(0)
    assert trace.simulated_variance(matrix, "orthogonal", 6, 100, generator) < 1e-20


def test_gradient_distances():
    splits, size = load_images("digits"), estimator.SIZES["quick"]
    size = size.model_copy(update={"steps": 150})
    labels = splits.labels["train"]
    model = estimator._trained(splits.train, labels, 6, size, 0)
    assert model.condition_dim == 10
    images, few = to_float(splits.train, limit=16), torch.from_numpy(labels[:16])
    generator = torch.Generator().manual_seed(0)
    rows = estimator.gradient_distances(
        model, images, (1, 16), 6, generator, labels=few, largest=64
    )
    distance = {(r.space, r.kind, r.batch_size, r.samples): r.distance for r in rows}
    assert distance["latent", "orthogonal", 1, 6] < 1e-4
    assert distance["data", "orthogonal", 1, 64] < 1e-3
    for batch in (1, 16):  # of one vector alone, often enough that a draw does not decide
        rows = estimator.gradient_distances(
            model, images, (batch,), 60, generator.manual_seed(1), labels=few, largest=batch
        )
        one = {r.space: r.distance for r in rows if (r.kind, r.samples) == ("orthogonal", 1)}
        assert one["data"] > 1.4 * one["latent"]
    for space in ("latent", "data"):
        one, many = (distance[space, "orthogonal", batch, 1] for batch in (1, 16))
        assert many < 0.7 * one
    independent = distance["latent", "scaled_gaussian", 1, 5]
    assert distance["latent", "orthogonal", 1, 5] < 0.7 * independent


# ---------------------------------------------------------------- toy


def test_toy_models_are_measured_every_few_epochs_and_at_the_end():
    size = toy.Size(points=40, epochs=7, width=8)
    learnt = computed(toy.ToyModels(dataset="circle", size=size, seeds=[0, 1]))
    assert [(row.epoch, row.seed) for row in learnt.rows] == [(5, 0), (5, 1), (7, 0), (7, 1)]


@pytest.mark.parametrize("loss", [math.nan, -math.inf])
def test_a_model_that_diverged_is_not_the_best(monkeypatch, loss):
    size = toy.Size(points=40, epochs=1, width=8)
    spec = toy.ToyModels(dataset="circle", size=size, seeds=[0, 1])

    def measured(of_first):
        rows = [toy.Row(0, 1, of_first, 1.0), toy.Row(1, 1, 1.0, 1.0)]
        monkeypatch.setattr(toy, "measure", lambda *_: rows)
        return computed(spec)

    assert measured(loss).samples == measured(2.0).samples != measured(0.0).samples


@pytest.mark.parametrize("name", ["circle", "sphere"])
@pytest.mark.parametrize("lost", [10, None])
def test_what_diverged_is_not_drawn(name, lost, tmp_path):
    """Of what the model draws a part or all is NaN."""
    test = toy._held_out(name)
    rows = pandas.DataFrame(
        {"seed": 0, "epoch": [1, 2], "nll": [2.0, math.nan], "reconstruction": [0.1, 0.1]}
    )
    samples = test.points.clone()
    samples[:lost] = math.nan
    learnt = toy.Learnt(
        [toy.Row(**row) for row in rows.to_dict("records")], samples.tolist(), [1.0] * len(samples)
    )
    write_figure(tmp_path / "figure.png", toy._figure(learnt, test), 50)
    assert (tmp_path / "figure.png").stat().st_size > 5000
