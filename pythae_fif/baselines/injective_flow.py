"""What DNF and Trumpet share: the size of their flows, and a flow as encoder and decoder."""

__all__ = ["InjectiveFlowConfig", "InjectiveFlowModel"]

import math
from typing import Any, ClassVar

from pydantic.dataclasses import dataclass
from pythae.models.nn import BaseDecoder, BaseEncoder

from pythae_fif.errors import ConfigError
from pythae_fif.models.manifold import ManifoldConfig, ManifoldModel
from pythae_fif.nn.coupling import CouplingDecoder, CouplingEncoder


@dataclass
class InjectiveFlowConfig(ManifoldConfig):
    """The part of their configurations that DNF and Trumpet share.

    Parameters:
        steps (int): Glow's steps of flow at each size of the maps. Default: 4.
        hidden_channels (int): Of the two hidden layers of every coupling's net. Default: 128.
        latent_blocks (int): Affine couplings of the density of the codes. Default: 8.
        latent_hidden_dim (int): Width of the two hidden layers of their nets. Default: 256.
    """

    steps: int = 4
    hidden_channels: int = 128
    latent_blocks: int = 8
    latent_hidden_dim: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "steps", "hidden_channels", "latent_hidden_dim")
        self._require_at_least(0, "latent_blocks")
        if self.input_dim is not None:
            size = math.prod(self.input_dim)
            self._require(
                self.latent_dim <= size,
                "latent_dim",
                f"at most {size}, the size of input_dim {tuple(self.input_dim)}",
            )

    @property
    def sizes(self) -> dict[str, int]:
        """The flow's sizes, as the flows of :mod:`pythae_fif.baselines.injective` name them."""
        return {
            "steps": self.steps,
            "hidden_channels": self.hidden_channels,
            "blocks": self.latent_blocks,
            "hidden_dim": self.latent_hidden_dim,
        }


class InjectiveFlowModel(ManifoldModel):
    """A model whose encoder and decoder are the two directions of one flow.

    Attributes:
        flow_class: The flow, of :mod:`pythae_fif.baselines.injective`.
    """

    flow_class: ClassVar[Any]

    @classmethod
    def _networks(
        cls, config: InjectiveFlowConfig, encoder: BaseEncoder | None, decoder: BaseDecoder | None
    ) -> tuple[BaseEncoder, BaseDecoder]:
        if encoder is not None or decoder is not None:
            raise ConfigError(
                f"{cls.__name__} builds its flow from its configuration: encoder and decoder are "
                "its two directions and cannot be given"
            )
        flow = cls.flow_class(config.input_dim, config.latent_dim, **config.sizes)
        return CouplingEncoder(flow), CouplingDecoder(flow)

    @property
    def flow(self) -> Any:
        """The flow whose two directions encoder and decoder are, of class ``flow_class``."""
        return self.decoder.flow
