"""Distributions of codes: the interfaces of priors, and those without fitted parameters."""

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from pythae_fif.models.density_training import train_density

PriorKind = Literal["gaussian", "mixture", "flow", "flow_matching"]
LatentDistribution = Literal["normal", "student_t", "multivariate_student_t"]

ANY_CONDITION_KINDS = ("flow", "flow_matching")
"""Kinds of fitted priors whose conditions need not be one-hot."""

MOMENT_CODES = 1_000
"""Codes that are drawn to estimate a prior's mean and covariance if there is no formula."""

Generator = torch.Generator | None
Condition = Tensor | None


class Prior(ABC):
    """A density of codes.

    Arguments are not validated: a check would make the host wait for the GPU in every step, and
    would turn the NaN of a diverged training into a message about arguments.
    """

    @abstractmethod
    def log_prob(self, z: Tensor, condition: Condition = None) -> Tensor:
        """Computes the log-density of codes.

        Args:
            z: Codes (..., d).
            condition: Condition vectors (..., c), for a fitted conditional prior.

        Returns:
            Log-densities in nats, (...).
        """

    @abstractmethod
    def sample(self, size: int, generator: Generator = None, condition: Condition = None) -> Tensor:
        """Draws codes.

        Args:
            size: Number of codes n.
            generator: Source of random numbers; torch's global one if None.
            condition: Condition vectors (n, c), for a fitted conditional prior.

        Returns:
            Codes (n, d).
        """

    def moments(self, condition: Condition = None) -> tuple[Tensor, Tensor]:
        """Returns mean (d,) and covariance (d, d) in float64, estimated from a sample.

        Args:
            condition: One condition vector (1, c), for a fitted conditional prior.
        """
        conditions = None if condition is None else condition.expand(MOMENT_CODES, -1)
        codes = self.sample(MOMENT_CODES, None, conditions).double()
        return codes.mean(0), torch.atleast_2d(codes.T.cov())


