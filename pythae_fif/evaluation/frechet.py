"""Frechet distance between Gaussians fitted to features."""

__all__ = ["FeatureStatistics", "frechet_distance", "frechet_error", "squared_wasserstein"]

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from pythae_fif.errors import DataError, NonFiniteError

RELATIVE_ERROR = 1e-8
"""Rounding error of the distance, relative to it, up to which the fast way is taken."""

ROWS, COLUMNS = 8192, 512
"""Features that are taken to float64 together, and columns of their scatter: of the symmetric
matrix only blocks from the diagonal down are computed."""


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Mean and covariance of features, in float64.

    Attributes:
        count: Number n of features.
        mean: Their mean (F).
        scatter: Sum of the outer products of the centred features (F, F).

    Example:
        >>> statistics = FeatureStatistics.of(torch.tensor([[0.0], [2.0], [4.0]]))
        >>> statistics.count, statistics.mean.item(), statistics.covariance.item()
        (3, 2.0, 4.0)
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "FeatureStatistics":
        """Those of features (N, F) of any floating type.

        Raises:
            DataError: Not two axes.
            NonFiniteError: NaN or infinite features.
        """
        if features.ndim != 2:
            raise DataError(f"features must have shape (N, F), not {tuple(features.shape)}")
        blocks = features.detach().split(ROWS)
        if bad := sum(int((~rows.isfinite()).any(dim=1).sum()) for rows in blocks):
            raise NonFiniteError(f"{bad} of {len(features)} feature vectors are NaN or infinite")
        mean = torch.stack([rows.sum(0, dtype=torch.float64) for rows in blocks]).sum(0)
        mean /= len(features)
        scatter = mean.new_zeros(len(mean), len(mean))
        for rows in blocks:
            centred = rows - mean
            for start in range(0, len(mean), COLUMNS):
                below = scatter[start:, start : start + COLUMNS]
                below.addmm_(centred[:, start:].T, centred[:, start : start + COLUMNS])
        return cls(len(features), mean, scatter.tril() + scatter.tril(-1).T)

    def to(self, device: str | torch.device) -> "FeatureStatistics":
        """The same on a device."""
        return FeatureStatistics(self.count, self.mean.to(device), self.scatter.to(device))

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance (F, F), float64.

        Raises:
            DataError: fewer than two features.
        """
        if self.count < 2:
            raise DataError(f"a covariance needs at least 2 feature vectors, not {self.count}")
        return self.scatter / (self.count - 1)


def frechet_distance(
    a: FeatureStatistics, b: FeatureStatistics, *, root: Tensor | None = None
) -> float:
    r"""Squared 2-Wasserstein distance between the Gaussians of two sets of features.

    .. math:: |\mu_a - \mu_b|^2 + \operatorname{tr}(S_a + S_b - 2 (S_a^{1/2} S_b S_a^{1/2})^{1/2})

    (Dowson and Landau 1982; Heusel et al. 2017, eq. 6). The last trace is the sum of the square
    roots of the eigenvalues of the symmetric :math:`L^T S_b L` with :math:`S_a = L L^T` by
    Cholesky: one symmetric eigenvalue problem, real by construction. Where rounding of small
    eigenvalues could be seen in the distance (constant or collinear features, fewer samples than
    features, nearly equal sets), the trace is computed as the sum of the singular values of
    :math:`L_a^T L_b` instead, with the factors from symmetric eigendecompositions: that takes no
    square root of a rounded zero and keeps full precision at deficient rank, in about seven times
    the time.

    Args:
        a: Statistics of one set, of at least two features.
        b: Statistics of the other, with the same number of features F.
        root: The `factor` of b's covariance, where that is known.

    Returns:
        The distance, >= 0, in squared units of the features.

    Raises:
        DataError: fewer than two features in a set, or different F.

    Example:
        >>> a = FeatureStatistics.of(torch.tensor([[-1.0], [0.0], [1.0]]))
        >>> b = FeatureStatistics.of(torch.tensor([[0.0], [3.0], [6.0]]))
        >>> round(frechet_distance(a, b), 9)  # (3 - 0)^2 + (3 - 1)^2
        13.0
    """
    s_a, s_b = a.covariance, b.covariance
    _require_one_length(len(a.mean), len(b.mean))
    apart = float((a.mean - b.mean).square().sum() + s_a.trace() + s_b.trace())
    if min(a.count, b.count) > len(a.mean):
        lower, info = torch.linalg.cholesky_ex(s_a)
        if info == 0:
            if lower.device.type != "cpu":
                product = lower.T @ s_b @ lower
            else:  # at a quarter of the cost; transposed views, since LAPACK counts columns first
                from scipy.linalg import lapack  # not before it is needed: a fifth of a second

                with _one_thread():
                    product, _ = lapack.dsygst(s_b.numpy().T, lower.numpy().T, itype=2)
                product = torch.from_numpy(product.T)
            fidelity, error = _fidelity(product)
            distance = apart - 2 * fidelity
            if 2 * error < RELATIVE_ERROR * distance:
                return distance
    factors = factor(s_a).T @ (factor(s_b) if root is None else root)
    with _one_thread():
        fidelity = float(torch.linalg.svdvals(factors).sum())
    return max(apart - 2 * fidelity, 0.0)


def frechet_error(
    features: Tensor,
    reference: FeatureStatistics,
    *,
    statistics: FeatureStatistics | None = None,
    root: Tensor | None = None,
) -> float:
    r"""Standard deviation of a Frechet distance over draws of its samples; the reference is fixed.

    It says how far the distance would move with other samples of the same number. It does not hold
    the bias that falls with that number.

    The distance is linearised in the weights of the samples (the delta method; Rippl, Munk and
    Sturm 2016 prove its limit law): a sample x moves it by the N-th part of

    .. math:: 2 (x - \mu)^T (\mu - \mu_r) + |x - \mu|^2 - |(x - \mu)^T R (R^T S R)^{-1/4}|^2

    less its mean, where mu and S are of the samples, mu_r and R R^T = S_r of the reference. The
    result errs towards large: by a third for 16 samples a feature (2,000 samples of models of
    digits, 24 draws), by half for half a sample a feature.

    Args:
        features: Features (N, F) of the samples.
        reference: Statistics of the reference.
        statistics: Those of the features, where they are known.
        root: The `factor` of the reference's covariance, where it is known.

    Returns:
        The standard deviation, in squared units of the features, as the distance.

    Raises:
        DataError: fewer than two features, or different F.
    """
    _require_one_length(features.shape[1], len(reference.mean))
    if statistics is None:
        statistics = FeatureStatistics.of(features)
    root = factor(reference.covariance) if root is None else root
    projected = root.T @ statistics.covariance @ root
    with _one_thread():
        values, vectors = torch.linalg.eigh(projected)
    # `-1:`, as there are no values where the reference's features are all alike
    kept = values > values[-1:].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
    scaled = root @ (vectors[:, kept] * values[kept] ** -0.25)
    centred = features.double() - statistics.mean
    moves = 2 * centred @ (statistics.mean - reference.mean)
    # float32 is enough for a spread, at half the time
    kind = torch.promote_types(features.dtype, torch.float32)
    carried = centred.to(kind) @ scaled.to(kind)
    moves += centred.square().sum(1) - carried.square().sum(1)
    return float(moves.std()) / math.sqrt(len(features))


def squared_wasserstein(samples: Tensor, reference: Tensor) -> float:
    """Squared 2-Wasserstein distance between the Gaussians with the two sets' moments.

    It is the Frechet distance of the rows themselves, as in the published code of rectangular
    flows (Caterini et al. 2021), squared as an FID is.

    Args:
        samples: Generated rows (N, D), as many as the reference has where tables are compared.
        reference: Test rows (M, D).

    Returns:
        The distance, >= 0, in squared units of the columns.

    Raises:
        DataError: Fewer than two rows in a set, or different D.
        NonFiniteError: NaN or infinite rows.

    Example:
        >>> rows = torch.randn(100, 3)
        >>> round(squared_wasserstein(rows + 2, rows), 3)
        12.0
    """
    return frechet_distance(FeatureStatistics.of(samples), FeatureStatistics.of(reference))


def _require_one_length(a: int, b: int) -> None:
    """Raises a DataError where the features of two sets have different lengths."""
    if a != b:
        raise DataError(
            f"features of the two sets must have one length, not {a} and {b}; "
            "use one extractor for both"
        )


def _fidelity(product: Tensor) -> tuple[float, float]:
    """Sum of the square roots of the eigenvalues, and how far off rounding may have moved it.

    Of the symmetric product its lower triangle is read.
    """
    with _one_thread():
        values = torch.linalg.eigvalsh(product)
    resolution = torch.finfo(values.dtype)
    moved = resolution.eps * values[-1].clamp(min=0)
    roots = values.clamp(min=0).sqrt()
    error = moved / (roots + moved.sqrt() + resolution.tiny)
    return float(roots.sum()), float(error.sum())


def factor(covariance: Tensor) -> Tensor:
    """L (F, rank) with L L^T the covariance, less the directions that are zero but for rounding."""
    with _one_thread():
        values, vectors = torch.linalg.eigh(covariance)
    cutoff = values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
    kept = values > cutoff
    factors: Tensor = vectors[:, kept] * values[kept].sqrt()
    return factors


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """LAPACK on one thread of the CPU, torch's as well as SciPy's.

    Eigenvalues are bound by memory: measured, two threads gain little, and where other processes
    use the cores the threads wait for each other and take ten times as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)
