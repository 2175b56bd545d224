"""How far codes are from the prior, by their first two moments."""

__all__ = ["CodeScores", "score_codes"]

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CodeScores:
    """Of the Gaussian of the codes' mean and covariance, in nats; >= 0.

    Attributes:
        divergence: Kullback-Leibler divergence from it to the standard normal.
        total_correlation: Likewise from it to the product of its marginals; part of the
            divergence.
    """

    divergence: float
    total_correlation: float


def score_codes(codes: Tensor) -> CodeScores | None:
    """Scores codes (N, d); None for maps of codes, and for codes that do not span their space.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> z = torch.randn(100_000, 2)
        >>> correlated = torch.stack((z[:, 0], 0.6 * z[:, 0] + 0.8 * z[:, 1]), 1)
        >>> found = score_codes(correlated)
        >>> round(found.divergence, 2), round(found.total_correlation, 2)  # -log(0.8) = 0.22
        (0.22, 0.22)
    """
    if codes.ndim != 2:
        return None
    z = codes.detach().double()
    centred = z - z.mean(0)
    covariance = centred.mT @ centred / len(z)
    variances, along_axes = covariance.diagonal(), torch.linalg.eigvalsh(covariance)
    if not along_axes[0] > along_axes[-1] * len(variances) * torch.finfo(codes.dtype).eps:
        return None
    logdet = along_axes.log().sum()
    divergence = (variances - 1 + z.mean(0).square()).sum() - logdet
    correlation = variances.log().sum() - logdet
    return CodeScores(*(max(0.0, float(value) / 2) for value in (divergence, correlation)))
