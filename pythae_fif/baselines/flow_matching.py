"""Flow matching in data space: a continuous flow of all dimensions, without an autoencoder."""

from typing import Any

from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor

from pythae_fif.errors import ConfigError
from pythae_fif.models.config import InjectiveFlowConfig
from pythae_fif.models.flow_matching_prior import FlowMatchingPrior, solve_ode
from pythae_fif.models.injective_flow import InjectiveFlow
from pythae_fif.nn.coupling import FlowDecoder, FlowEncoder
from pythae_fif.validation import config_dataclass


@config_dataclass
class FlowMatchingConfig(InjectiveFlowConfig):
    """Configuration of a continuous flow in data space: its `latent_dim` is D.

    Args:
        noise (float): Standard deviation of the Gaussian noise that is added to the data in
            training. Default: 0.
    """

    noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.input_dim is None or (self.latent_dim,) != tuple(self.input_dim):
            raise ConfigError(
                f"{self.name}: latent_dim={self.latent_dim} and input_dim={self.input_dim}: rows "
                "(D,) and latent_dim D are needed"
            )


class ContinuousFlow(FlowMatchingPrior):
    """The flow of :class:`~pythae_fif.models.flow_matching_prior.FlowMatchingPrior` of data (B, D).

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, 0)
        self.requires_grad_(True)  # a prior is trained in its method `fit`, data by a trainer

    def encode(self, x: Tensor) -> Tensor:
        """Carries data (B, D) to noise (B, D)."""
        return solve_ode(self._velocity, x, start=1.0, stop=0.0)

    def decode(self, z: Tensor) -> Tensor:
        """Carries noise (B, D) to data (B, D)."""
        return solve_ode(self._velocity, z, start=0.0, stop=1.0)

    def _velocity(self, time: Tensor, x: Tensor) -> Tensor:
        velocity: Tensor = self.velocity(x, time)
        return velocity


class FlowMatching(InjectiveFlow):
    """A continuous flow between noise and rows of a table (Lipman et al., ICLR 2023).

    Codes have all D dimensions, so that the model compresses nothing, and its density is one in
    data space. Training regresses the velocity of straight paths from noise to data, see
    :class:`~pythae_fif.models.flow_matching_prior.FlowMatchingPrior`. Encoder and decoder solve the
    differential equation, each with 48 passes of the network.

    Args:
        model_config (FlowMatchingConfig): The configuration.

    Example:
        >>> import torch
        >>> config = FlowMatchingConfig(input_dim=(6,), latent_dim=6)
        >>> model, x = FlowMatching(config), torch.rand(4, 6)
        >>> model({"data": x}).loss.shape, model.reconstruct(x).allclose(x, atol=1e-4)
        (torch.Size([]), True)
    """

    config_class = FlowMatchingConfig

    @classmethod
    def _networks(
        cls,
        config: FlowMatchingConfig,
        encoder: BaseEncoder | None,
        decoder: BaseDecoder | None,
    ) -> tuple[BaseEncoder, BaseDecoder]:
        flow = ContinuousFlow(config.latent_dim)
        return FlowEncoder(flow), FlowDecoder(flow)

    def forward(self, inputs: Any, **progress: Any) -> ModelOutput:
        """Computes the velocity's squared error at random times, as `loss`.

        Args:
            inputs (BaseDataset): ``inputs["data"]`` of shape (B, D).
            progress: What trainers pass. The loss is then the only output.

        Returns:
            ModelOutput: ``loss``, a mean over the batch, and without ``progress`` also ``z`` (B, D)
            and ``recon_x`` (B, D), which take many passes of the network.
        """
        (x,) = self.read_batch(inputs)
        loss = self.decoder.flow.loss(self.add_noise(x) if self.training else x)
        output = ModelOutput() if progress else super().forward(inputs)
        return ModelOutput(output, loss=loss)
