"""Scores against torch-fidelity, pytorch-fid and prdc, and against known truths."""

import math
from dataclasses import astuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.features import normal, statistics_of

from pythae_fif.errors import DataError, NonFiniteError
from pythae_fif.evaluation import (
    frechet_distance,
    frechet_error,
    inception_score,
    kernel_distance,
    neighbour_scores,
    pairs,
)


@pytest.fixture(scope="module")
def sets() -> tuple[torch.Tensor, torch.Tensor]:
    """Two sets of non-negative correlated features, as pooled ReLUs are."""
    mix = normal(32, 32, seed=0) / math.sqrt(32)
    samples = (normal(700, 32, seed=1) @ mix).relu()
    return samples, (normal(600, 32, seed=2, shift=0.2) @ mix).relu()


class TestAgainstTorchFidelity:
    @pytest.fixture(autouse=True)
    def published(self):
        pytest.importorskip("torch_fidelity", reason="needs torch-fidelity")

    def test_fid(self, sets):
        from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

        theirs = [fid_features_to_statistics(features.double()) for features in sets]
        expected = fid_statistics_to_metric(*theirs, verbose=False)["frechet_inception_distance"]
        distance = frechet_distance(*(statistics_of(features) for features in sets))
        assert distance == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("shift", [0.0, 10.0])
    def test_kid(self, sets, shift, monkeypatch):
        from torch_fidelity.metric_kid import kid_features_to_metric

        monkeypatch.setattr(pairs, "TILE", 77)
        sets = [features + shift for features in sets]
        theirs = kid_features_to_metric(
            *(features.double() for features in sets),
            kid_subsets=7,
            kid_subset_size=100,
            rng_seed=5,
            verbose=False,
        )
        expected = tuple(theirs[f"kernel_inception_distance_{name}"] for name in ("mean", "std"))
        arguments = {"subsets": 7, "subset_size": 100, "seed": 5}
        double = kernel_distance(*(features.double() for features in sets), **arguments)
        assert astuple(double) == pytest.approx(expected, rel=1e-9)
        assert astuple(kernel_distance(*sets, **arguments)) == pytest.approx(
            expected, rel=1e-4, abs=1e-7
        )

    @pytest.mark.parametrize("splits", [1, 7, 10])
    def test_inception_score(self, splits):
        from torch_fidelity.metric_isc import isc_features_to_metric

        logits = 3 * normal(503, 20, seed=0)
        theirs = isc_features_to_metric(logits, splits=splits, shuffle=False)
        expected = (theirs["inception_score_mean"], theirs["inception_score_std"])
        score = inception_score(logits, splits, seed=None)
        assert astuple(score) == pytest.approx(expected, rel=1e-9)

    def test_precision_and_recall(self, sets):
        from torch_fidelity.metric_prc import prc_features_to_metric

        theirs = prc_features_to_metric(
            *sets, prc_neighborhood=3, prc_batch_size=256, save_cpu_ram=False, verbose=False
        )
        ours = neighbour_scores(*sets)
        # float32 distances: one sample on a border may fall to either side
        assert ours.precision == pytest.approx(theirs["precision"], abs=1.5 / 700)
        assert ours.recall == pytest.approx(theirs["recall"], abs=1.5 / 600)
        assert 0 < ours.precision < 1


def test_fid_against_pytorch_fid(sets, monkeypatch):
    published = pytest.importorskip("pytorch_fid.fid_score", reason="needs pytorch-fid")
    sqrtm = published.linalg.sqrtm
    # pytorch-fid asks for an argument that recent SciPy no longer has
    monkeypatch.setattr(published.linalg, "sqrtm", lambda matrix, disp=True: (sqrtm(matrix), 0.0))
    moments = []
    for features in sets:
        held = features.double().numpy()
        moments += [held.mean(axis=0), np.cov(held, rowvar=False)]
    expected = published.calculate_frechet_distance(*moments)
    distance = frechet_distance(*(statistics_of(features) for features in sets))
    assert distance == pytest.approx(expected, rel=1e-8)


def test_neighbours_against_prdc(sets):
    published = pytest.importorskip("prdc", reason="needs prdc")
    samples, reference = (features.double() for features in sets)
    ours = neighbour_scores(samples, reference)
    for k, names in {3: ("precision", "recall"), 5: ("density", "coverage")}.items():
        theirs = published.compute_prdc(reference.numpy(), samples.numpy(), nearest_k=k)
        for name in names:
            assert getattr(ours, name) == pytest.approx(theirs[name], abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [1, 3, 50])
