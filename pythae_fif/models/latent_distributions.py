"""The distributions of codes that a model can have, by name."""

__all__ = ["LatentDistribution", "MultivariateStudentT", "latent_distribution"]

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.distributions import Chi2, Distribution, Independent, Normal, StudentT

LatentDistribution = Literal["normal", "student_t", "multivariate_student_t"]


class MultivariateStudentT(Distribution):
    r"""The joint Student-t distribution of :math:`\nu` degrees of freedom, centred, of unit scale.

    A standard normal vector divided by :math:`\sqrt{s / \nu}`, s from a chi-squared distribution:
    all coordinates share one tail, and the density depends on the length of z alone,

    .. math::
        \log p(z) = \log\Gamma\tfrac{\nu + d}{2} - \log\Gamma\tfrac{\nu}{2}
        - \tfrac{d}{2} \log \nu\pi - \tfrac{\nu + d}{2} \log\left(1 + |z|^2 / \nu\right).

    Args:
        df: :math:`\nu`, above 0.
        zeros: (d,), of the device and type of the samples.

    Example:
        >>> MultivariateStudentT(3.0, torch.zeros(2)).log_prob(torch.zeros(1, 2)).exp()
        tensor([0.1592])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, df: float, zeros: Tensor) -> None:
        super().__init__(event_shape=zeros.shape, validate_args=False)
        self.df = df
        self._zeros = zeros

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of codes (..., d), (...)."""
        df, dim = self.df, value.shape[-1]
        constant = math.lgamma((df + dim) / 2) - math.lgamma(df / 2)
        constant -= dim / 2 * math.log(df * math.pi)
        return constant - (df + dim) / 2 * (value.square().sum(-1) / df).log1p()

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Codes of shape `(*sample_shape, d)`."""
        normal = torch.randn_like(self._zeros.expand(*sample_shape, -1))
        chi2 = Chi2(self._zeros.new_tensor(self.df)).sample(sample_shape)
        return normal * (self.df / chi2).sqrt()[..., None]


def latent_distribution(name: LatentDistribution, df: float, zeros: Tensor) -> Distribution:
    """p_Z of event shape (d,).

    Args:
        name: ``student_t`` has independent coordinates, ``multivariate_student_t`` does not.
        df: Degrees of freedom of the two.
        zeros: (d,), of the device and type of the codes.
    """
    # No validation: it costs a host synchronisation a call, and would turn the NaN of a diverged
    # training into a message about arguments.
    if name == "multivariate_student_t":
        return MultivariateStudentT(df, zeros)
    ones = zeros + 1
    base: Distribution = Normal(zeros, ones, validate_args=False)
    if name == "student_t":
        base = StudentT(df, zeros, ones, validate_args=False)
    return Independent(base, 1, validate_args=False)
