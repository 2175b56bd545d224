"""Rectangular flow: an injective flow trained with conjugate gradients."""

__all__ = ["RectangularFlow", "RectangularFlowConfig"]

from typing import Annotated

from pydantic import Field
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn

from pythae_fif.errors import ConfigError
from pythae_fif.models.config import HutchinsonConfig
from pythae_fif.models.conjugate_gradient import RectangularAt, rectangular_surrogate
from pythae_fif.models.fif import FIF
from pythae_fif.nn.coupling import build_coupling
from pythae_fif.validation import config_dataclass
from pythae_fif.volume_change.loss import FIFLoss
from pythae_fif.volume_change.surrogates import Map, SurrogateOutput


@config_dataclass
class RectangularFlowConfig(HutchinsonConfig):
    """Rectangular flow config class.

    Parameters:
        others: As of :class:`~pythae_fif.models.FIFConfig`.
        jacobian_at (str): 'reconstruction', the decoder's volume change at the projection as
            published, or 'data', the encoder's at the data point (off-manifold).
            Default: 'reconstruction'.
        cg_tolerance (float): Relative residual at which conjugate gradients stop. Default: 1e-3.
    """

    jacobian_at: RectangularAt = "reconstruction"
    cg_tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-3


class RectangularFlow(FIF):
    r"""Rectangular flow (Caterini et al., 'Rectangular Flows for Manifold Learning', NeurIPS 2021).

    The loss of a data point is

    .. math::
        -\log p_Z(z) + \frac12 \log\det g'(z)^\top g'(z) + \beta \lVert g(z) - x \rVert^2,
        \quad z = f(x)

    (eq. 3 of Sorrenson et al. 2024), with the gradient of the log-determinant estimated by
    Hutchinson vectors and conjugate gradients (eq. 6). All but this term is that of
    :class:`~pythae_fif.models.FIF`.

    Args:
        model_config (RectangularFlowConfig): The configuration.
        encoder (BaseEncoder): f. With the decoder, the two directions of an injective coupling
            flow if None.
        decoder (BaseDecoder): g.

    Raises:
        ConfigError: Only one of the two nets is given, or none for data that are no rows, or a net
            has BatchNorm, by which no sample has a Jacobian of its own, or a Layer- or
            InstanceNorm, which PyTorch differentiates wrongly.

    Attributes:
        cg_iterations: Conjugate gradient steps of the last training batch, (K, B); None before.

    Example:
        >>> import torch
        >>> model = RectangularFlow(RectangularFlowConfig(input_dim=(6,), latent_dim=3))
        >>> loss = model({"data": torch.randn(8, 6)}).loss
        >>> model.cg_iterations.shape
        torch.Size([1, 8])
    """

    config_class = RectangularFlowConfig
    cg_iterations: Tensor | None = None

    @classmethod
    def _networks(
        cls, config: RectangularFlowConfig, encoder: BaseEncoder | None, decoder: BaseDecoder | None
    ) -> tuple[BaseEncoder, BaseDecoder]:
        if encoder is None and decoder is None and len(config.input_dim or ()) == 1:
            return build_coupling(config.input_dim, config.latent_dim)
        if encoder is None or decoder is None:
            raise ConfigError(
                "RectangularFlow needs encoder and decoder, or neither for rows, input_dim (D,): "
                "they are one flow"
            )
        norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm)
        for module in (*encoder.modules(), *decoder.modules()):
            if isinstance(module, norms):
                raise ConfigError(
                    "RectangularFlow: the gradient of a volume is wrong through "
                    f"{type(module).__name__}: use GroupNorm or RMSNorm"
                )
        if hasattr(encoder, "flow") and hasattr(decoder, "flow"):
            encoder.flow = decoder.flow  # two directions of one
        return encoder, decoder

    def volume_term(self, encode: Map, decode: Map, x: Tensor, eps: Tensor) -> SurrogateOutput:
        """The log-volume's surrogate; arguments as of
        :func:`~pythae_fif.models.conjugate_gradient.rectangular_surrogate`."""
        at, tolerance = self.model_config.jacobian_at, self.model_config.cg_tolerance
        out = rectangular_surrogate(encode, decode, x, eps, jacobian_at=at, tolerance=tolerance)
        self.cg_iterations = out.iterations
        return SurrogateOutput(out.log_volume, out.z, out.x_hat)

    def _watched(self, loss: FIFLoss) -> dict[str, Tensor]:
        return {}