def test_neighbours_of_a_table_of_integers(dim, dtype):
    """Where distances and radii are often equal; integers have both exactly."""
    draws = torch.Generator().manual_seed(dim)
    samples, reference = (torch.randint(8, (1100, dim), generator=draws) for _ in range(2))
    distances = [
        x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
        for x, y in ((samples, reference), (samples, samples), (reference, reference))
    ]
    between, *own = distances
    of_samples, of_reference = ([of.kthvalue(k + 1).values for k in (3, 5)] for of in own)
    inside = between < of_reference[1]
    ours = neighbour_scores(*((of.double() * 0.37 + 11).to(dtype) for of in (samples, reference)))
    assert ours.precision == (between <= of_reference[0]).any(1).double().mean()
    assert ours.recall == (between <= of_samples[0][:, None]).any(0).double().mean()
    assert ours.density == pytest.approx(inside.sum().item() / (5 * len(samples)), rel=1e-12)
    assert ours.coverage == inside.any(0).double().mean()


class TestInceptionScore:
    @pytest.mark.parametrize("classes", [2, 10])
    @pytest.mark.parametrize("splits", [1, 10])
    def test_uniform_over_sure_classes_is_their_number(self, classes, splits):
        logits = 200 * torch.eye(classes).repeat(1000, 1)
        mean, std = astuple(inception_score(logits, splits))
        assert mean == pytest.approx(classes, rel=0.02 if splits > 1 else 1e-9)
        assert mean <= classes + 1e-9
        assert 0 <= std < 0.05 * classes

    def test_known_mixture(self):
        """p(y|x) = (0.9, 0.1) or (0.1, 0.9), half each: exp(log 2 - H(0.9))."""
        p = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
        entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
        mean = inception_score(p.log().repeat(20, 1), splits=1).mean
        assert mean == pytest.approx(math.exp(math.log(2) - entropy), rel=1e-12)

    def test_constant_is_one(self):
        mean, std = astuple(inception_score(torch.tensor([[3.0, -1.0, 0.5]]).repeat(50, 1)))
        assert mean == pytest.approx(1, abs=1e-12)
        assert std == pytest.approx(0, abs=1e-12)

    def test_grouped_samples_are_shuffled(self):
        grouped = 200 * torch.eye(10).repeat_interleave(100, dim=0)
        assert inception_score(grouped).mean > 9
        assert inception_score(grouped, seed=1) == inception_score(grouped, seed=1)
        assert inception_score(grouped, seed=1) != inception_score(grouped, seed=2)

    def test_leaves_the_global_random_state(self):
        before = torch.get_rng_state()
        inception_score(torch.zeros(20, 2))
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize(("rows", "splits"), [(9, 10), (0, 1), (5, 0)])
    def test_too_few_samples(self, rows, splits):
        with pytest.raises(DataError, match=f"not {splits} splits of N = {rows}"):
            inception_score(torch.zeros(rows, 3), splits)

    def test_uneven_parts_are_those_of_the_authors(self):
        """Part i of N = 23 in 10 is [i N // 10, (i + 1) N // 10)."""
        logits = torch.randn(23, 4, generator=torch.Generator().manual_seed(0)).double()
        p = logits.softmax(dim=1).numpy()
        expected = []
        for i in range(10):
            part = p[i * 23 // 10 : (i + 1) * 23 // 10]
            kl = part * (np.log(part) - np.log(part.mean(axis=0, keepdims=True)))
            expected.append(np.exp(kl.sum(axis=1).mean()))
        mean, std = astuple(inception_score(logits, 10, seed=None))
        assert (mean, std) == pytest.approx((np.mean(expected), np.std(expected)), rel=1e-12)

    def test_bad_logits(self):
        with pytest.raises(DataError, match=r"\(N, classes\)"):
            inception_score(torch.zeros(20))
        with pytest.raises(NonFiniteError, match="1 of 20 rows"):
            inception_score(torch.zeros(20, 2).index_fill(0, torch.tensor([3]), math.nan))


class TestKnownTruths:
    def test_kernel_distance_of_two_gaussians(self):
        """In one dimension E k(x, y) = E (x y + 1)^3 by the moments of the two."""

        def expected_kernel(m, s, n, t):
            x = [1, m, m**2 + s**2, m**3 + 3 * m * s**2]
            y = [1, n, n**2 + t**2, n**3 + 3 * n * t**2]
            return sum(math.comb(3, k) * x[k] * y[k] for k in range(4))

        truth = (
            expected_kernel(0, 1, 0, 1)
            + expected_kernel(1, 0.5, 1, 0.5)
            - 2 * expected_kernel(0, 1, 1, 0.5)
        )
        a, b = normal(4000, 1, seed=0), 0.5 * normal(4000, 1, seed=1) + 1
        mean, std = astuple(kernel_distance(a, b, subsets=20))
        assert mean == pytest.approx(truth, abs=0.1 * truth)
        assert std < truth

    def test_kernel_distance_is_unbiased(self):
        values = [
            kernel_distance(
                normal(50, 3, seed=2 * i), normal(50, 3, seed=2 * i + 1), subsets=1, subset_size=50
            ).mean
            for i in range(200)
        ]
        assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(200)
        assert min(values) < 0 < max(values)

    def test_identical_sets(self, sets):
        scores = neighbour_scores(sets[0], sets[0])
        assert scores.precision == scores.recall == scores.coverage == 1
        assert scores.density == pytest.approx(1, abs=0.05)

    def test_sets_apart(self):
        scores = neighbour_scores(normal(50, 3, seed=0), normal(50, 3, seed=1, shift=100.0))
        assert set(astuple(scores)) == {0.0}

    def test_one_mode_of_two(self):
        """Samples of one of two modes are precise, and miss half."""
        reference = torch.cat([normal(200, 2, seed=0), normal(200, 2, seed=1, shift=50.0)])
        scores = neighbour_scores(normal(400, 2, seed=2), reference)
        assert scores.precision > 0.9
        assert 0.4 < scores.recall < 0.55
        assert 0.4 < scores.coverage < 0.55
        assert scores.density > 0.8

    @given(scale=st.floats(0.1, 10), shift=st.floats(-1e3, 1e3), rows=st.integers(10, 40))
    def test_neighbours_do_not_see_scale_and_shift(self, scale, shift, rows):
        a, b = normal(rows, 3, seed=rows).double(), normal(30, 3, seed=0, shift=0.5).double()
        moved = neighbour_scores(scale * a + shift, scale * b + shift)
        assert astuple(moved) == pytest.approx(astuple(neighbour_scores(a, b)), abs=1e-12)

    def test_blocks_do_not_matter(self, sets, monkeypatch):
        samples, reference = (features.double() for features in sets)
        expected = neighbour_scores(samples, reference)
        monkeypatch.setattr(pairs, "TILE", 77)
        again = neighbour_scores(samples, reference)
        assert astuple(again) == pytest.approx(astuple(expected), abs=1e-12)


def test_frechet_error_of_features_of_half_precision():
    features = 300 * torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    reference = statistics_of(torch.randn(300, 6, generator=torch.Generator().manual_seed(1)))
    expected = frechet_error(features, reference)
    for half in (torch.float16, torch.bfloat16):
        assert frechet_error(features.to(half), reference) == pytest.approx(expected, rel=0.02)


def test_frechet_error_of_a_reference_whose_images_are_all_alike():
    features = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    alike = statistics_of(torch.ones(9, 3))
    spread = (features - 1).square().sum(1).std() / len(features) ** 0.5
    assert frechet_error(features, alike) == pytest.approx(float(spread), rel=0.1)


class TestErrors:
    @pytest.mark.parametrize("score", [kernel_distance, neighbour_scores])
    def test_shapes_and_values(self, score):
        with pytest.raises(DataError, match=r"not \(9, 3\) and \(9, 4\)"):
            score(torch.zeros(9, 3), torch.zeros(9, 4))
        bad = torch.zeros(9, 3)
        bad[2, 0] = math.nan
        with pytest.raises(NonFiniteError, match="1 of 9 feature vectors of the reference"):
            score(torch.zeros(9, 3), bad)

    def test_too_few(self):
        with pytest.raises(DataError, match="at least 2"):
            kernel_distance(torch.zeros(1, 3), torch.zeros(9, 3))
        with pytest.raises(DataError, match="more than 5 samples"):
            neighbour_scores(torch.zeros(5, 3), torch.zeros(9, 3))
        with pytest.raises(DataError, match="one length"):
            frechet_error(torch.zeros(9, 3), statistics_of(torch.randn(9, 2)))


class TestFrechetError:
    @pytest.mark.parametrize(
        ("rows", "dim", "shift", "most"),
        [(300, 3, 0.3, 1.35), (500, 20, 0.0, 1.35), (30, 60, 0.3, 1.8)],
    )
    def test_is_the_spread_of_new_samples(self, rows, dim, shift, most):
        """Fewer samples than features: too large, and not too small."""
        reference = statistics_of(normal(5000, dim, seed=0))

        def score(seed):
            samples = statistics_of(normal(rows, dim, seed=seed, shift=shift))
            return frechet_distance(samples, reference)

        errors = [
            frechet_error(normal(rows, dim, seed=seed, shift=shift), reference) for seed in range(5)
        ]
        assert 0.65 < np.mean(errors) / np.std([score(seed) for seed in range(100, 160)]) < most

    @pytest.mark.parametrize(("rows", "dim"), [(200, 6), (10, 30)])
    def test_is_the_derivative_by_the_weights(self, rows, dim):
        """A sample that is there twice moves the distance by the N-th part of its influence."""
        features, reference = (
            normal(rows, dim, seed=0),
            statistics_of(normal(100, dim, seed=1)),
        )
        many = 20
        repeated = features.repeat(many, 1)
        at = frechet_distance(statistics_of(repeated), reference)
        moves = [
            many
            * rows
            * (frechet_distance(statistics_of(torch.cat([repeated, x])), reference) - at)
            for x in features.split(1)
        ]
        found = frechet_error(features, reference)
        assert found == pytest.approx(np.std(moves) / np.sqrt(rows), rel=0.1)
