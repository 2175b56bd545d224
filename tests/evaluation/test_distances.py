"""Distances of features: against known values, other packages, and plain formulas."""

import math
from dataclasses import astuple

import numpy as np
import pytest
import torch
from support.features import correlated, features, normal

from pythae_fif.evaluation import Features, distances, frechet_distance
from pythae_fif.evaluation.distances import (
    _nearest_distances,
    energy_distance,
    frechet_error,
    kernel_distance,
    memorisation,
    neighbour_scores,
)  # fmt: skip
from pythae_fif.evaluation.score_types import Neighbours


def frechet_distance_by_nuclear_norm(x: torch.Tensor, y: torch.Tensor) -> float:
    """Uses tr (S_a^1/2 S_b S_a^1/2)^1/2 = |X_a X_b^T|_* for centred, scaled data."""
    x_mean = x.double().mean(0)
    y_mean = y.double().mean(0)
    a = (x.double() - x_mean) / math.sqrt(len(x) - 1)
    b = (y.double() - y_mean) / math.sqrt(len(y) - 1)
    mean_distance = (x_mean - y_mean).square().sum()
    nuclear_norm = torch.linalg.matrix_norm(a @ b.T, "nuc")
    return float(mean_distance + a.square().sum() + b.square().sum() - 2 * nuclear_norm)


class TestFrechet:
    def test_known_gaussians(self):
        """Diagonal Gaussians: |shift|^2 + sum (s_a - s_b)^2."""
        corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
        unit = corners * math.sqrt(7 / 8)  # unbiased variance 1 in each direction
        scale = torch.tensor([1.0, 2.0, 5.0])
        shift = torch.tensor([0.0, 3.0, -4.0])
        distance = frechet_distance(Features(unit), Features(unit * scale + shift))
        assert distance == pytest.approx(25 + 0 + 1 + 16, rel=1e-12)

    def test_constant_features(self):
        zeros = Features(torch.zeros(3, 2))
        twos = Features(torch.full((3, 2), 2.0))
        assert frechet_distance(zeros, twos) == 8

    @pytest.mark.parametrize(
        ("n", "m", "dim"),
        [(5, 7, 30), (2, 2, 10), (20, 200, 50), (51, 51, 50), (9, 8, 1), (99, 80, 17)],
    )
    def test_agrees_with_the_nuclear_norm(self, n, m, dim):
        x = correlated(n, dim, seed=4)
        y = correlated(m, dim, seed=5)
        expected = frechet_distance_by_nuclear_norm(x, y)
        for a, b in ((x, y), (y, x)):
            distance = frechet_distance(Features(a), Features(b))
            assert distance == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("decay", [0, 2, 4, 6])
    def test_ill_conditioned(self, decay):
        scales = torch.logspace(0, -decay, 40, dtype=torch.float64)
        x = normal(500, 40, seed=0).double() * scales
        y = normal(400, 40, seed=1).double() * scales * 1.1
        x[:, 2] = 1.0  # a constant feature
        distance = frechet_distance(Features(x), Features(y))
        assert distance == pytest.approx(frechet_distance_by_nuclear_norm(x, y), rel=1e-7)


class TestFrechetError:
    @pytest.mark.parametrize(
        ("rows", "dim", "shift", "max_ratio"),
        [(300, 3, 0.3, 1.35), (500, 20, 0.0, 1.35), (30, 60, 0.3, 1.8)],
    )
    def test_is_the_spread_of_new_samples(self, rows, dim, shift, max_ratio):
        """With fewer samples than features it is too large, but never too small."""
        reference = features(5000, dim, seed=0)
        sample_sets = [features(rows, dim, seed=seed, shift=shift) for seed in range(100, 165)]
        errors = [frechet_error(samples, reference) for samples in sample_sets[60:]]
        scores = [frechet_distance(samples, reference) for samples in sample_sets[:60]]
        assert 0.65 < np.mean(errors) / np.std(scores) < max_ratio

    @pytest.mark.parametrize(("rows", "dim"), [(200, 6), (10, 30)])
    def test_is_the_derivative_by_the_weights(self, rows, dim):
        """Repeating a sample moves the distance by the N-th part of its influence."""
        samples = normal(rows, dim, seed=0)
        reference = features(100, dim, seed=1)
        repeated = samples.repeat(20, 1)
        distance = frechet_distance(Features(repeated), reference)

        influences = []
        for sample in samples.split(1):
            with_sample = Features(torch.cat([repeated, sample]))
            change = frechet_distance(with_sample, reference) - distance
            influences.append(20 * rows * change)
        error = frechet_error(Features(samples), reference)
        assert error == pytest.approx(np.std(influences) / np.sqrt(rows), rel=0.1)

    def test_for_a_reference_of_equal_images(self):
        samples = normal(50, 3, seed=0)
        spread = (samples - 1).square().sum(1).std() / len(samples) ** 0.5
        error = frechet_error(Features(samples), Features(torch.ones(9, 3)))
        assert error == pytest.approx(float(spread), rel=0.1)