class StandardizedPrior(nn.Module, Prior):
    """A density of standardised codes: in training, each coordinate has mean 0 and variance 1.

    Args:
        latent_dim: d.

    Attributes:
        mean: Mean of the training codes, (d,).
        scale: Their standard deviation, (d,); 1 where it is 0.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(latent_dim))
        self.register_buffer("scale", torch.ones(latent_dim))

    def fit(self, codes: Tensor, condition: Condition, steps: int | None) -> None:
        """Fits the density with Adam, with random numbers of torch's global state.

        Args:
            codes: Codes (N, d).
            condition: Condition vectors (N, c), or None.
            steps: Number of gradient steps; None for an automatic number, see
                :func:`~pythae_fif.models.density_training.train_density`.
        """
        deviation, mean = torch.std_mean(codes, dim=0)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(deviation > 0, deviation, 1.0))
        data = [codes] if condition is None else [codes, condition]

        self.requires_grad_(True)
        train_density(self, self.loss, data, steps)
        self.requires_grad_(False)

    def loss(self, codes: Tensor, condition: Condition = None) -> Tensor:
        """Computes the negative log-likelihood of a batch, a scalar, or another loss.

        Args:
            codes: Codes (B, d).
            condition: Condition vectors (B, c), or None.
        """
        return -self.log_prob(codes, condition).mean()

    def _standardize(self, z: Tensor) -> Tensor:
        return (z - self.mean) / self.scale


class StandardNormal(Prior):
    """The standard normal distribution N(0, I).

    Args:
        zeros: A tensor (d,) with the device and type of the samples.
    """

    def __init__(self, zeros: Tensor) -> None:
        self._zeros = zeros

    def log_prob(self, z: Tensor, condition: Condition = None) -> Tensor:
        return (-z.square() / 2 - math.log(math.sqrt(2 * math.pi))).sum(-1)

    def sample(self, size: int, generator: Generator = None, condition: Condition = None) -> Tensor:
        return torch.normal(self._zeros.expand(size, -1), 1.0, generator=generator)

    def moments(self, condition: Condition = None) -> tuple[Tensor, Tensor]:
        return self._zeros.double(), torch.ones_like(self._zeros).double().diag()


class NormalPrior(Prior):
    """A normal distribution of codes, the same for all conditions.

    Args:
        mean: Mean, (d,), with the device and type of the samples.
        covariance: Covariance, (d, d).
    """

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        self._covariance = covariance
        self._normal = MultivariateNormal(mean, covariance.to(mean))

    def log_prob(self, z: Tensor, condition: Condition = None) -> Tensor:
        return self._normal.log_prob(z)

    def sample(self, size: int, generator: Generator = None, condition: Condition = None) -> Tensor:
        mean = self._normal.loc
        noise = torch.normal(torch.zeros_like(mean).expand(size, -1), 1.0, generator=generator)
        return mean + noise @ self._normal.scale_tril.mT

    def moments(self, condition: Condition = None) -> tuple[Tensor, Tensor]:
        return self._normal.loc.double(), self._covariance.double()


class StudentT(Prior):
    r"""A centred Student-t distribution of :math:`\nu` degrees of freedom and unit scale.

    A sample is a standard normal vector divided by :math:`\sqrt{s / \nu}`, with s from a
    chi-squared distribution. Either all coordinates share one s, with the density

    .. math::
        \log p(z) = \log\Gamma\tfrac{\nu + d}{2} - \log\Gamma\tfrac{\nu}{2}
        - \tfrac{d}{2} \log \nu\pi - \tfrac{\nu + d}{2} \log\left(1 + |z|^2 / \nu\right),

    or each coordinate has an independent s, and the density is the product of one-dimensional
    ones (d = 1).

    Args:
        df: :math:`\nu`, above 0.
        zeros: A tensor (d,) with the device and type of the samples.
        joint: Whether the coordinates share one s.
    """

    def __init__(self, df: float, zeros: Tensor, *, joint: bool) -> None:
        self.df = df
        self.joint = joint
        self._zeros = zeros

    def log_prob(self, z: Tensor, condition: Condition = None) -> Tensor:
        df = self.df
        dim = z.shape[-1] if self.joint else 1
        constant = math.lgamma((df + dim) / 2) - math.lgamma(df / 2)
        constant -= dim / 2 * math.log(df * math.pi)
        square = z.square().sum(-1, keepdim=True) if self.joint else z.square()
        return (constant - (df + dim) / 2 * (square / df).log1p()).sum(-1)

    def sample(self, size: int, generator: Generator = None, condition: Condition = None) -> Tensor:
        zeros = self._zeros.expand(size, -1)
        normal = torch.normal(zeros, 1.0, generator=generator)
        like = zeros[..., :1] if self.joint else zeros
        gamma = torch._standard_gamma(torch.full_like(like, self.df / 2), generator=generator)
        chi_squared = 2 * gamma.clamp_min(torch.finfo(gamma.dtype).tiny)
        return normal * (self.df / chi_squared).sqrt()


def standard_prior(name: LatentDistribution, zeros: Tensor, *, df: float) -> Prior:
    """Returns a prior without fitted parameters.

    Args:
        name: 'normal', 'student_t' (independent coordinates) or 'multivariate_student_t'.
        zeros: A tensor (d,) with the device and type of the samples.
        df: Degrees of freedom of a Student-t distribution.
    """
    if name == "normal":
        return StandardNormal(zeros)
    return StudentT(df, zeros, joint=name == "multivariate_student_t")


def wide_normal(codes: Tensor) -> NormalPrior:
    """Returns a normal distribution that is wider than codes (N, d), and than N(0, I).

    Its mean is that of the codes. Its covariance is theirs plus the identity matrix.
    """
    values = codes.double()
    identity = torch.eye(codes.shape[1]).to(values)
    covariance = torch.atleast_2d(values.T.cov(correction=0)) + identity
    return NormalPrior(codes.mean(0), covariance)
