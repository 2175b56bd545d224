"""Rectangular flow: an injective flow trained with conjugate gradients."""

__all__ = ["RectangularFlow", "RectangularFlowConfig"]

from typing import Annotated

import torch
from pydantic import Field
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn

from pythae_fif.errors import ConfigError
from pythae_fif.models.config import Count, HutchinsonConfig
from pythae_fif.models.conjugate_gradient import (
    RectangularAt,
    RectangularEstimator,
    rectangular_surrogate,
)
from pythae_fif.models.fif import FIF, has_batch_norm
from pythae_fif.nn.coupling import build_coupling
from pythae_fif.validation import config_dataclass
from pythae_fif.volume_change import FIFLoss, SurrogateOutput
from pythae_fif.volume_change.surrogates import Map


@config_dataclass
class RectangularFlowConfig(HutchinsonConfig):
    """Rectangular flow config class.

    Parameters:
        input_dim, latent_dim, beta, beta_final, hutchinson_samples, hutchinson_kind, noise,
        latent_distribution, student_t_df: As of :class:`~pythae_fif.models.FIFConfig`.
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

    jacobian_at: RectangularAt = "reconstruction"
    estimator: RectangularEstimator = "conjugate_gradient"
    cg_tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    cg_max_iterations: Count | None = None


class RectangularFlow(FIF):
    r"""Rectangular flow (Caterini et al., 'Rectangular Flows for Manifold Learning', NeurIPS 2021).

    The loss of a data point is

    .. math::
        -\log p_Z(z) + \frac12 \log\det g'(z)^\top g'(z) + \beta \lVert g(z) - x \rVert^2,
        \quad z = f(x)

    (eq. 3 of Sorrenson et al. 2024), with the gradient of the log-determinant estimated by
    Hutchinson vectors and conjugate gradients (eq. 6), or exactly. All but this term is that of
    :class:`~pythae_fif.models.FIF`.

    Args:
        model_config (RectangularFlowConfig): The configuration.
        encoder (BaseEncoder): f. With the decoder, the two directions of an injective coupling
            flow if None.
        decoder (BaseDecoder): g.

    Raises:
        ConfigError: Only one of the two nets is given, or none for data that are no rows, or a net
            has BatchNorm: in training mode its samples depend on each other, and no sample has a
            Jacobian of its own. Or a net is TorchScript, or has a LayerNorm or InstanceNorm, which
            PyTorch differentiates wrongly.

    Attributes:
        cg_iterations: Conjugate gradient steps of the last training batch, (K, B); None before,
            and if exact.

    Example:
        >>> from pythae_fif.models import RectangularFlow, RectangularFlowConfig
        >>> model = RectangularFlow(RectangularFlowConfig(input_dim=(6,), latent_dim=3))
        >>> loss = model({"data": torch.randn(8, 6)}).loss
        >>> model.cg_iterations.shape
        torch.Size([1, 8])
    """

    config_class = RectangularFlowConfig
    cg_iterations: Tensor | None = None

    def __init__(
        self,
        model_config: RectangularFlowConfig,
        encoder: BaseEncoder | None = None,
        decoder: BaseDecoder | None = None,
    ) -> None:
        super().__init__(model_config, encoder, decoder)
        if has_batch_norm(self):
            raise ConfigError(
                "RectangularFlow with BatchNorm networks trains on a wrong volume, as samples of a "
                "batch depend on each other: use GroupNorm"
            )
        wrong = (nn.LayerNorm, nn.modules.instancenorm._InstanceNorm, torch.jit.ScriptModule)
        for module in self.modules():
            if isinstance(module, wrong):
                raise ConfigError(
                    "RectangularFlow: PyTorch's gradient of a Jacobian is wrong through "
                    f"{type(module).__name__}: use GroupNorm or RMSNorm, and no TorchScript"
                )

    @classmethod
    def _networks(
        cls, config: RectangularFlowConfig, encoder: BaseEncoder | None, decoder: BaseDecoder | None
    ) -> tuple[BaseEncoder, BaseDecoder]:
        if encoder is None and decoder is None:
            if len(config.input_dim or ()) != 1:
                raise ConfigError(
                    f"RectangularFlow has a default flow for rows, input_dim (D,), not for "
                    f"{config.input_dim}: give encoder and decoder"
                )
            return build_coupling(config.input_dim, config.latent_dim)
        if encoder is None or decoder is None:
            raise ConfigError(
                "RectangularFlow needs encoder and decoder, or neither: they are one flow"
            )
        if hasattr(encoder, "flow") and hasattr(decoder, "flow"):
            encoder.flow = decoder.flow  # two directions of one
        return encoder, decoder

    def volume_term(self, encode: Map, decode: Map, x: Tensor, eps: Tensor) -> SurrogateOutput:
        """The log-volume by the estimator of the configuration; arguments as of
        :func:`~pythae_fif.models.conjugate_gradient.rectangular_surrogate`."""
        config = self.model_config
        out = rectangular_surrogate(
            encode,
            decode,
            x,
            eps,
            estimator=config.estimator,
            jacobian_at=config.jacobian_at,
            tolerance=config.cg_tolerance,
            max_iterations=config.cg_max_iterations,
        )
        self.cg_iterations = out.iterations
        return SurrogateOutput(out.log_volume, out.z, out.x_hat)

    def _choose_surrogate(self, x: Tensor, condition: Tensor | None) -> None:
        """There is one way alone."""

    def _watched(self, loss: FIFLoss) -> dict[str, Tensor]:
        return {}
