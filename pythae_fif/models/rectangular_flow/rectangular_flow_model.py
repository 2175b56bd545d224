"""Rectangular flow: an injective flow trained with conjugate gradients."""

__all__ = ["RectangularFlow"]

import torch
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor

from pythae_fif.errors import ConfigError
from pythae_fif.models.fif import FIF
from pythae_fif.nn.coupling import CouplingDecoder, CouplingEncoder, build_coupling
from pythae_fif.volume_change import sample_hutchinson
from pythae_fif.volume_change.conjugate_gradient import rectangular_surrogate

from .rectangular_flow_config import RectangularFlowConfig


class RectangularFlow(FIF):
    r"""Rectangular flow (Caterini et al., 'Rectangular Flows for Manifold Learning', NeurIPS 2021).

    The loss of a data point is

    .. math::
        -\log p_Z(z) + \frac12 \log\det g'(z)^\top g'(z) + \beta \lVert g(z) - x \rVert^2,
        \quad z = f(x)

    (eq. 3 of Sorrenson et al. 2024), with the gradient of the log-determinant estimated by
    Hutchinson vectors and conjugate gradients (eq. 6), or exactly. Density, samples, evaluation
    loss and Pythae's interface are those of :class:`~pythae_fif.models.FIF`.

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
        >>> from pythae_fif.models import RectangularFlow, RectangularFlowConfig
        >>> model = RectangularFlow(RectangularFlowConfig(input_dim=(6,), latent_dim=3))
        >>> loss = model({"data": torch.randn(8, 6)}).loss
        >>> model.cg_iterations.shape
        torch.Size([1, 8])
    """

    cg_iterations: Tensor | None = None

    def __init__(
        self,
        model_config: RectangularFlowConfig,
        encoder: BaseEncoder | None = None,
        decoder: BaseDecoder | None = None,
    ) -> None:
        if (encoder is None) != (decoder is None):
            raise ConfigError(
                "RectangularFlow needs encoder and decoder, or neither: they are one flow"
            )
        default = encoder is None
        if default:
            if len(model_config.input_dim or ()) != 1:
                raise ConfigError(
                    f"RectangularFlow has a default flow for rows, input_dim (D,), not for "
                    f"{model_config.input_dim}: give encoder and decoder"
                )
            encoder, decoder = build_coupling(model_config.input_dim, model_config.latent_dim)
        elif isinstance(encoder, CouplingEncoder) and isinstance(decoder, CouplingDecoder):
            encoder.flow = decoder.flow  # Pythae saves the two apart: loaded, they are two copies
        super().__init__(model_config, encoder, decoder)
        self.model_name = "RectangularFlow"
        self.model_config.uses_default_encoder = default
        self.model_config.uses_default_decoder = default

    def _training_output(self, x: Tensor, beta: float, condition: None = None) -> ModelOutput:
        config = self.model_config
        if config.noise > 0:
            x = x + config.noise * torch.randn_like(x)
        eps = sample_hutchinson(
            len(x),
            config.latent_dim,
            config.hutchinson_samples,
            kind=config.hutchinson_kind,
            device=x.device,
            dtype=x.dtype,
        )
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
        recon_loss = (x_hat - x).square().flatten(1).sum(1)
        nll_loss = -self.latent_distribution(z).log_prob(z) + volume
        return ModelOutput(
            loss=(nll_loss + beta * recon_loss).mean(),
            recon_loss=recon_loss.mean(),
            nll_loss=nll_loss.mean(),
            recon_x=x_hat,
            z=z,
        )

    @classmethod
    def _load_model_config_from_folder(cls, dir_path: str) -> RectangularFlowConfig:
        return RectangularFlowConfig.from_json_file(f"{dir_path}/model_config.json")
