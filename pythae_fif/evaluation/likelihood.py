"""The marginal likelihood, by which all deterministic autoencoders are comparable."""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas
import torch
from pythae.models import BaseAE
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from pythae_fif.data.splits import Splits, to_float
from pythae_fif.device import fork_rng
from pythae_fif.errors import NonFiniteError
from pythae_fif.evaluation.score_types import MarginalLikelihoodScore
from pythae_fif.files import csv_name
from pythae_fif.models.density import as_density, is_density
from pythae_fif.models.fitted_priors import fit_new_prior
from pythae_fif.models.injective_flow import InjectiveFlow
from pythae_fif.models.outputs import Labels
from pythae_fif.models.priors import Prior, StandardNormal
from pythae_fif.nn.coupling import FlowDecoder
from pythae_fif.sampling.catalog import find_sampler

MAX_POINTS = {"val": 500, "test": 2_000}
"""Split -> maximum number of data points that are scored; validation data only choose."""
MIN_POINTS = 50
"""Minimum number of data points, if there are as many. None are scored if their Jacobians have more
columns than the training allows."""
SAMPLES_PER_POINT = 5
"""A profile that scores so many samples scores one data point."""
MAX_JACOBIAN_COLUMNS = 42_000
"""Columns of all Jacobians of a split that limit the number of points: 2,000 for d = 21."""
IMAGES_PER_COLUMN = 5
"""A training allows one column of a split for so many images, counted in each epoch, because
likelihoods should not take longer than the training. With two priors, a column of both splits took
as long as training on five images (MNIST, ConvNets, one core)."""
FREE_COLUMNS = 1_000
"""Columns of a split that every training allows."""
MIN_PRIOR_POINTS = 1_000
MAX_PRIOR_POINTS = 10_000
"""Minimum and maximum number of training points whose modes a prior is fitted to."""
IMAGES_PER_PRIOR_COLUMN = 2
"""A training allows one column of the Jacobians of these points for so many images."""


class SplitLikelihood(NamedTuple):
    """The marginal likelihoods of the points of a split that were scored.

    Attributes:
        examples: The points that were scored, (N,), equal for all models of a table: their files or
            row numbers if the data have ``example_ids``, and otherwise their indices in the split.
        nats: Log-densities (N,), in nats; for a table, of the standardised rows.
        score: Their summary.
    """

    examples: np.ndarray
    nats: np.ndarray
    score: MarginalLikelihoodScore

    def to_csv(self) -> str:
        """Returns a table with one row for each point: its file or row number, and its nats."""
        is_file = self.examples.dtype.kind in "UO"
        names = [*map(csv_name, self.examples)] if is_file else self.examples
        frame = pandas.DataFrame({"file" if is_file else "row": names, "nats": self.nats})
        return frame.to_csv(index=False, float_format="%.4f", lineterminator="\n")


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
    supported_samplers = [name for name in samplers if find_sampler(name).has_density]
    for name in supported_samplers:
        kind = find_sampler(name).prior_kind
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
    samplers: Iterable[str],
    splits: Splits,
    labels: Mapping[str, np.ndarray],
    *,
    num_samples: int,
    training_images: float,
    seed: int,
    steps: int | None,
) -> dict[str, dict[str, SplitLikelihood]]:
    """Computes the marginal likelihood of data under a trained model, with several priors.

    It is the mean log-density of data when noise is added to the model's manifold; see
    :meth:`~pythae_fif.models.InjectiveFlow.marginal_log_prob`. The priors are fitted to the modes
    of training points, and the noise's scale is that of the modes of validation points, so that the
    likelihood depends on the decoder and the prior, and not on the encoder.

    Args:
        model: See :func:`fit_priors`.
        samplers: Names of the samplers whose priors are used.
        splits: The data.
        labels: Split -> classes, for a conditional model; otherwise empty.
        num_samples: Number of samples that the run scores. It limits the number of data points, see
            :data:`SAMPLES_PER_POINT`.
        training_images: Number of images that the training used, counted in each epoch; infinite
            if it is not known. It also limits the number of data points, see
            :data:`IMAGES_PER_COLUMN`.
        seed: Seed of the fits and draws.
        steps: Training steps of a flow; None for a number that follows the codes.

    Returns:
        Sampler -> split, 'val' or 'test' -> likelihoods, for the samplers with a finite one. A flow
        of all D dimensions has a density without noise. Empty if another model has all D dimensions
        or reconstructs exactly, if Jacobians are not finite, or if they take too long.
    """
    dims = math.prod(splits.input_dim)
    is_bijective = model.latent_dim == dims and isinstance(model.decoder, FlowDecoder)
    if not is_density(model) or (model.latent_dim >= dims and not is_bijective):
        return {}
    rows = {
        split: _choose_rows(
            split, len(splits[split]), model.latent_dim, num_samples, training_images
        )
        for split in MAX_POINTS
    }
    if not len(rows["test"]):
        return {}
    rows["train"] = _choose_prior_rows(len(splits.train), model.latent_dim, training_images)

    flow = as_density(model)
    device = next(model.parameters()).device
    points = {split: to_float(splits[split][rows[split]]).to(device) for split in rows}
    classes = {split: labels[split][rows[split]] if labels else None for split in rows}
    ids = splits.example_ids or {split: np.arange(len(splits[split])) for split in rows}

    scores: dict[str, dict[str, SplitLikelihood]] = {}
    with fork_rng(), suppress(NonFiniteError):
        torch.manual_seed(seed)
        compute = _bijective_likelihood if is_bijective else _likelihood_with_noise
        codes, log_prob = compute(flow, points, classes)
        priors = fit_priors(model, samplers, codes, classes["train"], seed=seed, steps=steps)

        for name, prior in priors.items():
            torch.manual_seed(seed)
            with suppress(LinAlgError):  # a matrix is not finite
                nats, noise_std = log_prob(prior)
                if all(values.isfinite().all() for values in nats.values()):
                    scores[name] = {
                        split: SplitLikelihood(
                            ids[split][rows[split]],
                            values.cpu().numpy(),
                            _summarize(values, dims, noise_std),
                        )
                        for split, values in nats.items()
                    }
    return scores


