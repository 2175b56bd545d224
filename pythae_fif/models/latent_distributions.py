"""The distributions of codes that a model can have, by name."""

__all__ = ["LatentDistribution", "StudentT", "latent_distribution"]

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.distributions import Chi2, Distribution, Independent, Normal

from pythae_fif.volume_change.loss import check_option
from pythae_fif.volume_change.precision import at_least_float32

LatentDistribution = Literal["normal", "student_t", "multivariate_student_t"]


class StudentT(Distribution):
    r"""A Student-t distribution of :math:`\nu` degrees of freedom, centred, of unit scale.

    A standard normal vector divided by :math:`\sqrt{s / \nu}`, s from a chi-squared distribution.
    Either all coordinates share one s, and so one tail, and the density depends on the length of z
    alone,

    .. math::
        \log p(z) = \log\Gamma\tfrac{\nu + d}{2} - \log\Gamma\tfrac{\nu}{2}
        - \tfrac{d}{2} \log \nu\pi - \tfrac{\nu + d}{2} \log\left(1 + |z|^2 / \nu\right),

    or each has its own, and the density is the product of theirs, with d = 1. PyTorch's StudentT
    makes the host wait for the GPU: it validates its chi-squared distribution.

    Args:
        df: :math:`\nu`, above 0.
        zeros: (d,), of the device and type of the samples.
        joint: Whether the coordinates share one s.

    Example:
        >>> StudentT(3.0, torch.zeros(2), joint=True).log_prob(torch.zeros(1, 2)).exp()
        tensor([0.1592])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, df: float, zeros: Tensor, *, joint: bool) -> None:
        super().__init__(event_shape=zeros.shape, validate_args=False)
        self.df = df
        self.joint = joint
        self._zeros = zeros

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of codes (..., d), (...)."""
        df, dim = self.df, value.shape[-1] if self.joint else 1
        constant = math.lgamma((df + dim) / 2) - math.lgamma(df / 2)
        constant -= dim / 2 * math.log(df * math.pi)
        square = value.square()
        square = square.sum(-1, keepdim=True) if self.joint else square
        return (constant - (df + dim) / 2 * (square / df).log1p()).sum(-1)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Codes of shape `(*sample_shape, d)`."""
        normal = torch.randn_like(self._zeros.expand(*sample_shape, -1))
        shared = self._zeros[:1] if self.joint else self._zeros
        # Gamma draws have no half precision.
        chi2 = Chi2(at_least_float32(shared) + self.df, validate_args=False).sample(sample_shape)
        return normal * (self.df / chi2).sqrt().to(normal.dtype)


def latent_distribution(name: LatentDistribution, df: float, zeros: Tensor) -> Distribution:
    """p_Z of event shape (d,).

    Args:
        name: ``student_t`` has independent coordinates, ``multivariate_student_t`` does not.
        df: Degrees of freedom of the two.
        zeros: (d,), of the device and type of the codes.
    """
    check_option("latent_distribution", name, LatentDistribution)
    # No number is validated: a check would make the host wait for the GPU in every step, and would
    # turn the NaN of a diverged training into a message about arguments.
    if name == "normal":
        return Independent(Normal(zeros, zeros + 1, validate_args=False), 1, validate_args=False)
    return StudentT(df, zeros, joint=name == "multivariate_student_t")
