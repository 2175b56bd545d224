"""The marginal likelihood, by which all deterministic autoencoders are comparable."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from pythae.models import BaseAE
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from pythae_fif.data.splits import SPLIT_NAMES, Splits, to_float
from pythae_fif.device import fork_rng
from pythae_fif.errors import NonFiniteError, TooSlowError, pluralized
from pythae_fif.evaluation.counter import Counter, OnProgress
from pythae_fif.evaluation.score_types import MarginalLikelihoodScore
from pythae_fif.files import csv_name
from pythae_fif.models.density import as_density, is_density
from pythae_fif.models.fitted_priors import fit_new_prior
from pythae_fif.models.injective_flow import InjectiveFlow
from pythae_fif.models.marginal_likelihood import MarginalLikelihood
from pythae_fif.models.priors import Prior, StandardNormal
from pythae_fif.nn.coupling import FlowDecoder
from pythae_fif.sampling.catalog import find_sampler

MAX_POINTS = {"train": 10_000, "val": 500, "test": 2_000}
"""Split -> maximum number of its points. Priors are fitted to the modes of training points,
validation data only choose."""
MIN_POINTS = {"train": 1_000, "val": 50, "test": 50}
"""Split -> minimum number of its points, if there are as many."""
SCORED_SPLITS = ("val", "test")
TRIAL_POINTS = (10, 10, 50, 250)
"""Points of the trials that measure the time of a point. The first one is a warm-up."""
TRIAL_SECONDS = 1.0
"""Time of a trial that is long enough to tell the time of a point."""
SAMPLES_PER_POINT = 5
"""A profile that scores so many samples scores one data point."""
FREE_SECONDS = 60
"""Time for likelihoods that every training allows. A longer one allows as long as it took."""
BATCH_SIZE = 250
"""Points whose densities are computed at once."""


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
        import pandas as pd  # imported here, because it takes long

        is_file = self.examples.dtype.kind in "UO"
        names = [*map(csv_name, self.examples)] if is_file else self.examples
        frame = pd.DataFrame({"file" if is_file else "row": names, "nats": self.nats})
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
    for name in samplers:
        if not find_sampler(name).has_density:
            continue
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
    train_seconds: float,
    seed: int,
    steps: int | None,
    progress: OnProgress = lambda done, total: None,
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
        train_seconds: Time of the training; infinite if it is not known. If a trial on a few points
            shows that likelihoods would take longer, there are fewer data points.
        seed: Seed of the fits and draws.
        steps: Training steps of a flow; None for a number that follows the codes.
        progress: Called after each batch of points.

    Returns:
        Sampler -> split, 'val' or 'test' -> likelihoods, for the samplers with a finite one. A flow
        of all D dimensions has a density without noise. Empty if another model has all D dimensions
        or reconstructs exactly, or if Jacobians are not finite.

    Raises:
        TooSlowError: The smallest number of points would take longer than the training.
    """
    dims = math.prod(splits.input_dim)
    is_bijective = model.latent_dim == dims and isinstance(model.decoder, FlowDecoder)
    supported_samplers = [name for name in samplers if find_sampler(name).has_density]
    if not is_density(model) or (model.latent_dim >= dims and not is_bijective):
        return {}
    if not supported_samplers:
        return {}

    flow = as_density(model)
    device = next(model.parameters()).device
    ids = splits.example_ids or {split: np.arange(len(splits[split])) for split in SPLIT_NAMES}
    scores: dict[str, dict[str, SplitLikelihood]] = {}
    with fork_rng(), suppress(NonFiniteError):
        sizes = {split: len(splits[split]) for split in SPLIT_NAMES}
        counts = _count_points(sizes, num_samples)
        max_seconds = max(FREE_SECONDS, train_seconds)
        affordable = max_seconds / _count_steps(counts, len(supported_samplers))
        seconds = _seconds_per_point(flow, splits, labels, device, is_bijective, affordable)
        rows = _choose_rows(sizes, num_samples, len(supported_samplers), seconds, max_seconds)
        points = {split: to_float(splits[split][rows[split]]).to(device) for split in rows}
        classes = {split: labels[split][rows[split]] if labels else None for split in rows}
        counts = {split: len(indices) for split, indices in rows.items()}
        counter = Counter(progress, _count_steps(counts, len(supported_samplers)))

        torch.manual_seed(seed)
        compute = _bijective_likelihood if is_bijective else _likelihood_with_noise
        codes, log_prob = compute(flow, points, classes, counter)
        priors = fit_priors(
            model, supported_samplers, codes, classes["train"], seed=seed, steps=steps
        )

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
    flow: InjectiveFlow, points: Mapping[str, Tensor], _: Any, counter: Counter
) -> tuple[Tensor, _LogProb]:
    """Returns the codes of training points, and the densities of a flow of all D dimensions."""
    codes = {split: flow.encode(x) for split, x in points.items()}
    log_volumes: dict[str, Tensor] = {}
    for split in SCORED_SPLITS:
        parts = []
        for part in points[split].split(BATCH_SIZE):
            parts.append(flow.log_volume(part))
            counter.add(len(part))
        log_volumes[split] = torch.cat(parts)

    def log_prob(prior: Prior) -> tuple[dict[str, Tensor], float]:
        return {
            split: prior.log_prob(codes[split]) - log_volume
            for split, log_volume in log_volumes.items()
        }, 0.0

    return codes["train"], log_prob