_LogProb = Callable[[Prior], tuple[dict[str, Tensor], float]]
"""Computes the log-densities of 'val' and 'test' with a prior, and the noise's scale."""


def _bijective_likelihood(
    flow: InjectiveFlow, points: Mapping[str, Tensor], _: Any
) -> tuple[Tensor, _LogProb]:
    """Returns the codes of training points, and the densities of a flow of all D dimensions."""
    codes = {split: flow.encode(x) for split, x in points.items()}
    log_volumes = {split: flow.log_volume(points[split]) for split in MAX_POINTS}

    def log_prob(prior: Prior) -> tuple[dict[str, Tensor], float]:
        return {
            split: prior.log_prob(codes[split]) - log_volume
            for split, log_volume in log_volumes.items()
        }, 0.0

    return codes["train"], log_prob


def _likelihood_with_noise(
    flow: InjectiveFlow, points: Mapping[str, Tensor], classes: Mapping[str, Labels]
) -> tuple[Tensor, _LogProb]:
    """Returns the modes of training points, and the densities with noise around the manifold.

    Raises:
        NonFiniteError: A Jacobian is not finite, or all reconstructions are exact.
    """
    std_of_encoder = flow.estimate_noise_std(points["val"], classes["val"])
    if std_of_encoder == 0:
        raise NonFiniteError("without noise the density is infinite on the manifold")
    densities = {
        split: flow.marginal_likelihood(points[split], std_of_encoder, classes[split])
        for split in MAX_POINTS
    }

    def log_prob(prior: Prior) -> tuple[dict[str, Tensor], float]:
        modes = flow.find_modes(points["val"], classes["val"], prior)
        noise_std = flow.estimate_noise_std(points["val"], classes["val"], codes=modes)
        return {
            split: replace(density, noise_std=noise_std).log_prob(prior)
            for split, density in densities.items()
        }, noise_std

    return flow.find_modes(points["train"], classes["train"]), log_prob


def _choose_prior_rows(size: int, latent_dim: int, training_images: float) -> np.ndarray:
    """Chooses the training points whose modes the priors are fitted to, at equal distances."""
    affordable_points = training_images / IMAGES_PER_PRIOR_COLUMN / latent_dim
    count = min(size, MAX_PRIOR_POINTS, max(MIN_PRIOR_POINTS, affordable_points))
    return np.unique(np.linspace(0, size - 1, int(count)).astype(int))


def _choose_rows(
    split: str, size: int, latent_dim: int, num_samples: int, training_images: float
) -> np.ndarray:
    """Chooses the points of a split that are scored, at equal distances; none if it takes long."""
    allowed_columns = max(FREE_COLUMNS, training_images / IMAGES_PER_COLUMN)
    affordable_points = int(min(MAX_JACOBIAN_COLUMNS, allowed_columns) // latent_dim)
    if affordable_points < MIN_POINTS:
        return np.empty(0, dtype=int)

    count = min(MAX_POINTS[split], num_samples // SAMPLES_PER_POINT, affordable_points)
    return np.unique(np.linspace(0, size - 1, max(MIN_POINTS, count)).astype(int))


def _summarize(nats: Tensor, dims: int, noise_std: float) -> MarginalLikelihoodScore:
    """Summarizes the log-densities (N) of data points."""
    mean = nats.mean().item()
    return MarginalLikelihoodScore(
        nats=mean,
        error=nats.std().item() / math.sqrt(len(nats)),
        bits_per_dim=-mean / (dims * math.log(2)),
        scale=noise_std,
        points=len(nats),
        codes="mode",
    )
