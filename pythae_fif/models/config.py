"""Configurations: what all models share, what has a beta, what has Hutchinson vectors, FIF's."""

import math
from typing import Annotated, Literal

from pydantic import Field
from pythae.models.base.base_config import BaseAEConfig

from pythae_fif.errors import ConfigError
from pythae_fif.models.priors import LatentDistribution, PriorKind
from pythae_fif.validation import AtLeastOne, config_dataclass
from pythae_fif.volume_change.hutchinson import HutchinsonKind
from pythae_fif.volume_change.loss import JacobianAt

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@config_dataclass
class InjectiveFlowConfig(BaseAEConfig):
    """The part of the configuration that all models of this package have.

    Parameters:
        input_dim (tuple): Shape of one data point (C, H, W) or (D,).
        latent_dim (int): Latent dimension d, at most D. Default: 10.
        noise (float): Standard deviation of the Gaussian noise on the data in training, which the
            reconstruction's target has, too. Default: 0.01.
        latent_distribution (str): 'normal', 'student_t' (independent coordinates) or
            'multivariate_student_t' (one density of `|z|`). Default: 'normal'.
        student_t_df (float): Degrees of freedom of Student's. Default: 5.
        fitted_prior (str): Set by the model's `fit_prior`: 'gaussian', 'mixture' or 'flow', which
            is used in place of ``latent_distribution``. Default: None.

    Raises:
        ConfigError: An unknown key, named with the nearest valid one, or a value out of range.
    """

    latent_dim: AtLeastOne = 10
    noise: NonNegative = 0.01
    latent_distribution: LatentDistribution = "normal"
    student_t_df: Positive = 5.0
    fitted_prior: PriorKind | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        most = math.prod(self.input_dim or (self.latent_dim,))
        if self.latent_dim > most:
            raise ConfigError(
                f"{self.name}: latent_dim={self.latent_dim}: at most {most}, that of the data"
            )


@config_dataclass
class BetaConfig(InjectiveFlowConfig):
    """Of a model whose loss is a likelihood plus the weighted squared reconstruction error.

    Parameters:
        beta (float): Weight of the squared reconstruction error. FIF and RectangularFlow also take
            'auto': 10 in the first epoch, then (D - d) / 2 over the last one's mean. Default: 10.
        beta_final (float): If given, beta moves linearly from ``beta`` to it over the training
            (appendix E.3), whose length Pythae's own trainers do not tell. Default: None.
    """

    beta: NonNegative | Literal["auto"] = 10.0
    beta_final: NonNegative | None = None

    def beta_at(self, share_done: float | None = None) -> float:
        """The reconstruction weight when a share of the training, in [0, 1], is done."""
        assert self.beta != "auto"  # of which each epoch has its own
        if self.beta_final is None:
            return self.beta
        if share_done is None:
            raise ConfigError(
                f"{self.name}: beta_final follows the length of the training, which this trainer "
                "does not tell: use FIFTrainer"
            )
        return self.beta + share_done * (self.beta_final - self.beta)


@config_dataclass
class HutchinsonConfig(BetaConfig):
    """The part of their configurations that FIF and RectangularFlow share.

    Parameters:
        hutchinson_samples (int): K, Hutchinson vectors a data point. Default: 1.
        hutchinson_kind (str): Their distribution: 'orthogonal' (default), 'scaled_gaussian',
            'gaussian' or 'rademacher'.
    """

    hutchinson_samples: AtLeastOne = 1
    hutchinson_kind: HutchinsonKind = "orthogonal"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hutchinson_samples > self.latent_dim:
            raise ConfigError(
                f"{self.name}: hutchinson_samples={self.hutchinson_samples}: at most "
                f"{self.latent_dim}, the latent dimension"
            )
        dims = math.prod(self.input_dim or ())
        if self.beta == "auto" and self.input_dim and self.latent_dim == dims:
            raise ConfigError(f"{self.name}: beta='auto' needs a latent_dim below {dims}")
        if self.beta == "auto" and self.beta_final is not None:
            raise ConfigError(f"{self.name}: beta='auto' is chosen by epoch, without beta_final")


@config_dataclass
class FIFConfig(HutchinsonConfig):
    """Free-form injective flow (FIF) config class; the defaults are the choices of the paper
    (Sorrenson et al., ICLR 2024, appendices D and E.2).

    Parameters:
        input_dim, latent_dim, noise, latent_distribution, student_t_df, fitted_prior, beta,
        beta_final, hutchinson_samples, hutchinson_kind: See the classes above.
        jacobian_at (str): 'data', the encoder's volume change at the data point (off-manifold),
            'reconstruction', that at its projection (on-manifold), or there as at a constant,
            'detached_reconstruction'. Default: 'data'.
        surrogate_fraction (float): Part of every batch, in (0, 1], whose data points carry the
            surrogate of the volume change, which is unbiased as batches come shuffled. Below 1
            BatchNorm's batch statistics are constants for a data point, as in evaluation mode; at 1
            the Jacobian is that of the whole-batch map. Default: 1, as the paper.
        condition_dim (int): Number of classes, or length c of a condition vector, of a conditional
            model; 0 for none. Data sets then give "labels", class indices (B,) or condition vectors
            (B, c), which the encoder takes as further channels or columns of its input, the decoder
            behind z. (Pythae labels plain tensors 1 all over: give a data set.) Default: 0.
    """

    jacobian_at: JacobianAt = "data"
    surrogate_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    condition_dim: Annotated[int, Field(ge=0)] = 0
