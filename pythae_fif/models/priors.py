"""The distributions of codes that a model can have, by name."""

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

PriorKind = Literal["gaussian", "mixture", "flow"]
LatentDistribution = Literal["normal", "student_t", "multivariate_student_t"]

MOMENT_CODES = 1_000
"""Codes that tell the mean and covariance of a prior in which these have no formula."""

Generator = torch.Generator | None
Condition = Tensor | None


class Prior(ABC):
    """A density of codes. No number is validated: a check would make the host wait for the GPU in
    every step, and would turn the NaN of a diverged training into a message about arguments."""

    @abstractmethod
    def log_prob(self, z: Tensor, condition: Condition = None) -> Tensor:
        """The log-density of codes (..., d), (...); of fitted ones at a condition (..., c)."""

    @abstractmethod
    def sample(self, size: int, generator: Generator = None, condition: Condition = None) -> Tensor:
        """Codes (size, d), by PyTorch's own generator if None."""

    def moments(self, condition: Condition = None) -> tuple[Tensor, Tensor]:
        """Mean (d,) and covariance (d, d), float64, at a condition (1, c): here those of draws."""
        given = None if condition is None else condition.expand(MOMENT_CODES, -1)
        codes = self.sample(MOMENT_CODES, None, given).double()
        return codes.mean(0), torch.atleast_2d(codes.T.cov())


class StandardNormal(Prior):
    """Independent normal coordinates of mean 0 and variance 1.

    Args:
        zeros: (d,), of the device and type of the samples.
    """

    def __init__(self, zeros: Tensor) -> None:
        self._zeros = zeros

    def log_prob(self, z: Tensor, condition: Condition = None) -> Tensor:
        return (-z.square() / 2 - math.log(math.sqrt(2 * math.pi))).sum(-1)

    def sample(self, size: int, generator: Generator = None, condition: Condition = None) -> Tensor:
        return torch.normal(self._zeros.expand(size, -1), 1.0, generator=generator)

    def moments(self, condition: Condition = None) -> tuple[Tensor, Tensor]:
        return self._zeros.double(), torch.ones_like(self._zeros).double().diag()


class StudentT(Prior):
    r"""A Student-t distribution of :math:`\nu` degrees of freedom, centred, of unit scale.

    A standard normal vector divided by :math:`\sqrt{s / \nu}`, s from a chi-squared distribution.
    Either all coordinates share one s, and the density depends on the length of z alone,

    .. math::
        \log p(z) = \log\Gamma\tfrac{\nu + d}{2} - \log\Gamma\tfrac{\nu}{2}
        - \tfrac{d}{2} \log \nu\pi - \tfrac{\nu + d}{2} \log\left(1 + |z|^2 / \nu\right),

    or each has its own, and the density is the product of theirs, with d = 1.

    Args:
        df: :math:`\nu`, above 0.
        zeros: (d,), of the device and type of the samples.
        joint: Whether the coordinates share one s.
    """

    def __init__(self, df: float, zeros: Tensor, *, joint: bool) -> None:
        self.df, self.joint, self._zeros = df, joint, zeros

    def log_prob(self, z: Tensor, condition: Condition = None) -> Tensor:
        df, dim = self.df, z.shape[-1] if self.joint else 1
        constant = math.lgamma((df + dim) / 2) - math.lgamma(df / 2)
        constant -= dim / 2 * math.log(df * math.pi)
        square = z.square()
        square = square.sum(-1, keepdim=True) if self.joint else square
        return (constant - (df + dim) / 2 * (square / df).log1p()).sum(-1)

    def sample(self, size: int, generator: Generator = None, condition: Condition = None) -> Tensor:
        zeros = self._zeros.expand(size, -1)
        normal = torch.normal(zeros, 1.0, generator=generator)
        shared = zeros[..., :1] if self.joint else zeros
        half = torch.full_like(shared, self.df / 2)  # a chi-squared number is twice a Gamma one
        gamma = torch._standard_gamma(half, generator=generator)
        gamma = gamma.clamp_min(torch.finfo(gamma.dtype).tiny)
        return normal * (self.df / (2 * gamma)).sqrt()
