"""Statistics of features and the Frechet distance: against known values, SciPy, and each other."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.features import normal, statistics_of

from pythae_fif.errors import DataError, NonFiniteError
from pythae_fif.evaluation import frechet_distance
from pythae_fif.evaluation.frechet import squared_wasserstein


def gaussian(rows: int, dim: int, *, seed: int) -> torch.Tensor:
    """Correlated features (rows, dim) of differing scales, off the origin."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    mix = torch.randn(dim, dim, generator=generator, dtype=torch.float64) / math.sqrt(dim)
    return x @ mix + torch.randn(dim, generator=generator, dtype=torch.float64)


class TestStatistics:
    @settings(max_examples=40, deadline=None)
    @given(
        rows=st.integers(2, 70),
        columns=st.integers(1, 9),
        block=st.integers(1, 80),
        shift=st.sampled_from([0.0, 1.0, 1e4]),
        seed=st.integers(0, 1000),
    )
    def test_does_not_depend_on_the_blocks(self, rows, columns, block, shift, seed):
        features = gaussian(rows, columns, seed=seed) + shift
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pythae_fif.evaluation.frechet.ROWS", block)
            patch.setattr("pythae_fif.evaluation.frechet.COLUMNS", 1 + block % columns)
            found = statistics_of(features)
        assert found.count == rows
        expected = torch.from_numpy(np.cov(features.numpy(), rowvar=False)).reshape(columns, -1)
        torch.testing.assert_close(found.mean, features.mean(dim=0), rtol=1e-9, atol=1e-9)
        scale = float(expected.abs().max())
        torch.testing.assert_close(found.covariance, expected, rtol=1e-9, atol=1e-9 * scale)
        assert torch.equal(found.scatter, found.scatter.T)

    def test_is_float64_from_float32_features(self):
        features = gaussian(500, 3, seed=0).float() + 1e3
        expected = np.cov(features.double().numpy(), rowvar=False)
        covariance = statistics_of(features).covariance
        assert covariance.dtype == torch.float64
        np.testing.assert_allclose(covariance.numpy(), expected, rtol=1e-9)

    def test_rejects_another_shape(self):
        with pytest.raises(DataError, match=r"shape \(N, F\), not \(4,\)"):
            statistics_of(torch.zeros(4))

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_names_the_non_finite(self, bad):
        features = torch.zeros(5, 2)
        features[1, 0] = features[3, 1] = bad
        with pytest.raises(NonFiniteError, match="2 of 5 feature vectors"):
            statistics_of(features)

    def test_too_few(self):
        with pytest.raises(DataError, match="at least 2 feature vectors, not 0"):
            _ = statistics_of(torch.zeros(0, 2)).covariance
        with pytest.raises(DataError, match="at least 2 feature vectors, not 1"):
            _ = statistics_of(torch.zeros(1, 2)).covariance


