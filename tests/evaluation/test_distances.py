"""Distances of features: against known values, others, plain formulas, and each other."""

import math
from dataclasses import astuple

import numpy as np
import pytest
import torch
from support.features import correlated, features, normal

from pythae_fif.evaluation import Features, distances, frechet_distance
from pythae_fif.evaluation.distances import (
    _nearest_distances,
    frechet_error,
    kernel_distance,
    memorisation,
    neighbour_scores,
)  # fmt: skip
from pythae_fif.evaluation.scores import Neighbours


def by_nuclear_norm(x: torch.Tensor, y: torch.Tensor) -> float:
    """tr (S_a^1/2 S_b S_a^1/2)^1/2 = |X_a X_b^T|_* of centred, scaled data."""
    a, b = (of.double() - of.double().mean(0) for of in (x, y))
    a, b = a / math.sqrt(len(a) - 1), b / math.sqrt(len(b) - 1)
    shift = (x.double().mean(0) - y.double().mean(0)).square().sum()
    nuclear = torch.linalg.matrix_norm(a @ b.T, "nuc")
    return float(shift + a.square().sum() + b.square().sum() - 2 * nuclear)


class TestFrechet:
    def test_known_gaussians(self):
        """Diagonal Gaussians: |shift|^2 + sum (s_a - s_b)^2."""
        corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
        unit = corners * math.sqrt(7 / 8)  # unbiased variance 1 in each direction
        scale, shift = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([0.0, 3.0, -4.0])
        distance = frechet_distance(Features(unit), Features(unit * scale + shift))
        assert distance == pytest.approx(25 + 0 + 1 + 16, rel=1e-12)
        constant = Features(torch.zeros(3, 2)), Features(torch.full((3, 2), 2.0))
        assert frechet_distance(*constant) == 8

    @pytest.mark.parametrize(
        ("n", "m", "dim"),
        [(5, 7, 30), (2, 2, 10), (20, 200, 50), (51, 51, 50), (9, 8, 1), (99, 80, 17)],
    )
    def test_agrees_with_the_nuclear_norm(self, n, m, dim):
        x, y = correlated(n, dim, seed=4), correlated(m, dim, seed=5)
        for pair in ((x, y), (y, x)):
            found = frechet_distance(*map(Features, pair))
            assert found == pytest.approx(by_nuclear_norm(x, y), rel=1e-9)

    @pytest.mark.parametrize("decay", [0, 2, 4, 6])
    def test_ill_conditioned(self, decay):
        scales = torch.logspace(0, -decay, 40, dtype=torch.float64)
        x = normal(500, 40, seed=0).double() * scales
        y = normal(400, 40, seed=1).double() * scales * 1.1
        x[:, 2] = 1.0  # a feature that is constant
        found = frechet_distance(Features(x), Features(y))
        assert found == pytest.approx(by_nuclear_norm(x, y), rel=1e-7)


class TestFrechetError:
    @pytest.mark.parametrize(
        ("rows", "dim", "shift", "most"),
        [(300, 3, 0.3, 1.35), (500, 20, 0.0, 1.35), (30, 60, 0.3, 1.8)],
    )
    def test_is_the_spread_of_new_samples(self, rows, dim, shift, most):
        """Fewer samples than features: too large, and not too small."""
        reference = features(5000, dim, seed=0)
        drawn = [features(rows, dim, seed=seed, shift=shift) for seed in range(100, 165)]
        errors = [frechet_error(samples, reference) for samples in drawn[60:]]
        scores = [frechet_distance(samples, reference) for samples in drawn[:60]]
        assert 0.65 < np.mean(errors) / np.std(scores) < most

    @pytest.mark.parametrize(("rows", "dim"), [(200, 6), (10, 30)])
    def test_is_the_derivative_by_the_weights(self, rows, dim):
        """A sample that is there twice moves the distance by the N-th part of its influence."""
        samples, reference = normal(rows, dim, seed=0), features(100, dim, seed=1)
        repeated = samples.repeat(20, 1)
        at = frechet_distance(Features(repeated), reference)
        moved = [Features(torch.cat([repeated, x])) for x in samples.split(1)]
        moves = [20 * rows * (frechet_distance(of, reference) - at) for of in moved]
        found = frechet_error(Features(samples), reference)
        assert found == pytest.approx(np.std(moves) / np.sqrt(rows), rel=0.1)

    def test_of_a_reference_whose_images_are_all_alike(self):
        samples = normal(50, 3, seed=0)
        spread = (samples - 1).square().sum(1).std() / len(samples) ** 0.5
        found = frechet_error(Features(samples), Features(torch.ones(9, 3)))
        assert found == pytest.approx(float(spread), rel=0.1)