def _likelihood_with_noise(
    flow: InjectiveFlow,
    points: Mapping[str, Tensor],
    classes: Mapping[str, np.ndarray | None],
    counter: Counter,
) -> tuple[Tensor, _LogProb]:
    """Returns the modes of training points, and the densities with noise around the manifold.

    Raises:
        NonFiniteError: A Jacobian is not finite, or all reconstructions are exact.
    """
    if flow.estimate_noise_std(points["val"], classes["val"]) == 0:
        raise NonFiniteError("without noise the density is infinite on the manifold")
    modes = {
        split: flow.find_modes(x, classes[split], on_batch=counter.add)
        for split, x in points.items()
    }
    first_std = flow.estimate_noise_std(points["val"], classes["val"], codes=modes["val"])

    # The search for each prior starts at these modes.
    densities: dict[str, list[MarginalLikelihood]] = {split: [] for split in SCORED_SPLITS}
    for split, batches in densities.items():
        split_classes = classes[split]
        for start in range(0, len(points[split]), BATCH_SIZE):
            batch = slice(start, start + BATCH_SIZE)
            labels = None if split_classes is None else split_classes[batch]
            x = points[split][batch]
            batches.append(flow.marginal_likelihood(x, labels, start=modes[split][batch]))

    def log_prob(prior: Prior) -> tuple[dict[str, Tensor], float]:
        codes = torch.cat([density.find_modes(prior, first_std) for density in densities["val"]])
        counter.add(len(codes))
        noise_std = flow.estimate_noise_std(points["val"], classes["val"], codes=codes)
        nats: dict[str, list[Tensor]] = {split: [] for split in densities}
        for split, batches in densities.items():
            for density in batches:
                nats[split].append(density.log_prob(prior, noise_std))
                counter.add(len(density.x))
        return {split: torch.cat(values) for split, values in nats.items()}, noise_std

    return modes["train"], log_prob


def _count_points(sizes: Mapping[str, int], num_samples: int, share: float = 1.0) -> dict[str, int]:
    """Returns how many points of each split are used.

    Args:
        sizes: Split -> number of its data points.
        num_samples: Number of samples that the run scores.
        share: Share of the points, down to the minimum numbers.
    """
    counts = {}
    for split, size in sizes.items():
        maximum = MAX_POINTS[split]
        if split in SCORED_SPLITS:
            maximum = min(maximum, num_samples // SAMPLES_PER_POINT)
        count = int(share * min(size, maximum))
        counts[split] = min(size, max(MIN_POINTS[split], count))
    return counts


def _count_steps(counts: Mapping[str, int], priors: int) -> int:
    """Returns how many points are searched or scored, given the numbers of points and priors."""
    searched_once = counts["train"] + counts["val"] + counts["test"]
    return searched_once + priors * (2 * counts["val"] + counts["test"])


def _seconds_per_point(
    flow: InjectiveFlow,
    splits: Splits,
    labels: Mapping[str, np.ndarray],
    device: torch.device,
    is_bijective: bool,
    affordable: float,
) -> float:
    """Returns the time of a point with one prior, from trials on more and more points.

    The more points there are, the less time each takes. So the trials end as soon as a point takes
    no longer than `affordable`. On a CPU the time is the processor's, in which other programs on
    the machine do not count.
    """
    is_cpu = device.type == "cpu"
    clock = time.process_time if is_cpu else time.monotonic
    threads = torch.get_num_threads() if is_cpu else 1

    seconds = 0.0
    for count in TRIAL_POINTS:
        x = to_float(splits.val[:count]).to(device)
        classes = labels["val"][:count] if labels else None
        start = clock()
        if is_bijective:
            flow.log_volume(x)
        else:
            noise_std = flow.estimate_noise_std(x, classes)
            if noise_std > 0:
                density = flow.marginal_likelihood(x, classes)
                density.log_prob(flow.latent_distribution(x), noise_std)
        is_warm_up = not seconds
        seconds = (clock() - start) / threads
        is_known = seconds > TRIAL_SECONDS or seconds / len(x) <= affordable
        if is_known and not is_warm_up:
            break
    return seconds / len(x)


def _choose_rows(
    sizes: Mapping[str, int],
    num_samples: int,
    priors: int,
    seconds_per_point: float,
    max_seconds: float,
) -> dict[str, np.ndarray]:
    """Chooses the points of each split, at equal distances.

    If they would take longer than allowed, their numbers are halved. Models of a table differ in
    their points only if one is too slow.

    Args:
        sizes: Split -> number of its data points.
        num_samples: Number of samples that the run scores.
        priors: Number of priors.
        seconds_per_point: Time of a point with one prior.
        max_seconds: Time that is allowed.

    Raises:
        TooSlowError: The smallest numbers would take longer.
    """
    share = 1.0
    while True:
        counts = _count_points(sizes, num_samples, share)
        seconds = seconds_per_point * _count_steps(counts, priors)
        if seconds <= max_seconds:
            return {
                split: np.unique(np.linspace(0, sizes[split] - 1, count).astype(int))
                for split, count in counts.items()
            }

        if all(count <= MIN_POINTS[split] for split, count in counts.items()):
            raise TooSlowError(
                f"{pluralized(counts['test'], 'point')} would take {seconds:,.0f} s, longer than "
                f"the training and than {FREE_SECONDS} s"
            )
        share /= 2


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
