"""Rectangular flow: an injective flow trained with conjugate gradients."""

__all__ = ["RectangularFlow"]

from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor

from pythae_fif.errors import ConfigError
from pythae_fif.models.manifold import squared_error
from pythae_fif.models.rectangular_flow.rectangular_flow_config import RectangularFlowConfig
from pythae_fif.models.surrogate import SurrogateModel
from pythae_fif.nn.coupling import CouplingDecoder, CouplingEncoder, build_coupling
from pythae_fif.volume_change.conjugate_gradient import rectangular_surrogate


class RectangularFlow(SurrogateModel):
    r"""Rectangular flow (Caterini et al., 'Rectangular Flows for Manifold Learning', NeurIPS 2021).

    The loss of a data point is

    .. math::
        -\log p_Z(z) + \frac12 \log\det g'(z)^\top g'(z) + \beta \lVert g(z) - x \rVert^2,
        \quad z = f(x)

    (eq. 3 of Sorrenson et al. 2024), with the gradient of the log-determinant estimated by
    Hutchinson vectors and conjugate gradients (eq. 6), or exactly. Density, samples, evaluation
    loss and Pythae's interface are those of :class:`~pythae_fif.models.surrogate.SurrogateModel`.

    Args:
        model_config (RectangularFlowConfig): The configuration.
        encoder (BaseEncoder): f. With the decoder, the two directions of an injective coupling
            flow if None.
        decoder (BaseDecoder): g.

    Raises:
        ConfigError: Only one of the two nets is given, or none for data that are no rows.

    Attributes:
        cg_iterations: Conjugate gradient steps of the last training batch, (K, B); None before,
            and if exact.

    Example:
        >>> import torch
        >>> from pythae_fif.models import RectangularFlow, RectangularFlowConfig
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
        if isinstance(encoder, CouplingEncoder) and isinstance(decoder, CouplingDecoder):
            encoder.flow = decoder.flow  # Pythae saves the two apart: loaded, they are two copies
        return encoder, decoder

    def _training_output(self, x: Tensor, beta: float, condition: Tensor | None) -> ModelOutput:
        config = self.model_config
        x = self._noisy(x)
        eps = self._hutchinson(len(x), config.latent_dim, x)
        volume, z, x_hat, self.cg_iterations = rectangular_surrogate(
            self._encode,
            self._decode,
            x,
            eps,
            estimator=config.estimator,
            jacobian_at=config.jacobian_at,
            tolerance=config.cg_tolerance,
            max_iterations=config.cg_max_iterations,
        )
        recon_loss = squared_error(x_hat, x)
        nll_loss = -self.latent_distribution(z).log_prob(z) + volume
        return ModelOutput(
            loss=(nll_loss + beta * recon_loss).mean(),
            recon_loss=recon_loss.mean(),
            nll_loss=nll_loss.mean(),
            recon_x=x_hat,
            z=z,
        )