@pytest.fixture(scope="module")
def sets() -> tuple[Features, Features]:
    """Two sets of non-negative correlated features, as pooled ReLUs are."""
    mix = normal(32, 32, seed=0) / math.sqrt(32)
    samples = (normal(700, 32, seed=1) @ mix).relu()
    return Features(samples), Features((normal(600, 32, seed=2, shift=0.2) @ mix).relu())


class TestNeighbours:
    @pytest.mark.parametrize("at_once", [2**20, 9000], ids=["whole", "in parts"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_against_prdc(self, sets, dtype, at_once, monkeypatch):
        """Float32 features, too: distances are taken in float64."""
        monkeypatch.setattr(distances, "CHUNK_ELEMENTS", at_once)
        published = pytest.importorskip("prdc", reason="needs prdc")
        samples, reference = (Features(of.values.to(dtype)) for of in sets)
        ours = neighbour_scores(samples, reference)
        for k, names in {3: ("precision", "recall"), 5: ("density", "coverage")}.items():
            arrays = (of.values.double().numpy() for of in (reference, samples))
            theirs = published.compute_prdc(*arrays, nearest_k=k)
            for name in names:
                assert getattr(ours, name) == pytest.approx(theirs[name], abs=1e-9)

    def test_distances_that_are_equal(self):
        """As many are of binary images: all scores tell nearer from as near."""
        draws = torch.Generator().manual_seed(0)
        x, y = (torch.randint(3, (n, 12), generator=draws) for n in (200, 180))
        squares = ((a[:, None] - b).square().sum(-1) for a, b in ((x, y), (x, x), (y, y)))
        between, among_x, among_y = squares
        near_x, near_y = (of.sort(1).values for of in (among_x, among_y))
        expected = Neighbours(
            precision=(between <= near_y[:, 3]).any(1).sum().item() / len(x),
            recall=(between <= near_x[:, 3:4]).any(0).sum().item() / len(y),
            density=(between < near_y[:, 5]).sum().item() / (5 * len(x)),
            coverage=(between < near_y[:, 5]).any(0).sum().item() / len(y),
        )
        found = neighbour_scores(Features(x.float()), Features(y.float()))
        assert astuple(found) == pytest.approx(astuple(expected))


class TestKernel:
    @pytest.mark.parametrize("shift", [0.0, 10.0])
    def test_against_torch_fidelity(self, sets, shift, monkeypatch):
        theirs = pytest.importorskip("torch_fidelity.metric_kid", reason="needs torch-fidelity")
        sets = [of.values + shift for of in sets]
        found = theirs.kid_features_to_metric(
            *(of.double() for of in sets),
            kid_subsets=7,
            kid_subset_size=100,
            rng_seed=5,
            verbose=False,
        )
        expected = tuple(found[f"kernel_inception_distance_{name}"] for name in ("mean", "std"))
        monkeypatch.setattr(distances, "SUBSETS", 7)
        monkeypatch.setattr(distances, "SUBSET_SIZE", 100)
        for dtype, exact in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
            pair = (Features(of.to(dtype)) for of in sets)
            ours = kernel_distance(*pair, seed=5)
            assert astuple(ours) == pytest.approx(expected, rel=exact)


class TestMemorisation:
    def test_equal_features_have_no_distance(self):
        """Though others, as the next frames of a film, are hardly farther."""
        y = normal(50, 200, seed=0, shift=100.0).repeat(3, 1)
        y[:, 0] += 1e-4 * torch.arange(150)
        assert not _nearest_distances(Features(y.clone()), Features(y))[0].any()

    @pytest.mark.parametrize("tail", [0, 4])
    def test_against_plain_formulas(self, tail):
        samples, training, held = (normal(n, 3, seed=n) for n in (40, 600, 50))
        if tail:  # far points, beside which most others are near each other
            samples, training, held = ((tail * of).exp() for of in (samples, training, held))
        found = memorisation(Features(samples), Features(training), {"test": Features(held)})
        to_training = [torch.cdist(x, training).min(dim=1) for x in (samples, held)]
        ours, theirs = (of.values[:, None] for of in to_training)
        assert found.nearer["test"] == pytest.approx(float((ours < theirs.T).double().mean()))
        among = torch.cdist(training, training).fill_diagonal_(torch.inf).min(dim=1).values
        authentic = to_training[0].values > among[to_training[0].indices]
        assert found.authenticity == pytest.approx(float(authentic.double().mean()))

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
        training, held = features(400, 4, seed=1), features(300, 4, seed=2)
        found = memorisation(Features(samples), training, {"test": held})
        assert found.nearer == {"test": nearer}
        assert found.authenticity == authenticity
