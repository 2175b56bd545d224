"""Flows from images to codes and back, which DNF and Trumpet share."""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn

from pythae_fif.baselines.glow import ActNorm, Chain, InjectiveConv, Squeeze, flow_steps
from pythae_fif.errors import ConfigError
from pythae_fif.models.config import InjectiveFlowConfig
from pythae_fif.models.injective_flow import InjectiveFlow
from pythae_fif.nn.base import evaluation_mode
from pythae_fif.nn.coupling import FlowDecoder, FlowEncoder, affine_couplings
from pythae_fif.validation import AtLeastOne, config_dataclass

MIN_SIDE = 4  # maps of this height or width are not squeezed further


def _squeezed_sizes(input_dim: tuple[int, ...]) -> list[tuple[int, int]]:
    """Heights and widths of the maps after each squeeze of an image (C, H, W)."""
    sizes = [(input_dim[1] // 2, input_dim[2] // 2)]
    while all(side % 2 == 0 and side > MIN_SIDE for side in sizes[-1]):
        height, width = sizes[-1]
        sizes.append((height // 2, width // 2))
    return sizes


class LatentFlow(nn.Module):
    """A density of codes (B, d), made of ActNorm and zuko's affine couplings."""

    def __init__(self, config: "FlowConfig") -> None:
        super().__init__()
        self.norm = ActNorm(config.latent_dim)
        self.couplings = affine_couplings(
            config.latent_dim, config.latent_blocks, hidden=[config.latent_hidden_dim] * 2
        )

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Maps codes of the manifold, (B, d), to z (B, d) and the log-determinant (B,)."""
        z, norm_log_det = self.norm(u[..., None, None])
        z, couplings_log_det = self.couplings().call_and_ladj(z.flatten(1))
        return z, norm_log_det + couplings_log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Maps z (B, d) to codes of the manifold, (B, d)."""
        z = self.couplings().inv(z)
        return self.norm.inverse(z[..., None, None]).flatten(1)


class MultiscaleFlow(nn.Module):
    """The data flow of a DNF: Glow's flow, which half of the channels leave at each scale."""

    def __init__(self, config: "FlowConfig") -> None:
        super().__init__()
        self.scales: Any = nn.ModuleList()
        self.shapes = []  # shapes of the latents that leave at each scale
        channels = config.input_dim[0]
        sizes = _squeezed_sizes(config.input_dim)
        for size in sizes:
            channels *= 4
            steps = flow_steps(channels, config.steps, config.hidden_channels, kernel=3)
            self.scales.append(Chain([Squeeze(), *steps]))
            leaving = channels if size == sizes[-1] else channels // 2
            self.shapes.append((leaving, *size))
            channels -= leaving

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps data to latents (B, D), the coarsest scale first, and the log-determinant (B,)."""
        total_log_det = x.new_zeros(len(x))
        latents = []
        for scale, (leaving, _, _) in zip(self.scales, self.shapes, strict=True):
            x, log_det = scale(x)
            total_log_det = total_log_det + log_det
            x, scale_latents = x.split([x.shape[1] - leaving, leaving], 1)
            latents.append(scale_latents.flatten(1))
        return torch.cat(latents[::-1], 1), total_log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Maps the first d latents, (B, d), to data; the other latents are zero."""
        shapes = self.shapes[::-1]
        sizes = [math.prod(shape) for shape in shapes]
        latents = F.pad(z, (0, sum(sizes) - z.shape[1])).split(sizes, 1)
        x = z.new_empty(len(z), 0, *shapes[0][1:])
        for scale, entering, shape in zip(reversed(self.scales), latents, shapes, strict=True):
            x = scale.inverse(torch.cat([x, entering.unflatten(1, shape)], 1))
        return x


class TrumpetFlow(Chain):
    """The data flow of a Trumpet: steps of flow, and injective layers that halve the channels.

    Maps are squeezed to `MIN_SIDE` pixels or an odd side, with an injective layer after the steps
    of flow at each size. The last map's channels are halved further while at least d numbers
    remain, and a dense injective layer maps these to d. For images of 3 x 64 x 64 and d = 192 this
    is the network of Kothari et al.: six injective layers of factor 2, and no dense layer.
    """

    def __init__(self, config: "FlowConfig") -> None:
        def steps(channels: int, kernel: int) -> list[nn.Module]:
            return flow_steps(channels, config.steps, config.hidden_channels, kernel)

        latent_dim = config.latent_dim
        channels = config.input_dim[0]
        sizes = _squeezed_sizes(config.input_dim)

        layers: list[nn.Module] = []
        for size in sizes:
            channels *= 4
            layers += [Squeeze(), *steps(channels, kernel=3)]
            while channels % 2 == 0 and channels // 2 * math.prod(size) >= latent_dim:
                layers.append(InjectiveConv(channels, channels // 2))
                channels //= 2
                if size != sizes[-1]:
                    break
                layers += steps(channels, kernel=3)
        super().__init__(layers)

        self.shape = (channels, *sizes[-1])
        self.dense = Chain([])
        map_numel = math.prod(self.shape)
        if map_numel > latent_dim:
            self.dense = Chain([InjectiveConv(map_numel, latent_dim), *steps(latent_dim, kernel=1)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps data to latents (B, d) by each layer's left inverse.

        The second number has no meaning: injective layers have no log-determinant.
        """
        maps, _ = super().forward(x)
        z, log_det = self.dense(maps.flatten(1)[..., None, None])
        return z.flatten(1), log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Maps latents (B, d) to data."""
        return super().inverse(self.dense.inverse(z[..., None, None]).reshape(-1, *self.shape))


class CodeFlow(nn.Module):
    """A flow from data to codes: a data flow, and a flow of its first d latents u to codes z.

    The other latents, if there are any, are noise, which is zero on the manifold.
    """

    def __init__(self, data_flow: Any, config: "FlowConfig") -> None:
        super().__init__()
        self.latent_dim = config.latent_dim
        self.data_flow = data_flow
        self.latent_flow = LatentFlow(config)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps data to codes z (B, d), noise v (B, D - d) and the log-determinant (B,)."""
        latents, data_log_det = self.data_flow(x)
        u, v = latents.tensor_split([self.latent_dim], 1)
        z, latent_log_det = self.latent_flow(u)
        return z, v, data_log_det + latent_log_det

    def encode(self, x: Tensor) -> Tensor:
        """Encodes data (B, ...) to codes (B, d)."""
        return self.split(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Decodes codes (B, d) to data (B, ...); `encode` is its left inverse."""
        return self.data_flow.inverse(self.latent_flow.inverse(z))


@config_dataclass
class FlowConfig(InjectiveFlowConfig):
    """The settings that DNF and Trumpet share.

    Args:
        input_dim (tuple): Shape (C, H, W) of an image, with even H and W.
        steps (int): Number of Glow's steps of flow at each size of the maps. Default: 4.
        hidden_channels (int): Channels of the two hidden layers of every coupling's network.
            Default: 128.
        latent_blocks (int): Number of affine couplings in the density of the codes. Default: 8.
        latent_hidden_dim (int): Width of the two hidden layers of these couplings' networks.
            Default: 256.
    """

    steps: AtLeastOne = 4
    hidden_channels: AtLeastOne = 128
    latent_blocks: AtLeastOne = 8
    latent_hidden_dim: AtLeastOne = 256


class FlowModel(InjectiveFlow):
    """A model with the two directions of one flow as encoder and decoder.

    They are built from the configuration and cannot be passed to the model.

    Attributes:
        data_flow: Class of the part of the flow next to the data.
    """

    data_flow: ClassVar[type[MultiscaleFlow | TrumpetFlow]]

    @classmethod
    def _networks(
        cls, config: FlowConfig, encoder: BaseEncoder | None, decoder: BaseDecoder | None
    ) -> tuple[BaseEncoder, BaseDecoder]:
        if encoder is not None or decoder is not None:
            raise ConfigError(
                f"{cls.__name__} does not take an encoder or a decoder: they are the two "
                "directions of a flow that is built from the configuration"
            )

        shape = config.input_dim or ()
        if len(shape) != 3 or any(side % 2 for side in shape[1:]):
            raise ConfigError(f"{config.name} input_dim: use (C, H, W) with even H and W")
        flow = CodeFlow(cls.data_flow(config), config)
        return FlowEncoder(flow), FlowDecoder(flow)

    @property
    def flow(self) -> Any:
        """The :class:`CodeFlow` that encoder and decoder share."""
        return self.decoder.flow

    def _encode(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        # ActNorm sets its scales by its first batch in training mode. This must be a batch of the
        # training, which calls the flow itself, and not data that a user encodes.
        with evaluation_mode(self, gradient=torch.is_grad_enabled()):
            return super()._encode(x, condition)
