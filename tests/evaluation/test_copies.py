"""How near samples are to the training images: against plain formulas, and of known sets."""

import numpy as np
import pytest
import torch
from support.features import names_in, noise_images, normal

from pythae_fif.errors import DataError
from pythae_fif.evaluation import PixelExtractor, Reference, memorisation, score_samples
from pythae_fif.evaluation import reference as reference_module
from pythae_fif.evaluation.pairs import nearest

pytestmark = pytest.mark.filterwarnings("ignore::pythae_fif.evaluation.SampleCountWarning")


def reference(features: torch.Tensor) -> Reference:
    return Reference(features, None, "")  # of which no more than the features is looked at


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("part", [64, 1024])
@pytest.mark.parametrize("alone", [True, False])
def test_nearest_is_that_of_all_distances(k, part, alone, monkeypatch):
    monkeypatch.setattr("pythae_fif.evaluation.pairs.PART", part)
    x, y = normal(150, 5, seed=0, shift=20.0), normal(130, 5, seed=1, shift=20.0)
    y = x if alone else y
    expected = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").topk(k, largest=False)
    distances, which = nearest(x, y, k)
    assert torch.equal(which, expected.indices[:, -1])
    torch.testing.assert_close(distances, expected.values[:, -1])


def test_equal_features_have_no_distance():
    y = normal(50, 200, seed=0, shift=100.0)
    assert nearest(y[7:9].clone(), y)[0].tolist() == [0, 0]


def test_against_plain_formulas():
    samples, training, held = (normal(n, 3, seed=n) for n in (40, 60, 50))
    found = memorisation(samples, reference(training), {"test": reference(held)})
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
def test_known_sets(samples, nearer, authenticity):
    training, held = normal(400, 4, seed=1), normal(300, 4, seed=2)
    found = memorisation(samples, reference(training), {"test": reference(held)})
    assert found.nearer == {"test": nearer}
    assert found.authenticity == authenticity


def test_references_that_were_trained_on_count_half():
    training = normal(30, 3, seed=1)
    found = memorisation(training, reference(training), {"test": reference(training)})
    assert found.nearer == {"test": 0.5}


def test_one_training_image_has_no_other():
    with pytest.raises(DataError, match="at least 2 training images, not 1"):
        memorisation(normal(9, 2, seed=0), reference(normal(1, 2, seed=1)), {})


def test_in_the_scores_and_once_for_a_reference(tmp_path, monkeypatch):
    extractor, built = PixelExtractor((1, 8, 8)), []
    monkeypatch.setattr(
        reference_module, "nearest", lambda *given: built.append(1) or nearest(*given)
    )
    sets = [noise_images(n, 1, 8, 8, seed=n) for n in (60, 30, 40)]
    expected = None
    for folder in (None, tmp_path, tmp_path):
        training, val, test = (Reference.of(of, extractor, cache_dir=folder) for of in sets)
        for _ in range(2):
            scores = score_samples(
                sets[0][:20], extractor, {"val": val, "test": test}, training=training
            )
            assert scores.memorisation.nearer == {"val": 1.0, "test": 1.0}
            assert scores.memorisation.authenticity == 0.0
            assert scores == (expected or scores)
            expected = scores
    assert len(built) == 2 * 2  # in memory, and beside the training set's file
    assert len([name for name in names_in(tmp_path) if "nearest" in name]) == 2
    alone = score_samples(sets[0][:20], extractor, {"test": test}, training=training)
    assert alone.memorisation.nearer == {"test": 1.0}
    assert np.isclose(alone.frechet["test"], scores.frechet["test"])
