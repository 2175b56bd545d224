"""Inception score (classifier score) of logits."""

__all__ = ["inception_score"]

import itertools
import math

import torch
from torch import Tensor

from pythae_fif.errors import DataError, NonFiniteError
from pythae_fif.evaluation.scores import MeanStd


def inception_score(logits: Tensor, splits: int = 10, *, seed: int | None = 0) -> MeanStd:
    r"""Inception score: how sure and how varied a classifier is about samples.

    $$ \exp \mathbb{E}_x \, KL(p(y|x) \| p(y)) $$

    over each of `splits` subsets of the samples (Salimans et al. 2016, sec. 4). With any network
    but Inception v3 it is called classifier score and compares with nothing but itself. Samples are
    shuffled first: some samplers return them grouped by mixture component, and a split of one
    component would score too low. With N not a multiple of `splits`, split i holds the samples
    i N // splits up to (i + 1) N // splits, as in the authors' code. The logits decide which score
    it is: those of `inception` leave the bias out, as the authors' code did.

    Args:
        logits: Class logits (N, classes) with N >= splits.
        splits: Number of splits.
        seed: Seed of the shuffle; None leaves the order.

    Returns:
        Mean and (population) standard deviation over the splits, each in [1, classes].

    Raises:
        DataError: not two axes, or fewer samples than splits.
        NonFiniteError: NaN or infinite logits.

    Example:
        >>> score = inception_score(100 * torch.eye(4).repeat(10, 1), splits=1)
        >>> round(score.mean, 6), score.std
        (4.0, 0.0)
    """
    if logits.ndim != 2:
        raise DataError(f"logits must have shape (N, classes), not {tuple(logits.shape)}")
    if splits < 1 or len(logits) < splits:
        raise DataError(
            f"the score needs 1 <= splits <= N, not {splits} splits of N = {len(logits)} samples"
        )
    logits = logits.detach().to(device="cpu", dtype=torch.float64)
    bad = int((~logits.isfinite().all(dim=1)).sum())
    if bad:
        raise NonFiniteError(f"{bad} of {len(logits)} rows of logits are NaN or infinite")
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        logits = logits[torch.randperm(len(logits), generator=generator)]
    log_p = logits.log_softmax(dim=1)
    edges = [i * len(logits) // splits for i in range(splits + 1)]
    scores = torch.stack(
        [_split_score(log_p[start:stop]) for start, stop in itertools.pairwise(edges)]
    )
    return MeanStd(float(scores.mean()), float(scores.std(correction=0)))


def _split_score(log_p: Tensor) -> Tensor:
    marginal = log_p.logsumexp(dim=0) - math.log(len(log_p))
    return (log_p.exp() * (log_p - marginal)).sum(dim=1).mean().exp()
