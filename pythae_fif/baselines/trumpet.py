"""Trumpet: an injective flow, trained in two stages: first its manifold, then its density."""

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

    Reconstruction and density are trained one after the other, so there is no weight between them.

    Args:
        manifold_epochs (int): Number of epochs in which the manifold is trained, before the
            density. Default: 10.
        manifold_share (float): Share of the training, in (0, 1), after which no further epoch
            trains the manifold. In a training of a single epoch the density is not trained.
            Default: 0.5.
        noise (float): Standard deviation of the noise added in training. Default: 0, as published.

    For the other arguments see :class:`~pythae_fif.baselines.flows.FlowConfig`.
    """

    noise: NonNegative = 0.0
    manifold_epochs: AtLeastOne = 10
    manifold_share: Annotated[float, Field(gt=0, lt=1)] = 0.5


class Trumpet(FlowModel):
    r"""Trumpet (Kothari et al., 'Trumpets: Injective Flows for Inference and Inverse Problems',
    UAI 2021).

    The decoder is :math:`g = g_\text{manifold} \circ h`, with invertible h in d dimensions and
    injective :math:`g_\text{manifold}` of growing dimension: steps of flow, and injective 1 x 1
    convolutions that double the channels. The encoder consists of each layer's left inverse.
    Training has two stages. The first trains the manifold by
    :math:`\lVert g_\text{manifold}(g_\text{manifold}^\dagger(x)) - x \rVert^2`. The second freezes
    the manifold and trains h by maximum likelihood of the codes
    :math:`g_\text{manifold}^\dagger(x)`, with an exact log-determinant. The volume change of the
    manifold does not depend on h, so this is maximum likelihood on the manifold.

    This is not the authors' program (github.com/swing-research/trumpets). Theirs has 8 x 3 steps of
    flow for h in place of fully connected affine couplings, U-Nets in its couplings, scales between
    0.01 and 1, regularised pseudo-inverses, and the codes' error in the loss of the manifold.

    Attributes:
        stage: 'manifold' or 'density', the part that is trained and that the loss is for. Training
            starts with the manifold. :class:`~pythae_fif.FIFTrainer` changes the stage; Pythae's
            trainers do not.

    Example:
        >>> model = Trumpet(TrumpetConfig(input_dim=(1, 8, 8), latent_dim=4, hidden_channels=8))
        >>> model.sample(3).shape, model.log_prob(torch.rand(5, 1, 8, 8)).shape
        (torch.Size([3, 1, 8, 8]), torch.Size([5]))
    """

    config_class = TrumpetConfig
    data_flow = TrumpetFlow
    stage: str = "manifold"

    def stage_at(self, epochs: float, share_done: float) -> str:
        """Returns the stage at a point of the training.

        Args:
            epochs: Number of passes over the data so far.
            share_done: Finished share of the training, from 0 to 1.
        """
        config = self.model_config
        is_early = epochs < config.manifold_epochs and share_done < config.manifold_share
        return "manifold" if is_early else "density"

    def get_extra_state(self) -> Tensor:
        """Returns the stage, which says by what loss a trainer selected the weights."""
        return torch.tensor(self.stage == "density")

    def set_extra_state(self, state: Tensor) -> None:
        """Sets the stage: True for 'density'."""
        self.stage = "density" if state else "manifold"

    def forward(self, inputs: BaseDataset, **kwargs: Any) -> ModelOutput:
        """Encodes and computes the loss of the stage: reconstruction, or likelihood of the codes.

        Args:
            inputs (BaseDataset): ``inputs["data"]`` of shape (B, C, H, W).
            kwargs: Ignored.

        Returns:
            ModelOutput: ``recon_loss`` (squared error) and ``nll_loss`` (codes of the manifold, in
            nats), means over the batch, ``recon_x`` (B, C, H, W) and ``z`` (B, d). ``loss`` is
            ``recon_loss`` in the first stage and ``nll_loss`` in the second. In training only the
            stage's outputs are computed.
        """
        x = as_data(inputs["data"], self)
        if self.training:
            x = self._noisy(x)
        trains_density = self.stage == "density"
        with torch.set_grad_enabled(torch.is_grad_enabled() and not trains_density):
            u, _ = self.flow.data_flow(x)

        output = ModelOutput()
        if trains_density or not self.training:
            z, log_det = self.flow.latent_flow(u)
            log_prob = self.latent_distribution(z).log_prob(z) + log_det
            output["nll_loss"] = -log_prob.mean()
            output["z"] = z
        if not trains_density or not self.training:
            x_hat = self.flow.data_flow.inverse(u)
            output["recon_x"] = x_hat
            output["recon_loss"] = squared_error(x_hat, x).mean()
        output["loss"] = output["nll_loss" if trains_density else "recon_loss"]
        return output
