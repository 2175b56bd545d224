"""Denoising normalizing flow: a flow of noisy data that learns to project them back."""

from typing import Any

import torch
from pythae.data.datasets import BaseDataset
from pythae.models.base.base_utils import ModelOutput
from torch import Tensor

from pythae_fif.baselines.flows import FlowConfig, FlowModel, MultiscaleFlow
from pythae_fif.models.config import BetaConfig, NonNegative, Positive
from pythae_fif.models.outputs import as_data
from pythae_fif.models.priors import StandardNormal
from pythae_fif.validation import config_dataclass
from pythae_fif.volume_change import squared_error


@config_dataclass
class DNFConfig(FlowConfig, BetaConfig):
    """Denoising normalizing flow (DNF) config class.

    Args:
        beta (float): Weight of the squared reconstruction error. Default: 100.
        noise (float): Standard deviation of the noise that inflates the data, and of the D - d
            noise latents. Default: 0.01.

    For the other arguments see :class:`~pythae_fif.models.config.BetaConfig` and
    :class:`~pythae_fif.baselines.flows.FlowConfig`.
    """

    beta: NonNegative = 100.0
    noise: Positive = 0.01


class DNF(FlowModel):
    r"""Denoising normalizing flow (Horvat & Pfister, 'Denoising Normalizing Flow', NeurIPS 2021).

    The data are inflated, :math:`\tilde x = x + \sigma \epsilon` in all D dimensions. An invertible
    flow maps them to u (d) and noise v (D - d) with :math:`v \sim N(0, \sigma^2 I)`; a second flow
    maps u to z (d) with density p_Z. The loss of a data point is

    .. math::
        -\log \tilde p(\tilde x) + \beta \lVert g(f(\tilde x)) - x \rVert^2, \quad
        \log \tilde p(\tilde x) = \log p_Z(z) + \log N(v; 0, \sigma^2 I) + \log |\det J|

    with J the Jacobian of :math:`\tilde x \mapsto (z, v)` and g(z) the data at v = 0. The second
    term teaches the flow to move data that noise moved off the manifold back to it.

    This is not the authors' program (github.com/chrvt/denoising-normalizing-flow). Theirs has
    rational-quadratic splines in place of affine couplings, the mean over pixels of the squared
    error with a weight of 1,000, and a penalty on the latents. Here the network has Glow's
    multi-scale form, its noise latents are in units of :math:`\sigma`, and data are not
    dequantised.

    Example:
        >>> model = DNF(DNFConfig(input_dim=(1, 8, 8), latent_dim=4, hidden_channels=8))
        >>> model.sample(3).shape, model.log_prob(torch.rand(5, 1, 8, 8)).shape
        (torch.Size([3, 1, 8, 8]), torch.Size([5]))
    """

    config_class = DNFConfig
    data_flow = MultiscaleFlow

    def forward(self, inputs: BaseDataset, **kwargs: Any) -> ModelOutput:
        """Encodes, decodes and computes the loss.

        In evaluation mode beta has its final value, codes are computed from data without noise,
        and the likelihood is evaluated at data with noise from a fixed seed.

        Args:
            inputs (BaseDataset): ``inputs["data"]`` of shape (B, C, H, W).
            kwargs: ``share_done``, the finished share of the training from this package's
                trainers, for the schedule of beta.

        Returns:
            ModelOutput: ``loss``, ``recon_loss`` (squared error) and ``nll_loss`` (of the inflated
            data, in nats), means over the batch; ``recon_x`` (B, C, H, W) and ``z`` (B, d).
        """
        x = as_data(inputs["data"], self)
        config = self.model_config
        if self.training:
            beta = config.beta_at(kwargs.get("share_done"))
            log_prob, z = self._inflated_log_prob(self._noisy(x))
        else:
            beta = config.beta_at(1.0)
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
            log_prob, _ = self._inflated_log_prob(x + config.noise * noise)
            z = self._encode(x)

        x_hat = self._decode(z)
        nll_loss = -log_prob.mean()
        recon_loss = squared_error(x_hat, x).mean()
        return ModelOutput(
            loss=nll_loss + beta * recon_loss,
            recon_loss=recon_loss,
            nll_loss=nll_loss,
            recon_x=x_hat,
            z=z,
        )

    def _inflated_log_prob(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the log-density of inflated data, (B,), and their codes z, (B, d)."""
        z, v, log_det = self.flow.split(x)
        code_log_prob = self.latent_distribution(z).log_prob(z)
        noise_log_prob = StandardNormal(v[0]).log_prob(v.to(z.dtype))  # bfloat16 under autocast
        return code_log_prob + noise_log_prob + log_det, z
