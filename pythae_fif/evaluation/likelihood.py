"""The likelihood by which all deterministic autoencoders compare: that of a tube."""

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

POINTS, COLUMNS = 500, 4_000
"""Most data of a split that are scored, and columns of their Jacobians; at least 50 points."""

PRIORS: dict[str, PriorKind | None] = {
    "normal": None, "own_prior": None, "gaussian": "gaussian", "gmm": "mixture", "flow": "flow",
    "flow_matching": "flow_matching",
}  # fmt: skip
"""Sampler -> the fitted prior from which it draws codes, or None."""


def fit_priors(
    model: BaseAE,
    samplers: Iterable[str],
    codes: Tensor,
    labels: np.ndarray | None = None,
    *,
    seed: int,
    steps: int | None,
) -> dict[str, Prior]:
    """The priors from which samplers draw codes, by their names.

    Args:
        model: A trained model of Pythae.
        samplers: Names; those without a prior of codes in R^d, or whose prior cannot be fitted, are
            left out, and all if the model is no density of at most D dimensions.
        codes, labels: Of the training data, (N, d), and of a conditional model their classes.
        seed, steps: Of the fits.
    """
    if not is_density(model) or model.latent_dim > math.prod(model.model_config.input_dim):
        return {}
    density, found = as_density(model), {}
    given, own = density.condition(labels, codes), density.latent_distribution(codes)
    for name in filter(PRIORS.__contains__, samplers):
        prior = own if name == "own_prior" else StandardNormal(torch.zeros_like(codes[0]))
        with suppress(ValueError, LinAlgError):  # too few codes of a class, or not finite
            if (kind := PRIORS[name]) is not None:
                prior = fit_new_prior(kind, codes, *given, seed=seed, steps=steps)
            found[name] = prior
    return found


def marginal_likelihoods(
    model: BaseAE,
    priors: Mapping[str, Prior],
    splits: Splits,
    labels: Mapping[str, np.ndarray],
    val_mse: float,
    seed: int,
) -> dict[str, dict[str, MarginalLikelihoodScore]]:
    """Mean log-density of data in the tube around the manifold of a trained model, with priors; see
    :meth:`~pythae_fif.models.InjectiveFlow.marginal_log_prob`.

    Args:
        model, priors: See :func:`fit_priors`, and what it gives.
        splits: The data.
        labels: Split -> classes, of a conditional model; else empty.
        val_mse: Mean squared error a value of the validation data, which gives the tube's scale.
        seed: Of the draws.

    Returns:
        Sampler -> split, 'val' or 'test' -> likelihood, where it is finite; empty if the model is
        of all D dimensions or reconstructs exactly, or if its Jacobians are not finite.
    """
    dims = math.prod(splits.input_dim)
    if not (priors and val_mse) or model.latent_dim == dims:
        return {}
    density, parts, found = as_density(model), {}, {}
    noise_std = math.sqrt(val_mse * dims / (dims - model.latent_dim))
    points = min(POINTS, max(50, COLUMNS // model.latent_dim))
    try:
        for split in ("val", "test"):
            some = np.unique(np.linspace(0, len(splits[split]) - 1, points).astype(int))
            x = to_float(splits[split][some]).to(next(model.parameters()).device)
            classes = labels[split][some] if labels else None
            parts[split] = density.marginal_likelihood(x, noise_std, classes)
    except NonFiniteError:
        return {}
    for name, prior in priors.items():
        with fork_rng(), suppress(LinAlgError):  # not finite
            torch.manual_seed(seed)
            values = {split: tube.log_prob(prior) for split, tube in parts.items()}
            if all(of.isfinite().all() for of in values.values()):
                found[name] = {of: _summary(part, dims, noise_std) for of, part in values.items()}
    return found


def _summary(nats: Tensor, dims: int, noise_std: float) -> MarginalLikelihoodScore:
    mean, error = nats.mean().item(), nats.std().item() / math.sqrt(len(nats))
    return MarginalLikelihoodScore(mean, error, -mean / (dims * math.log(2)), noise_std, len(nats))
