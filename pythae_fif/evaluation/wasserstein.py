"""The FID-like score of tabular data: Wasserstein-2 between Gaussians fitted to the rows."""

__all__ = ["squared_wasserstein"]

from torch import Tensor

from pythae_fif.evaluation.frechet import FeatureStatistics, frechet_distance


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
        >>> import torch
        >>> rows = torch.randn(100, 3)
        >>> round(squared_wasserstein(rows + 2, rows), 3)
        12.0
    """
    statistics = []
    for rows in (samples, reference):
        statistics.append(FeatureStatistics())
        statistics[-1].update(rows)
    return frechet_distance(*statistics)
