"""Which directions of the codes carry the information of the data."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

LOG_2_PI_E = math.log(2 * math.pi * math.e)


class ExplainedEntropy(NamedTuple):
    """The entropy that each direction of the codes explains, in nats.

    Attributes:
        entropy: Entropies of the directions, (d,), descending; minus infinity for a direction in
            which the codes do not vary.
        directions: The directions as columns, (d, d): a code is the mean plus their sum, with
            uncorrelated weights of variance 1.
        mean: Mean of the codes, (d,).
        total_correlation: Sum of the entropies minus the entropy of the manifold, at least 0. It is
            0 if the decoder maps the directions to orthogonal ones everywhere, and NaN if an
            entropy is infinite.
    """

    entropy: Tensor
    directions: Tensor
    mean: Tensor
    total_correlation: float

    def drop(self, z: Tensor, index: int) -> Tensor:
        """Returns codes (B, d) without their component along a direction.

        Args:
            z: Codes, (B, d).
            index: Number of the direction, from 0.
        """
        values = z.to(self.mean)
        weights = (values - self.mean) @ torch.linalg.pinv(self.directions)[index]
        return (values - weights[:, None] * self.directions[:, index]).to(z)


def explain_entropy(codes: Tensor, gram: Tensor) -> ExplainedEntropy:
    r"""Computes the entropies of the principal directions of codes.

    These are manifold entropic metrics (Galperin and Köthe 2024, arXiv 2410.19426) of a normal
    distribution with the codes' covariance. A direction a adds
    :math:`\tfrac12 \log 2 \pi e + E \log |g'(z) a|`. The paper takes the axes of the code space,
    which are arbitrary if the prior is a standard normal. Here the directions are those of the mean
    of :math:`g'^\top g'`, in codes of covariance I; for a linear decoder they are those of PCA.

    Args:
        codes: Codes of data, (N, d).
        gram: :math:`g'(z)^\top g'(z)` at the codes, (N, d, d), in float64.
    """
    values = codes.to(gram)
    variances, axes = torch.linalg.eigh(torch.atleast_2d(values.T.cov()))
    root = axes * variances.clamp_min(0).sqrt()

    whitened_gram = root.T @ gram @ root
    rotation = torch.linalg.eigh(whitened_gram.mean(0)).eigenvectors
    squares = torch.einsum("di,nde,ei->ni", rotation, whitened_gram, rotation)
    entropy = (LOG_2_PI_E + squares.log().mean(0)) / 2
    entropy, order = entropy.sort(descending=True)

    manifold_entropy = (len(entropy) * LOG_2_PI_E + whitened_gram.logdet().mean()) / 2
    return ExplainedEntropy(
        entropy=entropy,
        directions=(root @ rotation)[:, order],
        mean=values.mean(0),
        total_correlation=float(entropy.sum() - manifold_entropy),
    )
