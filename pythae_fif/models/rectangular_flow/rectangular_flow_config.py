"""Configuration of a rectangular flow."""

__all__ = ["RectangularFlowConfig"]

from pydantic.dataclasses import dataclass

from pythae_fif.models.surrogate import SurrogateConfig
from pythae_fif.volume_change.conjugate_gradient import RECTANGULAR_ESTIMATORS


@dataclass
class RectangularFlowConfig(SurrogateConfig):
    """Rectangular flow config class.

    Parameters:
        input_dim, latent_dim, beta, beta_final, beta_epochs, hutchinson_samples, hutchinson_kind,
        noise, latent_distribution, student_t_df, eval_nll_samples: As of
            :class:`~pythae_fif.models.surrogate.SurrogateConfig`.
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

    jacobian_at: str = "reconstruction"
    estimator: str = "conjugate_gradient"
    cg_tolerance: float = 1e-3
    cg_max_iterations: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_one_of(estimator=RECTANGULAR_ESTIMATORS)
        self._require(
            0 < self.cg_tolerance < 1, "cg_tolerance", "a number above 0 and below 1 is needed"
        )
        self._require_at_least(1, "cg_max_iterations")