class TestFrechet:
    def test_known_gaussians(self):
        """Diagonal Gaussians: |shift|^2 + sum (s_a - s_b)^2."""
        corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
        unit = corners * math.sqrt(7 / 8)  # unbiased variance 1 in each direction
        scale, shift = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([0.0, 3.0, -4.0])
        distance = frechet_distance(statistics_of(unit), statistics_of(unit * scale + shift))
        assert distance == pytest.approx(25 + 0 + 1 + 16, rel=1e-12)

    @pytest.mark.parametrize(("rows", "dim"), [(200, 6), (10, 40)])
    def test_identical_sets(self, rows, dim):
        a = statistics_of(gaussian(rows, dim, seed=1))
        assert 0 <= frechet_distance(a, a) <= 1e-10 * float(a.covariance.trace())

    @pytest.mark.parametrize("dim", [1, 2, 17, 64])
    def test_agrees_with_scipy_sqrtm_at_full_rank(self, dim):
        x, y = gaussian(5 * dim, dim, seed=2), gaussian(4 * dim, dim, seed=3)
        a, b = statistics_of(x), statistics_of(y)
        root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy())
        expected = (
            float((a.mean - b.mean).square().sum())
            + float(a.covariance.trace() + b.covariance.trace())
            - 2 * float(np.trace(root).real)
        )
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
        assert squared_wasserstein(x, y) == pytest.approx(expected, rel=1e-6)  # of tables

    @pytest.mark.parametrize(("n", "m", "dim"), [(5, 7, 30), (2, 2, 10), (20, 200, 50)])
    def test_agrees_with_the_nuclear_norm_at_deficient_rank(self, n, m, dim):
        """tr (S_a^1/2 S_b S_a^1/2)^1/2 = |X_a X_b^T|_* of centred, scaled data, F > n."""
        x, y = gaussian(n, dim, seed=4), gaussian(m, dim, seed=5)
        x_centred = (x - x.mean(dim=0)) / math.sqrt(n - 1)
        y_centred = (y - y.mean(dim=0)) / math.sqrt(m - 1)
        expected = (
            (x.mean(dim=0) - y.mean(dim=0)).square().sum()
            + x_centred.square().sum()
            + y_centred.square().sum()
            - 2 * torch.linalg.matrix_norm(x_centred @ y_centred.T, "nuc")
        )
        distance = frechet_distance(statistics_of(x), statistics_of(y))
        assert distance == pytest.approx(float(expected), rel=1e-10)

    @settings(max_examples=40, deadline=None)
    @given(n=st.integers(2, 12), m=st.integers(2, 12), dim=st.integers(1, 8), seed=st.integers(0))
    def test_symmetric_and_at_least_the_distance_of_the_means(self, n, m, dim, seed):
        a = statistics_of(gaussian(n, dim, seed=seed % 2**31))
        b = statistics_of(gaussian(m, dim, seed=(seed + 1) % 2**31))
        there, back = frechet_distance(a, b), frechet_distance(b, a)
        assert there == pytest.approx(back, rel=1e-8)
        assert there >= float((a.mean - b.mean).square().sum()) * (1 - 1e-8)

    def test_constant_features(self):
        a, b = (
            statistics_of(torch.zeros(3, 2)),
            statistics_of(torch.full((3, 2), 2.0)),
        )
        assert frechet_distance(a, b) == 8

    def test_too_few_or_of_another_extractor(self):
        one, two = statistics_of(torch.zeros(1, 2)), statistics_of(torch.zeros(2, 2))
        with pytest.raises(DataError, match="at least 2"):
            frechet_distance(one, two)
        with pytest.raises(DataError, match="not 2 and 3; use one extractor"):
            frechet_distance(two, statistics_of(torch.zeros(2, 3)))


class TestFrechetPaths:
    """The Cholesky way and the singular values agree wherever the first is taken."""

    @pytest.mark.parametrize("decay", [0, 2, 4, 6])
    def test_ill_conditioned(self, decay):
        scales = torch.logspace(0, -decay, 40, dtype=torch.float64)
        a = statistics_of(normal(500, 40, seed=0).double() * scales)
        b = statistics_of(normal(400, 40, seed=1).double() * scales * 1.1)
        expected = self.by_singular_values(a, b)
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-7)

    def test_a_constant_feature(self):
        x, y = normal(90, 5, seed=0).double(), normal(80, 5, seed=1).double()
        x[:, 2] = 1.0
        a, b = statistics_of(x), statistics_of(y)
        assert frechet_distance(a, b) == pytest.approx(self.by_singular_values(a, b), rel=1e-9)

    def by_singular_values(self, a, b):
        def root(covariance):
            values, vectors = torch.linalg.eigh(covariance)
            return vectors * values.clamp(min=0).sqrt()

        s_a, s_b = a.covariance, b.covariance
        fidelity = torch.linalg.svdvals(root(s_a).T @ root(s_b)).sum()
        shift = (a.mean - b.mean).square().sum()
        return float(shift + s_a.trace() + s_b.trace() - 2 * fidelity)
