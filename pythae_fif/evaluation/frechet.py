"""Frechet distance between Gaussians fitted to features, from a streaming mean and covariance."""

__all__ = ["FeatureStatistics", "frechet_distance"]

import torch
from torch import Tensor

from pythae_fif.errors import DataError, NonFiniteError


class FeatureStatistics:
    r"""Mean and covariance of features in one pass over batches, in float64.

    Batches are merged by the pairwise update of Chan, Golub and LeVeque (1983),
    $M \leftarrow M + M_b + \delta \delta^T n n_b / (n + n_b)$ with $\delta = \mu_b - \mu$, which
    does not cancel where the mean is large, so that the result does not depend on the batches.

    Args:
        count: Number n of features seen.
        mean: Their mean (F), or None where nothing was seen.
        scatter: Sum of the outer products of the centred features (F, F), or None.

    Example:
        >>> statistics = FeatureStatistics()
        >>> statistics.update(torch.tensor([[0.0], [2.0]]))
        >>> statistics.update(torch.tensor([[4.0]]))
        >>> statistics.count, statistics.mean.item(), statistics.covariance.item()
        (3, 2.0, 4.0)
    """

    def __init__(
        self, count: int = 0, mean: Tensor | None = None, scatter: Tensor | None = None
    ) -> None:
        self.count = count
        self._mean = mean
        self._scatter = scatter

    def update(self, features: Tensor) -> None:
        """Adds a batch of features (B, F) of any floating type.

        Raises:
            DataError: not two axes, or another F than before.
            NonFiniteError: NaN or infinite features.
        """
        if features.ndim != 2 or (self._mean is not None and features.shape[1] != len(self._mean)):
            width = "F" if self._mean is None else len(self._mean)
            raise DataError(f"features must have shape (B, {width}), not {tuple(features.shape)}")
        if len(features) == 0:
            return
        features = features.detach().to(device="cpu", dtype=torch.float64)
        finite = features.isfinite().all(dim=1)
        if not finite.all():
            raise NonFiniteError(
                f"{int((~finite).sum())} of {len(features)} feature vectors are NaN or infinite"
            )
        added = len(features)
        mean = features.mean(dim=0)
        centred = features - mean
        scatter = centred.T @ centred
        if self._mean is not None and self._scatter is not None:
            total = self.count + added
            delta = mean - self._mean
            mean = self._mean + delta * (added / total)
            scatter = self._scatter + scatter
            scatter += torch.outer(delta, delta) * (self.count * added / total)
        self.count += added
        self._mean, self._scatter = mean, scatter

    @property
    def mean(self) -> Tensor:
        """Mean (F), float64.

        Raises:
            DataError: no features yet.
        """
        if self._mean is None:
            raise DataError("the mean needs at least 1 feature vector, not 0")
        return self._mean

    @property
    def scatter(self) -> Tensor:
        """Sum of the outer products of the centred features (F, F), float64.

        Raises:
            DataError: no features yet.
        """
        if self._scatter is None:
            raise DataError("the scatter needs at least 1 feature vector, not 0")
        return self._scatter

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance (F, F), float64.

        Raises:
            DataError: fewer than two features.
        """
        if self.count < 2:
            raise DataError(f"a covariance needs at least 2 feature vectors, not {self.count}")
        return self.scatter / (self.count - 1)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    r"""Squared 2-Wasserstein distance between the Gaussians of two sets of features.

    $$ |\mu_a - \mu_b|^2 + \operatorname{tr}(S_a + S_b - 2 (S_a^{1/2} S_b S_a^{1/2})^{1/2}) $$

    (Dowson and Landau 1982; Heusel et al. 2017, eq. 6). The last trace, the sum of the square
    roots of the eigenvalues of $S_a^{1/2} S_b S_a^{1/2}$, is computed as the sum of the singular
    values of $L_a^T L_b$ with $S = L L^T$ from symmetric eigendecompositions: taking no square
    root of a rounded zero, it keeps full precision for covariances of deficient rank (fewer
    samples than features), and it is real by construction.

    Args:
        a: Statistics of one set, of at least two features.
        b: Statistics of the other, with the same number of features F.

    Returns:
        The distance, >= 0, in squared units of the features.

    Raises:
        DataError: fewer than two features in a set, or different F.

    Example:
        >>> a, b = FeatureStatistics(), FeatureStatistics()
        >>> a.update(torch.tensor([[-1.0], [0.0], [1.0]]))
        >>> b.update(torch.tensor([[0.0], [3.0], [6.0]]))
        >>> round(frechet_distance(a, b), 9)  # (3 - 0)^2 + (3 - 1)^2
        13.0
    """
    if len(a.mean) != len(b.mean):
        raise DataError(
            f"features of the two sets must have one length, not {len(a.mean)} and {len(b.mean)}; "
            "use one extractor for both"
        )
    covariance_a, covariance_b = a.covariance, b.covariance
    fidelity = torch.linalg.svdvals(_factor(covariance_a).T @ _factor(covariance_b)).sum()
    shift = (a.mean - b.mean).square().sum()
    distance = shift + covariance_a.trace() + covariance_b.trace() - 2 * fidelity
    return max(float(distance), 0.0)


def _factor(covariance: Tensor) -> Tensor:
    """L (F, rank) with L L^T the covariance, less the directions that are zero but for rounding."""
    values, vectors = torch.linalg.eigh(covariance)
    cutoff = values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
    kept = values > cutoff
    return vectors[:, kept] * values[kept].sqrt()
