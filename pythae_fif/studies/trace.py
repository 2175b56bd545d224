"""Appendix D.3: the variance of a trace that Hutchinson vectors estimate."""

__all__ = [
    "DRAWS",
    "MATRIX_DIM",
    "Variance",
    "simulated_variance",
    "variance_formula",
    "variances_of",
]

from dataclasses import dataclass

import torch
from torch import Tensor

from pythae_fif.volume_change import sample_hutchinson
from pythae_fif.volume_change.hutchinson import HutchinsonKind

MATRIX_DIM = 16
DRAWS = 100_000  # 200 MB of vectors at most
ORTHOGONAL_K = (1, 2, 4, 8, 12, 15)


@dataclass(frozen=True)
class Variance:
    """The variance of the estimate of a trace from `samples` vectors of a kind."""

    kind: HutchinsonKind
    samples: int
    formula: float
    simulated: float


def variance_formula(matrix: Tensor, kind: HutchinsonKind, samples: int = 1) -> float:
    """Variance of the estimate of a trace from K Hutchinson vectors: eqs. 100, 101, 105, 121, 122.

    Args:
        matrix: A, (d, d); its symmetric part counts.
        kind: A kind of :func:`~pythae_fif.volume_change.sample_hutchinson`.
        samples: K.
    """
    symmetric = (matrix + matrix.T) / 2
    d = len(symmetric)
    total = float(symmetric.square().sum())
    if kind == "rademacher":  # eq. 100
        return 2 * (total - float(symmetric.diagonal().square().sum())) / samples
    if kind == "gaussian":  # eq. 101
        return 2 * total / samples
    spread = float(torch.linalg.eigvalsh(symmetric).var(correction=0))
    one = 2 * d**2 / (d + 2) * spread  # eq. 105
    if kind == "scaled_gaussian":
        return one / samples  # eq. 122
    return one * (d - samples) / (samples * (d - 1))  # eq. 121


def simulated_variance(
    matrix: Tensor, kind: HutchinsonKind, samples: int, draws: int, generator: torch.Generator
) -> float:
    """The same variance from that many independent estimates."""
    eps = sample_hutchinson(
        draws, len(matrix), samples, kind=kind, generator=generator, dtype=matrix.dtype
    )
    return float(((eps @ matrix) * eps).sum(-1).mean(0).var())


def variances_of(seed: int) -> list[Variance]:
    """Those of a random matrix, of all kinds, by formula and from `DRAWS` estimates."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(MATRIX_DIM, MATRIX_DIM, generator=generator, dtype=torch.float64)
    several: tuple[HutchinsonKind, ...] = ("orthogonal", "scaled_gaussian")
    cells: list[tuple[HutchinsonKind, int]] = [("rademacher", 1), ("gaussian", 1)]
    cells += [("scaled_gaussian", 1), *((kind, k) for k in ORTHOGONAL_K for kind in several)]
    return [
        Variance(
            kind,
            k,
            formula=variance_formula(matrix, kind, k),
            simulated=simulated_variance(matrix, kind, k, DRAWS, generator),
        )
        for kind, k in dict.fromkeys(cells)
    ]
