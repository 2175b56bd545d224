"""A detector of outliers with scikit-learn's interface, which trains a FIF."""

import math
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from typing_extensions import Self

from pythae_fif.device import random_state, set_random_state
from pythae_fif.errors import ConfigError, check_choice
from pythae_fif.models import FIF, FIFConfig
from pythae_fif.models.outlier_scores import RISES_WITH_UNUSUAL
from pythae_fif.nn import build_networks
from pythae_fif.training import FIFTrainer, FIFTrainerConfig

OutlierCriterion = Literal["marginal_log_likelihood", "log_likelihood", "distance"]

EXPLAINED_VARIANCE = 0.9
"""Share of the variance that the principal components have whose number is the default d."""
HELD_OUT_SHARE = 0.1
BATCH_SIZE = 64


class FIFOutlierDetector(OutlierMixin, BaseEstimator):
    """Finds unusual rows of a table by a free-form injective flow of the usual ones.

    It has the interface of scikit-learn's detectors, and takes arrays and DataFrames of numbers in
    original units, which it standardises. For categories and missing values put it behind a
    ``ColumnTransformer`` in a pipeline. A tenth of the rows is held out from training: it decides
    which epoch is kept, and gives the noise around the manifold.

    Args:
        latent_dim: Dimension d of the manifold, below the number of columns. None for the number of
            principal components that have 90 % of the variance.
        criterion: The number by which rows are compared: 'marginal_log_likelihood',
            'log_likelihood' or 'distance', see
            :class:`~pythae_fif.models.outlier_scores.OutlierScores`.
        contamination: Share of outliers among the training rows, in (0, 0.5]. As many training rows
            are called outliers.
        max_steps: Number of training steps, each of up to 64 rows.
        learning_rate: Adam's learning rate at its peak; the schedule is a one-cycle.
        random_state: Seed of the weights, the held-out rows and the batches, as in scikit-learn.

    Attributes:
        model_ (FIF): The trained model, in double precision. It takes standardised rows.
        scaler_ (StandardScaler): It standardises rows.
        offset_ (float): Rows with a lower score are outliers.
        n_features_in_ (int): Number of columns.
        feature_names_in_ (np.ndarray): Names of the columns, if the training rows had names.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(200, 3)) @ [[1, 0, 1], [0, 1, 1], [0] * 3]
        >>> detector = FIFOutlierDetector(max_steps=200, random_state=0).fit(rows)
        >>> detector.predict([[0, 0, 0], [0, 0, 5]])
        array([ 1, -1])
    """

    def __init__(
        self,
        latent_dim: int | None = None,
        *,
        criterion: OutlierCriterion = "marginal_log_likelihood",
        contamination: float = 0.1,
        max_steps: int = 2000,
        learning_rate: float = 2e-3,
        random_state: Any = None,
    ) -> None:
        self.latent_dim = latent_dim
        self.criterion = criterion
        self.contamination = contamination
        self.max_steps = max_steps
        self.learning_rate = learning_rate
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Trains the model on rows, most of which are usual.

        Args:
            X: Rows (N, D), N and D at least 2.
            y: Ignored.

        Returns:
            The detector.

        Raises:
            ConfigError: An argument of the detector is out of range.
            ValueError: The rows are not finite numbers, or are too few.
        """
        check_choice(
            self.criterion, get_args(OutlierCriterion), f"criterion={self.criterion!r} is unknown"
        )
        if not 0 < self.contamination <= 0.5:
            raise ConfigError(f"contamination={self.contamination}: a share in (0, 0.5] is needed")
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2, ensure_min_features=2)

        self.scaler_ = StandardScaler().fit(X)
        rows = self.scaler_.transform(X).astype(np.float32)
        seed = check_random_state(self.random_state).randint(2**31)
        with _separate_random_state(seed):
            self.model_ = self._train(rows, seed)
        scores = self._score(X)
        self.offset_ = float(np.percentile(scores, 100 * self.contamination))
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """Computes scores (N,) of rows (N, D); they are low for outliers."""
        check_is_fitted(self)
        return self._score(validate_data(self, X, dtype=np.float64, reset=False))

    def decision_function(self, X: Any) -> np.ndarray:
        """Computes scores minus ``offset_``, (N,); they are negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """Returns -1 for outliers and 1 for other rows, (N,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _score(self, X: np.ndarray) -> np.ndarray:
        """Computes scores (N,) of valid rows (N, D)."""
        with warnings.catch_warnings():
            # The model warns of rows that are unlike its training data, which are expected here.
            warnings.simplefilter("ignore", UserWarning)
            scores = self.model_.outlier_scores(self.scaler_.transform(X))
        sign = -1 if self.criterion in RISES_WITH_UNUSUAL else 1
        return sign * scores.values()[self.criterion].numpy()

    def _train(self, rows: np.ndarray, seed: int) -> FIF:
        """Trains a model on standardised rows (N, D), float32."""
        column_count = rows.shape[1]
        latent_dim = self.latent_dim or _choose_latent_dim(rows)
        networks = build_networks("tabular_small", (column_count,), latent_dim)
        config = FIFConfig(input_dim=(column_count,), latent_dim=latent_dim, beta="auto")
        model = FIF(config, *networks)

        held_out_count = math.ceil(HELD_OUT_SHARE * len(rows))
        order = np.random.RandomState(seed).permutation(len(rows))
        held_out_rows, train_rows = np.split(rows[order], [held_out_count])
        epochs = math.ceil(self.max_steps / math.ceil(len(train_rows) / BATCH_SIZE))
        with tempfile.TemporaryDirectory() as folder:
            training_config = FIFTrainerConfig(
                output_dir=folder,
                num_epochs=epochs,
                learning_rate=self.learning_rate,
                per_device_train_batch_size=BATCH_SIZE,
                scheduler_cls="OneCycleLR",
                scheduler_params={"max_lr": self.learning_rate},
                scheduler_interval="step",
                seed=seed,
            )
            FIFTrainer(model, train_rows, held_out_rows, training_config).train()
        # In double precision the score of a row does not depend on the other rows of a call.
        return model.cpu().double()


def _choose_latent_dim(rows: np.ndarray) -> int:
    """Returns the number of principal components that explain most of the variance, below D."""
    variances = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    shares = np.cumsum(variances) / max(variances.sum(), np.finfo(np.float32).tiny)
    count = 1 + int(np.searchsorted(shares, EXPLAINED_VARIANCE))
    return min(count, rows.shape[1] - 1)


@contextmanager
def _separate_random_state(seed: int) -> Iterator[None]:
    """Seeds torch for a block, and then restores the global random states."""
    state = random_state()
    try:
        torch.manual_seed(seed)
        yield
    finally:
        set_random_state(state)
