"""Scores of nearest neighbours and KID: against others, plain formulas, and known truths."""

import math
from dataclasses import astuple

import numpy as np
import pytest
import torch
from support.features import features, normal

from pythae_fif.evaluation import Features, distances
from pythae_fif.evaluation.distances import (
    _nearest,
    kernel_distance,
    memorisation,
    neighbour_scores,
)


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
        monkeypatch.setattr(distances, "AT_ONCE", at_once)
        published = pytest.importorskip("prdc", reason="needs prdc")
        samples, reference = (Features(of.values.to(dtype)) for of in sets)
        ours = neighbour_scores(samples, reference)
        for k, names in {3: ("precision", "recall"), 5: ("density", "coverage")}.items():
            arrays = (of.values.double().numpy() for of in (reference, samples))
            theirs = published.compute_prdc(*arrays, nearest_k=k)
            for name in names:
                assert getattr(ours, name) == pytest.approx(theirs[name], abs=1e-9)

    def test_known_sets(self, sets):
        same = neighbour_scores(sets[0], sets[0])
        assert same.precision == same.recall == same.coverage == 1
        assert same.density == pytest.approx(1, abs=0.05)
        apart = neighbour_scores(features(50, 3, seed=0), features(50, 3, seed=1, shift=100.0))
        assert set(astuple(apart)) == {0.0}


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

    def test_is_unbiased(self):
        pairs = [(features(50, 3, seed=2 * i), features(50, 3, seed=2 * i + 1)) for i in range(200)]
        values = [kernel_distance(a, b).mean for a, b in pairs]
        assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(200)
        assert min(values) < 0 < max(values)


class TestMemorisation:
    @pytest.mark.parametrize("k", [1, 2, 3])
    @pytest.mark.parametrize("alone", [True, False])
    def test_nearest_is_that_of_all_distances(self, k, alone):
        x, y = normal(150, 5, seed=0, shift=20.0), normal(130, 5, seed=1, shift=20.0)
        y = x if alone else y
        every = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
        expected = every.topk(k, largest=False)
        distances, which = _nearest(Features(x), Features(y), k)
        assert torch.equal(which, expected.indices[:, -1])
        torch.testing.assert_close(distances, expected.values[:, -1])

    def test_equal_features_have_no_distance(self):
        y = normal(50, 200, seed=0, shift=100.0)
        assert _nearest(Features(y[7:9].clone()), Features(y))[0].tolist() == [0, 0]

    def test_against_plain_formulas(self):
        samples, training, held = (normal(n, 3, seed=n) for n in (40, 60, 50))
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
