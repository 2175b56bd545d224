"""What DNF and Trumpet share: the size of their flows, and a flow as encoder and decoder."""

__all__ = ["InjectiveFlowConfig", "InjectiveFlowModel"]

import math

from pydantic.dataclasses import dataclass
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import nn

from pythae_fif.errors import ConfigError
from pythae_fif.nn.coupling import CouplingDecoder, CouplingEncoder

from .fif import FIF, FIFConfig
from .rectangular_flow.rectangular_flow_config import _FIF_ALONE

_NOT_OF_FLOWS = (*_FIF_ALONE, "jacobian_at", "hutchinson_samples", "hutchinson_kind",
                 "eval_nll_samples")  # fmt: skip


@dataclass
class InjectiveFlowConfig(FIFConfig):
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
        name = type(self).__name__
        for key in _NOT_OF_FLOWS:
            if hasattr(FIFConfig, key) and getattr(self, key) != getattr(FIFConfig, key):
                raise ConfigError(f"{name} {key}: is an option of FIF, not of this model")
        for key, least in (
            ("steps", 1), ("hidden_channels", 1), ("latent_blocks", 0), ("latent_hidden_dim", 1)
        ):  # fmt: skip
            if getattr(self, key) < least:
                raise ConfigError(f"{name} {key}={getattr(self, key)}: at least {least} is needed")
        if self.input_dim is not None and self.latent_dim > math.prod(self.input_dim):
            raise ConfigError(
                f"{name} latent_dim={self.latent_dim}: at most {math.prod(self.input_dim)}, the "
                f"size of input_dim {tuple(self.input_dim)}"
            )

    @property
    def sizes(self) -> dict[str, int]:
        """The flow's sizes, as the flows of :mod:`pythae_fif.nn.injective` name them."""
        return {
            "steps": self.steps,
            "hidden_channels": self.hidden_channels,
            "blocks": self.latent_blocks,
            "hidden_dim": self.latent_hidden_dim,
        }


class InjectiveFlowModel(FIF):
    """A model whose encoder and decoder are the two directions of one flow.

    Density on the manifold, samples and Pythae's interface are those of
    :class:`~pythae_fif.models.FIF`; the loss is not.
    """

    def __init__(
        self,
        name: str,
        model_config: InjectiveFlowConfig,
        flow: nn.Module,
        encoder: BaseEncoder | None,
        decoder: BaseDecoder | None,
    ) -> None:
        if encoder is not None or decoder is not None:
            raise ConfigError(
                f"{name} builds its flow from its configuration: encoder and decoder are its two "
                "directions and cannot be given"
            )
        super().__init__(model_config, CouplingEncoder(flow), CouplingDecoder(flow))  # type: ignore[arg-type]
        self.model_name = name
        self.model_config.uses_default_encoder = True
        self.model_config.uses_default_decoder = True
