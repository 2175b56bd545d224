"""The marginal likelihood, by which all deterministic autoencoders are comparable."""

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress

import numpy as np
import torch
from pythae.models import BaseAE
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from pythae_fif.data.splits import Splits, to_float
from pythae_fif.device import fork_rng
from pythae_fif.errors import NonFiniteError
from pythae_fif.evaluation.scores import MarginalLikelihoodScore
from pythae_fif.models.density import as_density, is_density
from pythae_fif.models.fitted_priors import fit_new_prior
from pythae_fif.models.priors import Prior, PriorKind, StandardNormal

MAX_POINTS = 500
"""Maximum number of data points per split that are scored."""
MIN_POINTS = 50
"""Minimum number of data points, if a model's Jacobians have many columns."""
MAX_JACOBIAN_COLUMNS = 4_000
"""Columns of all Jacobians of a split that limit the number of points."""

PRIORS: dict[str, PriorKind | None] = {
    "normal": None, "own_prior": None, "gaussian": "gaussian", "gmm": "mixture", "flow": "flow",
    "flow_matching": "flow_matching",
}  # fmt: skip
"""Sampler -> the kind of fitted prior from which it draws codes; None if it is not fitted."""


def fit_priors(
    model: BaseAE,
    samplers: Iterable[str],
    codes: Tensor,
    labels: np.ndarray | None = None,
    *,
    seed: int,
    steps: int | None,
) -> dict[str, Prior]:
    """Fits the priors from which samplers draw codes.

    Args:
        model: A trained model of Pythae.
        samplers: Names of samplers.
        codes: Codes (N, d) of the training data.
        labels: Classes (N) of the training data, for a conditional model.
        seed: Seed of the fits.
        steps: Training steps of a flow; None for a number that follows the codes.

    Returns:
        Sampler -> its prior. Samplers without a prior on R^d, or with one that cannot be fitted,
        are left out; so are all samplers if the model does not define a density on at most D
        dimensions.
    """
    if not is_density(model) or model.latent_dim > math.prod(model.model_config.input_dim):
        return {}

    density = as_density(model)
    condition = density.condition(labels, codes)
    priors: dict[str, Prior] = {}
    supported_samplers = [name for name in samplers if name in PRIORS]
    for name in supported_samplers:
        kind = PRIORS[name]
        if name == "own_prior":
            priors[name] = density.latent_distribution(codes)
        elif kind is None:
            priors[name] = StandardNormal(torch.zeros_like(codes[0]))
        else:
            # A class may have too few codes, and codes may not be finite.
            with suppress(ValueError, LinAlgError):
                priors[name] = fit_new_prior(kind, codes, *condition, seed=seed, steps=steps)
    return priors


def marginal_likelihoods(
    model: BaseAE,
    priors: Mapping[str, Prior],
    splits: Splits,
    labels: Mapping[str, np.ndarray],
    val_mse: float,
    seed: int,
) -> dict[str, dict[str, MarginalLikelihoodScore]]:
    """Computes the marginal likelihood of data under a trained model, with several priors.

    It is the mean log-density of data when noise is added to the model's manifold; see
    :meth:`~pythae_fif.models.InjectiveFlow.marginal_log_prob`.

    Args:
        model: See :func:`fit_priors`.
        priors: Sampler -> prior, from :func:`fit_priors`.
        splits: The data.
        labels: Split -> classes, for a conditional model; otherwise empty.
        val_mse: Mean squared error per value of the validation data, which gives the noise's scale.
        seed: Seed of the draws.

    Returns:
        Sampler -> split, 'val' or 'test' -> likelihood, for the samplers with a finite one. Empty
        if the model has all D dimensions or reconstructs exactly, or if its Jacobians are not
        finite.
    """
    dims = math.prod(splits.input_dim)
    if not (priors and val_mse) or model.latent_dim == dims:
        return {}

    flow = as_density(model)
    device = next(model.parameters()).device
    noise_std = math.sqrt(val_mse * dims / (dims - model.latent_dim))
    count = min(MAX_POINTS, max(MIN_POINTS, MAX_JACOBIAN_COLUMNS // model.latent_dim))
    densities = {}
    try:
        for split in ("val", "test"):
            indices = np.unique(np.linspace(0, len(splits[split]) - 1, count).astype(int))
            x = to_float(splits[split][indices]).to(device)
            classes = labels[split][indices] if labels else None
            densities[split] = flow.marginal_likelihood(x, noise_std, classes)
    except NonFiniteError:
        return {}

    scores = {}
    for name, prior in priors.items():
        with fork_rng(), suppress(LinAlgError):  # LinAlgError: a matrix is not finite.
            torch.manual_seed(seed)
            nats = {split: density.log_prob(prior) for split, density in densities.items()}
            if all(values.isfinite().all() for values in nats.values()):
                scores[name] = {
                    split: _summarize(values, dims, noise_std) for split, values in nats.items()
                }
    return scores


def _summarize(nats: Tensor, dims: int, noise_std: float) -> MarginalLikelihoodScore:
    """Summarizes the log-densities (N) of data points."""
    mean = nats.mean().item()
    return MarginalLikelihoodScore(
        nats=mean,
        error=nats.std().item() / math.sqrt(len(nats)),
        bits_per_dim=-mean / (dims * math.log(2)),
        scale=noise_std,
        points=len(nats),
    )
