"""Trumpet: an injective flow whose manifold is trained first and its density second."""

from typing import Annotated, Any

import torch
from pydantic import Field
from pythae.data.datasets import BaseDataset
from pythae.models.base.base_utils import ModelOutput
from torch import Tensor

from pythae_fif.baselines.flows import FlowConfig, FlowModel, TrumpetFlow
from pythae_fif.models.config import NonNegative
from pythae_fif.models.outputs import as_data
from pythae_fif.validation import AtLeastOne, config_dataclass
from pythae_fif.volume_change import squared_error


@config_dataclass
class TrumpetConfig(FlowConfig):
    """Trumpet config class.

    Reconstruction and density are trained one after the other: there is no weight between them.

    Parameters:
        manifold_epochs (int): Epochs of the manifold's training, before the density's. Default: 10.
        manifold_share (float): It is trained for no more whole epochs once this share of the
            training, in (0, 1), is done; of one epoch in all the density gets none. Default: 0.5.
        noise (float): Standard deviation of the noise added in training. Default: 0, as published.

    The others are those of :class:`~pythae_fif.baselines.flows.FlowConfig`.
    """

    noise: NonNegative = 0.0
    manifold_epochs: AtLeastOne = 10
    manifold_share: Annotated[float, Field(gt=0, lt=1)] = 0.5


class Trumpet(FlowModel):
    r"""Trumpet (Kothari et al., 'Trumpets: Injective Flows for Inference and Inverse Problems',
    UAI 2021).

    The decoder is :math:`g = g_\text{manifold} \circ h`, with invertible h in d dimensions and
    injective :math:`g_\text{manifold}` of growing dimension: steps of flow, and injective 1 x 1
    convolutions that double the channels. Each layer's left inverse makes the encoder. Training
    has two stages: first the manifold, by
    :math:`\lVert g_\text{manifold}(g_\text{manifold}^\dagger(x)) - x \rVert^2`; then, with the
    manifold frozen, h, by maximum likelihood of the codes :math:`g_\text{manifold}^\dagger(x)`,
    whose log-determinant is exact. The volume change of the manifold does not depend on h, so that
    this is maximum likelihood on the manifold.

    Not its authors' program (github.com/swing-research/trumpets), which has 8 x 3 steps of flow for
    h in place of fully connected affine couplings, U-Nets in its couplings, scales between 0.01 and
    1, regularised pseudo-inverses, and the codes' error in the loss of the manifold.

    Attributes:
        stage: 'manifold' or 'density': what is trained, and what the loss is. Training starts with
            the former, and :class:`~pythae_fif.FIFTrainer` sets it; Pythae's trainers do not.

    Example:
        >>> model = Trumpet(TrumpetConfig(input_dim=(1, 8, 8), latent_dim=4, hidden_channels=8))
        >>> model.sample(3).shape, model.log_prob(torch.rand(5, 1, 8, 8)).shape
        (torch.Size([3, 1, 8, 8]), torch.Size([5]))
    """

    config_class = TrumpetConfig
    data_flow = TrumpetFlow
    stage: str = "manifold"

    def stage_at(self, epochs: float, share_done: float) -> str:
        """The stage after so many passes over the data, which are this share of the training."""
        config = self.model_config
        early = epochs < config.manifold_epochs and share_done < config.manifold_share
        return "manifold" if early else "density"

    def get_extra_state(self) -> Tensor:
        """The stage: what its loss is, and so what a trainer kept its weights by."""
        return torch.tensor(self.stage == "density")

    def set_extra_state(self, state: Tensor) -> None:
        self.stage = "density" if state else "manifold"

    def forward(self, inputs: BaseDataset, **kwargs: Any) -> ModelOutput:
        """Encodes and computes the loss of the stage: reconstruction, or likelihood of the codes.

        Args:
            inputs (BaseDataset): ``inputs["data"]`` of shape (B, C, H, W).

        Returns:
            ModelOutput: ``loss`` is ``recon_loss`` (squared error) in the first stage and
            ``nll_loss`` (codes of the manifold, in nats) in the second, means over the batch;
            ``recon_x`` (B, C, H, W) and ``z`` (B, d). In training only the stage's.
        """
        x, density, output = as_data(inputs["data"], self), self.stage == "density", ModelOutput()
        if self.training:
            x = self._noisy(x)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not density):
            u, _ = self.flow.data_flow(x)
        if density or not self.training:
            z, log_det = self.flow.latent_flow(u)
            output["nll_loss"] = -(self.latent_distribution(z).log_prob(z) + log_det).mean()
            output["z"] = z
        if not density or not self.training:
            output["recon_x"] = self.flow.data_flow.inverse(u)
            output["recon_loss"] = squared_error(output["recon_x"], x).mean()
        output["loss"] = output["nll_loss" if density else "recon_loss"]
        return output
