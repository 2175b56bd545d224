"""`FIFOutlierDetector` has scikit-learn's interface, and finds outliers."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_wine
from sklearn.metrics import roc_auc_score
from sklearn.utils.estimator_checks import check_estimator

from pythae_fif import FIFOutlierDetector
from pythae_fif.errors import ConfigError

CRITERIA = ("marginal_log_likelihood", "log_likelihood", "distance")


@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks():
    check_estimator(FIFOutlierDetector(max_steps=2))


pytestmark = pytest.mark.filterwarnings("error:X does not have valid feature names")


@pytest.fixture(scope="module")
def wine() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Wines of one kind, and of the two others."""
    frame, kinds = load_wine(return_X_y=True, as_frame=True)
    return frame[kinds == 1], frame[kinds != 1]


@pytest.fixture(scope="module")
def detector(wine) -> FIFOutlierDetector:
    """A detector that is trained on every second wine of the first kind."""
    normal, _ = wine
    return FIFOutlierDetector(contamination=0.2, max_steps=500, random_state=0).fit(normal[::2])


def test_the_share_of_contamination_is_called_outliers(wine, detector):
    train = wine[0][::2]
    is_outlier = detector.predict(train) == -1
    assert is_outlier.mean() == pytest.approx(0.2, abs=1 / len(train))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_other_wines_are_outliers(wine, detector, criterion):
    normal, others = wine
    rows = pd.concat([normal[1::2], others])
    scores = copy.copy(detector).set_params(criterion=criterion).score_samples(rows)
    is_normal = np.arange(len(scores)) < len(normal[1::2])
    assert roc_auc_score(is_normal, scores) > 0.8


def test_a_seed_repeats_a_fit_and_changes_no_global_state(wine):
    normal, others = wine
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    scores = [
        FIFOutlierDetector(max_steps=5, random_state=seed).fit(normal).score_samples(others)
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.allclose(scores[0], scores[2])
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "likelihood"}, "criterion='likelihood' is unknown"),
        ({"contamination": 0.7}, "a share in"),
        ({"latent_dim": 13}, "needs a latent_dim below 13"),
    ],
)
def test_wrong_arguments(wine, options, message):
    with pytest.raises(ConfigError, match=message):
        FIFOutlierDetector(**options).fit(wine[0])
