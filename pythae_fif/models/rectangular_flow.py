"""Rectangular flow: an injective flow trained with conjugate gradients."""

__all__ = ["RectangularFlow", "RectangularFlowConfig"]

from typing import Annotated, Any

from pydantic import Field
from pythae.data.datasets import BaseDataset
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor

from pythae_fif.errors import ConfigError
from pythae_fif.models.hutchinson import HutchinsonConfig, HutchinsonModel, has_batch_norm
from pythae_fif.models.injective_flow import Count
from pythae_fif.models.outputs import check_no_script, uncompiled
from pythae_fif.nn.coupling import build_coupling
from pythae_fif.validation import config_dataclass
from pythae_fif.volume_change import SurrogateOutput, fif_loss
from pythae_fif.volume_change.conjugate_gradient import (
    RectangularAt,
    RectangularEstimator,
    rectangular_surrogate,
)
from pythae_fif.volume_change.loss import Map


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

    jacobian_at: RectangularAt = "reconstruction"
    estimator: RectangularEstimator = "conjugate_gradient"
    cg_tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    cg_max_iterations: Count | None = None


class RectangularFlow(HutchinsonModel):
    r"""Rectangular flow (Caterini et al., 'Rectangular Flows for Manifold Learning', NeurIPS 2021).

    The loss of a data point is

    .. math::
        -\log p_Z(z) + \frac12 \log\det g'(z)^\top g'(z) + \beta \lVert g(z) - x \rVert^2,
        \quad z = f(x)

    (eq. 3 of Sorrenson et al. 2024), with the gradient of the log-determinant estimated by
    Hutchinson vectors and conjugate gradients (eq. 6), or exactly. Density, samples, evaluation
    loss and Pythae's interface are those of :class:`~pythae_fif.models.hutchinson.HutchinsonModel`.

    Args:
        model_config (RectangularFlowConfig): The configuration.
        encoder (BaseEncoder): f. With the decoder, the two directions of an injective coupling
            flow if None.
        decoder (BaseDecoder): g.

    Raises:
        ConfigError: Only one of the two nets is given, or none for data that are no rows, or a net
            has BatchNorm: in training mode its samples depend on each other, and no sample has a
            Jacobian of its own. Or a net is TorchScript, which PyTorch differentiates wrongly.

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
                "batch depend on each other: use GroupNorm or LayerNorm"
            )
        check_no_script(self, "RectangularFlow")

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

    @uncompiled
    def forward(self, inputs: BaseDataset, **kwargs: Any) -> ModelOutput:
        """Encodes, decodes and computes the loss of the current mode, as FIF does.

        Args:
            inputs (BaseDataset): ``inputs["data"]`` of shape (B, D).
            epoch, share_done, dataset_size: In the keyword arguments of trainers, see
                :meth:`FIF.forward <pythae_fif.models.fif.FIF.forward>`.

        Returns:
            ModelOutput: ``loss``, ``recon_loss``, ``nll_loss``, ``recon_x`` and ``z``, as of FIF.
        """
        x, condition = self._batch(inputs)
        if not self.training:
            return self._evaluated(x, condition, kwargs.get("dataset_size"))
        loss = fif_loss(
            self._encode,
            self._decode,
            self.latent_distribution(x).log_prob,
            x,
            self._hutchinson(x),
            self.beta(kwargs.get("epoch", 1), kwargs.get("share_done")),
            surrogate=self.log_volume_estimate,
        )
        return ModelOutput(
            loss=loss.loss.mean(),
            recon_loss=loss.reconstruction.mean(),
            nll_loss=loss.nll.mean(),
            recon_x=loss.x_hat,
            z=loss.z,
        )

    def log_volume_estimate(
        self, encode: Map, decode: Map, x: Tensor, eps: Tensor
    ) -> SurrogateOutput:
        """The volume term of the loss by the estimator of the configuration.

        Args:
            encode, decode, x, eps: As of
                :func:`~pythae_fif.volume_change.conjugate_gradient.rectangular_surrogate`.
        """
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
