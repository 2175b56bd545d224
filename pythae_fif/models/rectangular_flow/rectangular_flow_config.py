"""Configuration of a rectangular flow."""

__all__ = ["RectangularFlowConfig"]

from typing import Annotated

from pydantic import Field

from pythae_fif.models.hutchinson import HutchinsonConfig
from pythae_fif.models.manifold import Count
from pythae_fif.validation import config_dataclass
from pythae_fif.volume_change.conjugate_gradient import RectangularEstimator
from pythae_fif.volume_change.loss import JacobianAt


@config_dataclass
class RectangularFlowConfig(HutchinsonConfig):
    """Rectangular flow config class.

    Parameters:
        input_dim, latent_dim, beta, beta_final, beta_epochs, hutchinson_samples, hutchinson_kind,
        noise, latent_distribution, student_t_df, eval_nll_samples: As of
            :class:`~pythae_fif.models.hutchinson.HutchinsonConfig`.
        jacobian_at (str): 'reconstruction', the decoder's volume change at the projection as
            published, or 'data', the encoder's at the data point (off-manifold).
            Default: 'reconstruction'.
        estimator (str): 'conjugate_gradient' (eq. 6) or 'exact', all d columns of the Jacobian.
            Default: 'conjugate_gradient'.
        cg_tolerance (float): Relative residual at which conjugate gradients stop. Default: 1e-3.
        cg_max_iterations (int): Limit on their steps; None for the latent dimension.
            Default: None.

    Raises:
        ConfigError: An unknown key, named with the nearest valid one, or a value out of range.
    """

    jacobian_at: JacobianAt = "reconstruction"
    estimator: RectangularEstimator = "conjugate_gradient"
    cg_tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    cg_max_iterations: Count | None = None