@pytest.fixture(scope="module")
def samples() -> torch.Tensor:
    """Non-negative correlated features, like pooled ReLUs."""
    return (normal(700, 32, seed=1) @ mixing_matrix()).relu()


@pytest.fixture(scope="module")
def reference() -> torch.Tensor:
    """Features like `samples`, with a shift."""
    return (normal(600, 32, seed=2, shift=0.2) @ mixing_matrix()).relu()


def mixing_matrix() -> torch.Tensor:
    return normal(32, 32, seed=0) / math.sqrt(32)


def pairwise_squares(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x[:, None] - y).square().sum(-1)


class TestNeighbours:
    @pytest.mark.parametrize("chunk_elements", [2**20, 9000], ids=["whole", "in parts"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_against_prdc(self, samples, reference, dtype, chunk_elements, monkeypatch):
        """Also for float32 features, because distances are float64."""
        prdc = pytest.importorskip("prdc", reason="needs prdc")
        monkeypatch.setattr(distances, "CHUNK_ELEMENTS", chunk_elements)
        scores = neighbour_scores(Features(samples.to(dtype)), Features(reference.to(dtype)))

        arrays = (reference.to(dtype).double().numpy(), samples.to(dtype).double().numpy())
        for k, names in {3: ("precision", "recall"), 5: ("density", "coverage")}.items():
            expected = prdc.compute_prdc(*arrays, nearest_k=k)
            for name in names:
                assert getattr(scores, name) == pytest.approx(expected[name], abs=1e-9)

    @pytest.mark.parametrize(("dim", "mean"), [(8, 0.0), (64, 0.0), (64, 30.0), (1000, 1.0)])
    def test_a_set_against_itself_scores_one(self, dim, mean):
        """A feature and its k - 1 nearest others count; by rounding, the k-th one did, too."""
        x = mean + torch.randn(700, dim, generator=torch.Generator().manual_seed(0))
        assert neighbour_scores(Features(x), Features(x.clone())) == Neighbours(1, 1, 1, 1)

    def test_equal_distances(self):
        """Binary images have many: every score must distinguish nearer from equally near."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randint(3, (200, 12), generator=generator)
        y = torch.randint(3, (180, 12), generator=generator)
        across = pairwise_squares(x, y)
        x_radii = pairwise_squares(x, x).sort(1).values
        y_radii = pairwise_squares(y, y).sort(1).values

        expected = Neighbours(
            precision=(across <= y_radii[:, 3]).any(1).sum().item() / len(x),
            recall=(across <= x_radii[:, 3:4]).any(0).sum().item() / len(y),
            density=(across < y_radii[:, 5]).sum().item() / (5 * len(x)),
            coverage=(across < y_radii[:, 5]).any(0).sum().item() / len(y),
        )
        scores = neighbour_scores(Features(x.float()), Features(y.float()))
        assert astuple(scores) == pytest.approx(astuple(expected))


class TestKernel:
    @pytest.mark.parametrize("shift", [0.0, 10.0])
    def test_against_torch_fidelity(self, samples, reference, shift, monkeypatch):
        metric_kid = pytest.importorskip("torch_fidelity.metric_kid", reason="needs torch-fidelity")
        samples = samples + shift
        reference = reference + shift
        scores = metric_kid.kid_features_to_metric(
            samples.double(),
            reference.double(),
            kid_subsets=7,
            kid_subset_size=100,
            rng_seed=5,
            verbose=False,
        )
        expected = tuple(scores[f"kernel_inception_distance_{name}"] for name in ("mean", "std"))

        monkeypatch.setattr(distances, "SUBSETS", 7)
        monkeypatch.setattr(distances, "SUBSET_SIZE", 100)
        for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
            distance = kernel_distance(
                Features(samples.to(dtype)), Features(reference.to(dtype)), seed=5
            )
            assert astuple(distance) == pytest.approx(expected, rel=tolerance)


class TestMemorisation:
    def test_equal_features_have_distance_zero(self):
        """Even if other features, like the next frames of a film, are only slightly farther."""
        y = normal(50, 200, seed=0, shift=100.0).repeat(3, 1)
        y[:, 0] += 1e-4 * torch.arange(150)
        nearest, _ = _nearest_distances(Features(y.clone()), Features(y))
        assert not nearest.any()

    @pytest.mark.parametrize("tail", [0, 4])
    def test_against_plain_formulas(self, tail):
        samples = normal(40, 3, seed=40)
        training = normal(600, 3, seed=600)
        test = normal(50, 3, seed=50)
        if tail:  # A few points are far away, so most others are relatively near each other.
            samples = (tail * samples).exp()
            training = (tail * training).exp()
            test = (tail * test).exp()
        scores = memorisation(Features(samples), Features(training), {"test": Features(test)})

        sample_distances, nearest = torch.cdist(samples, training).min(dim=1)
        test_distances = torch.cdist(test, training).min(dim=1).values
        is_nearer = sample_distances[:, None] < test_distances
        assert scores.nearer["test"] == pytest.approx(float(is_nearer.double().mean()))

        distances_within_training = torch.cdist(training, training).fill_diagonal_(torch.inf)
        is_authentic = sample_distances > distances_within_training.min(dim=1).values[nearest]
        assert scores.authenticity == pytest.approx(float(is_authentic.double().mean()))

    def test_blurred_images_score_as_copies(self):
        """The mean of many images is nearer to each than another image is."""
        training = features(400, 30, seed=1)
        blurred = normal(400, 30, seed=5) / 4
        test = features(300, 30, seed=2)
        scores = memorisation(Features(blurred), training, {"test": test})
        assert scores.nearer["test"] > 0.99
        of_test = memorisation(test, training, {"test": test})
        assert scores.authenticity < 0.01 < 0.5 < of_test.authenticity

    @pytest.mark.parametrize(
        ("samples", "nearer", "authenticity"),
        [
            (normal(400, 4, seed=5), pytest.approx(0.5, abs=0.05), pytest.approx(0.5, abs=0.15)),
            (normal(400, 4, seed=1), 1.0, 0.0),  # the training set itself
            (normal(400, 4, seed=5, shift=50.0), 0.0, 1.0),
        ],
        ids=["new", "copied", "apart"],
    )
    def test_known_sets(self, samples, nearer, authenticity):
        training = features(400, 4, seed=1)
        test = features(300, 4, seed=2)
        scores = memorisation(Features(samples), training, {"test": test})
        assert scores.nearer == {"test": nearer}
        assert scores.authenticity == authenticity


def test_energy_distance():
    zeros = torch.zeros(3, 2)
    fives = torch.tensor([[3.0, 4.0]]).repeat(4, 1)
    assert energy_distance(Features(zeros), Features(fives)) == 10

    generator = torch.Generator().manual_seed(0)

    def draw(mean, count):
        return Features(torch.randn(count, 3, generator=generator) + mean)

    x, y = draw(0.5, 4000), draw(0.0, 600)
    assert energy_distance(x, y) == energy_distance(Features(x.values[::2]), y)

    equal = [energy_distance(draw(0.0, 100), draw(0.0, 100)) for _ in range(100)]
    assert abs(np.mean(equal)) < 3 * np.std(equal) / 10  # unbiased
