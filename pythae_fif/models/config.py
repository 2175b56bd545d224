"""Configuration classes, from the fields that all models share to those of `FIF`."""

import math
from typing import Annotated, Literal

from pydantic import Field
from pythae.models.base.base_config import BaseAEConfig
from torch import Tensor

from pythae_fif.errors import ConfigError
from pythae_fif.models.priors import LatentDistribution, PriorKind
from pythae_fif.validation import AtLeastOne, config_dataclass
from pythae_fif.volume_change.hutchinson import HutchinsonKind
from pythae_fif.volume_change.loss import JacobianAt

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@config_dataclass
class InjectiveFlowConfig(BaseAEConfig):
    """The configuration fields of all models of this package.

    Args:
        input_dim (tuple): Shape of a data point, (C, H, W) or (D,).
        latent_dim (int): Latent dimension d, at most D. Default: 10.
        noise (float): Standard deviation of the Gaussian noise that is added to the data in
            training; the noisy data are also the reconstruction's target. Default: 0.01.
        latent_distribution (str): 'normal', 'student_t' (independent coordinates) or
            'multivariate_student_t' (a density that depends only on `|z|`). Default: 'normal'.
        student_t_df (float): Degrees of freedom of a Student-t distribution. Default: 5.
        fitted_prior (str): 'gaussian', 'mixture', 'flow' or 'flow_matching' after the model's
            `fit_prior`; the fitted prior replaces ``latent_distribution``. Default: None.

    Raises:
        ConfigError: A key is unknown (the message names the nearest valid one), or a value is out
            of range.
    """

    latent_dim: AtLeastOne = 10
    noise: NonNegative = 0.01
    latent_distribution: LatentDistribution = "normal"
    student_t_df: Positive = 5.0
    fitted_prior: PriorKind | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        data_dim = math.prod(self.input_dim) if self.input_dim else math.inf
        if self.latent_dim > data_dim:
            raise ConfigError(
                f"{self.name}: latent_dim={self.latent_dim}: at most {data_dim}, the dimension of "
                "the data"
            )


@config_dataclass
class BetaConfig(InjectiveFlowConfig):
    """Configuration of a model that weights its squared reconstruction error with beta.

    See :class:`InjectiveFlowConfig` for the other arguments.

    Args:
        beta (float): Weight of the squared reconstruction error. FIF and RectangularFlow also take
            'auto': 10 in the first epoch, then (D - d) / 2 divided by the mean error of the
            previous epoch, see :class:`~pythae_fif.models.adaptive_beta.AdaptiveBeta`. From one
            epoch to the next it falls by at most 10 % and at most doubles, and it is at most 1e6.
            Default: 10.
        beta_final (float): If set, beta changes linearly from ``beta`` to ``beta_final`` during
            training (appendix E.3). It needs ``FIFTrainer``: Pythae's trainers do not report the
            length of the training. Default: None.
    """

    beta: NonNegative | Literal["auto"] = 10.0
    beta_final: NonNegative | None = None

    def beta_at(self, share_done: float | Tensor | None = None) -> float | Tensor:
        """Returns beta at a point of the training.

        Args:
            share_done: Share of the training that is done, in [0, 1]; None if unknown.

        Returns:
            Beta; a tensor if the share is one.

        Raises:
            ConfigError: ``beta_final`` is set and the share is unknown.
        """
        assert self.beta != "auto"  # the model then chooses beta in every epoch
        if self.beta_final is None:
            return self.beta
        if share_done is None:
            raise ConfigError(
                f"{self.name}: beta_final needs the length of the training, which this trainer "
                "does not report: use FIFTrainer"
            )
        return self.beta + share_done * (self.beta_final - self.beta)


@config_dataclass
class FIFConfig(BetaConfig):
    """Configuration of a free-form injective flow (FIF).

    The defaults are the choices of the paper (Sorrenson et al., ICLR 2024, appendices D and E.2).
    See :class:`InjectiveFlowConfig` and :class:`BetaConfig` for the other arguments.

    Args:
        hutchinson_samples (int): Number K of Hutchinson vectors for each data point. Default: 1.
        hutchinson_kind (str): Distribution of the vectors: 'orthogonal', 'scaled_gaussian',
            'gaussian' or 'rademacher'. Default: 'orthogonal'.
        jacobian_at (str): Where the encoder's volume change is taken: 'data' at the data point
            (off-manifold), 'reconstruction' at its projection (on-manifold), or
            'detached_reconstruction' at the projection without gradient through it.
            Default: 'data'.
        surrogate_fraction (float): Share of each batch, in (0, 1], that is used to estimate the
            volume change. The estimate is unbiased because batches are shuffled. Below 1
            BatchNorm's batch statistics count as constants for a data point, as in evaluation
            mode; at 1 the Jacobian of the whole batch's map is used. A network that cannot be
            replayed gains no time, and its BatchNorm always has the whole batch's Jacobian.
            Default: 1, as in the paper.
        condition_dim (int): Number of classes, or length c of the condition vectors, of a
            conditional model; 0 for an unconditional one. A conditional model needs data sets with
            "labels", class indices (B,) or condition vectors (B, c). The encoder takes them as
            further channels or columns of its input, the decoder as further columns of z. Pass a
            data set, not a tensor: Pythae labels all rows of a tensor 1. Default: 0.
    """

    hutchinson_samples: AtLeastOne = 1
    hutchinson_kind: HutchinsonKind = "orthogonal"
    jacobian_at: JacobianAt = "data"
    surrogate_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    condition_dim: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hutchinson_samples > self.latent_dim:
            raise ConfigError(
                f"{self.name}: hutchinson_samples={self.hutchinson_samples}: at most "
                f"{self.latent_dim}, the latent dimension"
            )

        if self.beta != "auto":
            return
        if self.input_dim and self.latent_dim == math.prod(self.input_dim):
            raise ConfigError(
                f"{self.name}: beta='auto' needs a latent_dim below {self.latent_dim}, the "
                "dimension of the data"
            )
        if self.beta_final is not None:
            raise ConfigError(
                f"{self.name}: beta='auto' is chosen in every epoch: use it without beta_final"
            )
