"""What DNF and Trumpet share: the sizes of their flows, and a flow as encoder and decoder."""

__all__ = ["FlowConfig", "FlowModel"]

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor

from pythae_fif.baselines.flows import CodeFlow, MultiscaleFlow, TrumpetFlow
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.models.config import Count, InjectiveFlowConfig
from pythae_fif.models.injective_flow import InjectiveFlow
from pythae_fif.nn.coupling import FlowDecoder, FlowEncoder
from pythae_fif.validation import config_dataclass


@config_dataclass
class FlowConfig(InjectiveFlowConfig):
    """The part of their configurations that DNF and Trumpet share.

    Parameters:
        steps (int): Glow's steps of flow at each size of the maps. Default: 4.
        hidden_channels (int): Of the two hidden layers of every coupling's net. Default: 128.
        latent_blocks (int): Affine couplings of the density of the codes. Default: 8.
        latent_hidden_dim (int): Width of the two hidden layers of their nets. Default: 256.
    """

    steps: Count = 4
    hidden_channels: Count = 128
    latent_blocks: Annotated[int, Field(ge=0)] = 8
    latent_hidden_dim: Count = 256


class FlowModel(InjectiveFlow):
    """A model whose encoder and decoder are the two directions of one flow.

    Attributes:
        data_flow: Its part next to the data, of :mod:`pythae_fif.baselines.flows`.
    """

    data_flow: ClassVar[type[MultiscaleFlow | TrumpetFlow]]

    @classmethod
    def _networks(
        cls, config: FlowConfig, encoder: BaseEncoder | None, decoder: BaseDecoder | None
    ) -> tuple[BaseEncoder, BaseDecoder]:
        if encoder is not None or decoder is not None:
            raise ConfigError(
                f"{cls.__name__} builds its flow from its configuration: encoder and decoder are "
                "its two directions and cannot be given"
            )
        if config.input_dim is None:
            raise ConfigError(f"{config.name} input_dim: is needed for the flow")
        flow = CodeFlow(cls.data_flow(config), config)
        return FlowEncoder(flow), FlowDecoder(flow)

    @property
    def flow(self) -> Any:
        """The :class:`~pythae_fif.baselines.flows.CodeFlow` of encoder and decoder."""
        return self.decoder.flow

    def _typed(self, x: Tensor) -> Tensor:
        if not len(x):  # torch's distributions take none, and ActNorm would begin with NaN
            raise DataError(f"{self.model_name}: takes no empty batch")
        return super()._typed(x)

    def _encode(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        # ActNorm sets its scales by the first batch that it sees in training mode: that must be one
        # of the training, whose losses go through the flow itself, and not what a user looks at.
        with self._in_evaluation_mode(gradient=torch.is_grad_enabled()):
            return super()._encode(x, condition)
