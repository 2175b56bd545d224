"""The likelihood by which all deterministic autoencoders compare: that of a tube."""

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from pythae.models import BaseAE
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from pythae_fif.data.splits import Splits, to_float
from pythae_fif.device import fork_rng
from pythae_fif.errors import NonFiniteError
from pythae_fif.evaluation.scores import TubeLikelihood
from pythae_fif.models.density import as_density, is_density
from pythae_fif.models.fitted_priors import fitted_prior
from pythae_fif.models.priors import Prior, PriorKind, StandardNormal

POINTS, COLUMNS = 500, 4_000
"""Most data of a split, spread over it, that are scored, and columns of their Jacobians; 50 points
at least."""

PRIORS: dict[str, PriorKind | None] = {
    "normal": None, "gaussian": "gaussian", "gmm": "mixture", "flow": "flow",
}  # fmt: skip
"""Sampler -> the prior from which it draws codes; None for the standard normal."""


def tube_likelihoods(
    model: BaseAE,
    samplers: Iterable[str],
    codes: Tensor,
    splits: Splits,
    labels: Mapping[str, np.ndarray],
    val_mse: float,
    *,
    seed: int,
    steps: int,
) -> dict[str, dict[str, TubeLikelihood]]:
    """Mean log-density of data in the tube around the manifold of a trained model, with the prior
    of each sampler; see :meth:`~pythae_fif.models.InjectiveFlow.tube_log_prob`.

    Args:
        model: A trained model of Pythae.
        samplers: Names; those without a prior of codes in R^d are left out.
        codes: Of the training data, (N, d), to which priors are fitted.
        splits: The data.
        labels: Split -> classes, of a conditional model; else empty.
        val_mse: Mean squared error a value of the validation data's reconstructions, from which
            the tube has its scale.
        seed, steps: Of the fits.

    Returns:
        Sampler -> split, 'val' or 'test' -> likelihood, where the prior can be fitted; empty if the
        model is no density, or of all D dimensions, or if its Jacobians are not finite.
    """
    dims, wanted = math.prod(splits.input_dim), [name for name in samplers if name in PRIORS]
    if not wanted or not is_density(model) or codes.shape[1] == dims:
        return {}
    density, parts = as_density(model), {}
    scale = math.sqrt(val_mse * dims / (dims - codes.shape[1]))
    points = min(POINTS, max(50, COLUMNS // codes.shape[1]))
    try:
        for split in ("val", "test"):
            some = np.unique(np.linspace(0, len(splits[split]) - 1, points).astype(int))
            x = to_float(splits[split][some]).to(next(model.parameters()).device)
            classes = labels[split][some] if labels else None
            parts[split] = density.tube(x, scale, classes)
    except NonFiniteError:
        return {}
    codes = codes.to(x)
    of_codes = density.condition(labels.get("train"), codes)
    found = {}
    for name in wanted:
        prior: Prior = StandardNormal(torch.zeros_like(codes[0]))
        try:
            if (kind := PRIORS[name]) is not None:
                prior = fitted_prior(kind, codes, *of_codes, seed=seed, steps=steps)
            with fork_rng():
                torch.manual_seed(seed)
                values = {split: tube.log_prob(prior) for split, tube in parts.items()}
        except (ValueError, LinAlgError):  # too few codes of a class, or not finite
            continue
        if all(of.isfinite().all() for of in values.values()):
            found[name] = {of: _summary(part, dims, scale) for of, part in values.items()}
    return found


def _summary(nats: Tensor, dims: int, scale: float) -> TubeLikelihood:
    mean, error = nats.mean().item(), nats.std().item() / math.sqrt(len(nats))
    return TubeLikelihood(mean, error, -mean / (dims * math.log(2)), scale, len(nats))
