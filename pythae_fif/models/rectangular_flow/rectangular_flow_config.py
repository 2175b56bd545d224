"""Configuration of a rectangular flow."""

__all__ = ["RectangularFlowConfig"]

from pydantic.dataclasses import dataclass

from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.models.fif import FIFConfig
from pythae_fif.volume_change.conjugate_gradient import RECTANGULAR_ESTIMATORS

_FIF_ALONE = (
    "gradient_to",
    "trace_space",
    "mode",
    "surrogate_fraction",
    "surrogate_precision",
    "condition_dim",
)


@dataclass
class RectangularFlowConfig(FIFConfig):
    """Rectangular flow config class.

    Parameters:
        input_dim, latent_dim, beta, beta_final, beta_epochs, hutchinson_samples, hutchinson_kind,
        noise, latent_distribution, student_t_df, eval_nll_samples: As of
            :class:`~pythae_fif.models.FIFConfig`.
        jacobian_at (str): 'reconstruction', the decoder's volume change at the projection as
            published, or 'data', the encoder's at the data point (off-manifold).
            Default: 'reconstruction'.
        estimator (str): 'conjugate_gradient' (eq. 6) or 'exact', all d columns of the Jacobian.
            Default: 'conjugate_gradient'.
        cg_tolerance (float): Relative residual at which conjugate gradients stop. Default: 1e-3.
        cg_max_iterations (int): Limit on their steps; None for the latent dimension.
            Default: None.

    Raises:
        ConfigError: An unknown key, named with the nearest valid one, a value out of range, or an
            option of FIF's surrogate that has no meaning here.
    """

    jacobian_at: str = "reconstruction"
    estimator: str = "conjugate_gradient"
    cg_tolerance: float = 1e-3
    cg_max_iterations: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in _FIF_ALONE:
            if getattr(self, key) != getattr(FIFConfig, key):
                raise ConfigError(f"RectangularFlowConfig {key}: is an option of FIF alone")
        if self.estimator not in RECTANGULAR_ESTIMATORS:
            raise ConfigError(
                f"RectangularFlowConfig estimator={self.estimator!r}: "
                f"{did_you_mean(self.estimator, RECTANGULAR_ESTIMATORS)}"
            )
        if not 0 < self.cg_tolerance < 1:
            raise ConfigError(
                f"RectangularFlowConfig cg_tolerance={self.cg_tolerance}: a number above 0 and "
                "below 1 is needed"
            )
        if self.cg_max_iterations is not None and self.cg_max_iterations < 1:
            raise ConfigError(
                f"RectangularFlowConfig cg_max_iterations={self.cg_max_iterations}: at least 1 is "
                "needed"
            )
