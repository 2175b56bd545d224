"""Scores of models of tabular data, and their standard errors by the draw of the test rows."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pythae_fif.baselines import RectangularFlow
from pythae_fif.data.splits import Splits
from pythae_fif.errors import NonFiniteError
from pythae_fif.evaluation import Features, frechet_distance
from pythae_fif.evaluation.distances import energy_distance, frechet_error
from pythae_fif.models import FIF
from pythae_fif.volume_change import squared_error
from studies.tabular.baselines import FlowMatching, LinearGaussian

TrainedModel = FIF | RectangularFlow | FlowMatching
Model = TrainedModel | LinearGaussian

SCORED_ROWS = 2000
"""First test rows, if there are as many, for log-likelihoods and the energy distance."""

Estimate = tuple[float, float]
"""A score, and its standard error over draws of the test rows."""


SCORES_OF_SOME_MODELS = (
    "log_likelihood", "noisy_wasserstein", "noisy_energy", "data_log_likelihood"
)  # fmt: skip
"""Scores that not every model has."""


@dataclass(frozen=True)
class TabularScores:
    """Scores of one trained model.

    A score is NaN if it is not finite or if the model has none.

    Attributes:
        wasserstein: Squared Wasserstein-2 distance between Gaussian fits to the test rows and to as
            many samples.
        reconstruction: Squared error of a test row, summed over its columns; the mean over rows.
        validation_wasserstein: The distance to the validation rows.
        log_likelihood: Mean exact log-likelihood of the first test rows on the manifold, in nats.
        seconds: CPU time of the training.
        cg_iterations: Mean conjugate gradient steps for each Hutchinson vector; None if the model
            takes none.
        energy: Energy distance of samples to the first test rows, see
            :func:`~pythae_fif.evaluation.distances.energy_distance`.
        noise_std: Standard deviation of the noise around the manifold, from the validation rows.
        noisy_wasserstein: `wasserstein` of samples with this noise.
        noisy_energy: `energy` of samples with this noise.
        data_log_likelihood: Mean log-likelihood of the first test rows in data space, R^D, in nats:
            with this noise, or of a model that has a density there without it.
        errors: Name of a score -> its standard error over draws of the test rows, for the same
            model and samples.
    """

    wasserstein: float
    reconstruction: float
    validation_wasserstein: float
    log_likelihood: float
    seconds: float
    cg_iterations: float | None
    energy: float
    noise_std: float
    noisy_wasserstein: float
    noisy_energy: float
    data_log_likelihood: float
    errors: dict[str, float]


def fid_like(samples: Tensor, rows: Tensor) -> Estimate:
    """Computes the squared Wasserstein-2 distance of Gaussian fits; NaN if it is not finite.

    Args:
        samples: Samples (N, D).
        rows: Rows (M, D).

    Returns:
        The distance; and its standard error over draws of the rows.
    """

    def compute() -> Estimate:
        x = Features(samples)
        y = Features(rows)
        # The roles are swapped for the error, which is by the draw of the rows.
        return frechet_distance(x, y), frechet_error(y, x)

    return _finite_or_nan(compute)


@torch.no_grad()
def score_model(
    model: Model,
    splits: Splits,
    seed: int,
    seconds: float,
    steps: float | None,
) -> TabularScores:
    """Computes the scores of a trained model.

    Args:
        model: The model in evaluation mode.
        splits: The data.
        seed: Seed of the samples.
        seconds: CPU time of the training.
        steps: Mean conjugate gradient steps in training, if any.
    """
    torch.manual_seed(seed)
    test = torch.from_numpy(splits.test)
    val = torch.from_numpy(splits.val)
    scored_test = test[:SCORED_ROWS]

    samples = model.sample(len(test))
    estimates = {
        "wasserstein": fid_like(samples, test),
        "energy": energy_distance(samples[:SCORED_ROWS], scored_test),
    }
    validation_wasserstein, _ = fid_like(model.sample(len(val)), val)

    noise_std = math.nan
    if isinstance(model, FIF | RectangularFlow):
        estimates["log_likelihood"] = _finite_or_nan(lambda: _mean(model.log_prob(scored_test)))
        if model.latent_dim < test.shape[1]:
            noise_std = model.estimate_noise_std(val)
        if noise_std > 0:
            estimates |= _score_with_noise(model, noise_std, test)
    else:
        estimates["data_log_likelihood"] = _finite_or_nan(
            lambda: _mean(model.log_prob(scored_test))
        )

    error = math.nan
    if not isinstance(model, FlowMatching):
        error = float(squared_error(model.reconstruct(test), test).mean())

    values = dict.fromkeys(SCORES_OF_SOME_MODELS, math.nan)
    values |= {name: value for name, (value, _) in estimates.items()}
    return TabularScores(
        reconstruction=error,
        validation_wasserstein=validation_wasserstein,
        noise_std=noise_std,
        seconds=seconds,
        cg_iterations=steps,
        errors={name: std for name, (_, std) in estimates.items()},
        **values,
    )


def _score_with_noise(
    model: FIF | RectangularFlow, noise_std: float, test: Tensor
) -> dict[str, Estimate]:
    """Returns the scores of a model with normal noise around its manifold."""
    samples = model.sample(len(test), noise_std=noise_std)
    scored_test = test[:SCORED_ROWS]
    return {
        "noisy_wasserstein": fid_like(samples, test),
        "noisy_energy": energy_distance(samples[:SCORED_ROWS], scored_test),
        "data_log_likelihood": _finite_or_nan(
            lambda: _mean(model.marginal_log_prob(scored_test, noise_std))
        ),
    }


def _mean(values: Tensor) -> Estimate:
    """Returns the mean of values (B,) and its standard error."""
    std, mean = torch.std_mean(values.double())
    return float(mean), float(std) / math.sqrt(len(values))


def _finite_or_nan(score: Callable[[], Estimate]) -> Estimate:
    """Returns a score, or NaN if it raises a NonFiniteError."""
    try:
        return score()
    except NonFiniteError:
        return math.nan, math.nan
