"""What DNF and Trumpet share: flows from images to codes, and back by the same net."""

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
from pythae_fif.nn.coupling import FlowDecoder, FlowEncoder, affine_couplings
from pythae_fif.validation import AtLeastOne, config_dataclass

MIN_SIDE = 4  # maps of this height or width are not squeezed further


def _sizes(input_dim: tuple[int, ...]) -> list[tuple[int, int]]:
    """Heights and widths of the maps after each squeeze of an image (C, H, W)."""
    sizes = [(input_dim[1] // 2, input_dim[2] // 2)]
    while all(side % 2 == 0 and side > MIN_SIDE for side in sizes[-1]):
        height, width = sizes[-1]
        sizes.append((height // 2, width // 2))
    return sizes


class LatentFlow(nn.Module):
    """A density of codes (B, d): ActNorm and zuko's affine couplings."""

    def __init__(self, config: "FlowConfig") -> None:
        super().__init__()
        self.norm = ActNorm(config.latent_dim)
        hidden = [config.latent_hidden_dim] * 2
        self.couplings = affine_couplings(config.latent_dim, config.latent_blocks, hidden)

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Codes of the manifold, (B, d), to z (B, d) and the log-determinant (B,)."""
        z, log_det = self.norm(u[..., None, None])
        z, more = self.couplings().call_and_ladj(z.flatten(1))
        return z, log_det + more

    def inverse(self, z: Tensor) -> Tensor:
        z = self.couplings().inv(z)
        return self.norm.inverse(z[..., None, None]).flatten(1)


class MultiscaleFlow(nn.Module):
    """The data flow of a DNF: Glow's, of which half the channels leave at each scale."""

    def __init__(self, config: "FlowConfig") -> None:
        super().__init__()
        self.scales: Any = nn.ModuleList()
        self.shapes = []  # of what leaves at each
        channels, sizes = config.input_dim[0], _sizes(config.input_dim)
        for size in sizes:
            channels *= 4
            steps = flow_steps(channels, config.steps, config.hidden_channels, kernel=3)
            self.scales.append(Chain([Squeeze(), *steps]))
            leaving = channels if size == sizes[-1] else channels // 2
            self.shapes.append((leaving, *size))
            channels -= leaving

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Data to latents (B, D), the coarsest scale first, and the log-determinant (B,)."""
        total, latents = x.new_zeros(len(x)), []
        for scale, (leaving, _, _) in zip(self.scales, self.shapes, strict=True):
            x, log_det = scale(x)
            total = total + log_det
            x, left = x.split([x.shape[1] - leaving, leaving], 1)
            latents.append(left.flatten(1))
        return torch.cat(latents[::-1], 1), total

    def inverse(self, z: Tensor) -> Tensor:
        """The first of the latents, (B, d), to data; what else there is of them is zero."""
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
    of flow at each size. The last map's channels are halved further while at least d numbers are
    left; a dense injective layer takes the rest to d. With images of 3 x 64 x 64 and d = 192 that
    is Kothari et al.'s: six injective layers of factor 2, and none dense.
    """

    def __init__(self, config: "FlowConfig") -> None:
        channels, sizes = config.input_dim[0], _sizes(config.input_dim)
        latent_dim, how = config.latent_dim, (config.steps, config.hidden_channels)
        layers: list[nn.Module] = []
        for size in sizes:
            channels *= 4
            layers += [Squeeze(), *flow_steps(channels, *how, kernel=3)]
            while channels % 2 == 0 and channels // 2 * math.prod(size) >= latent_dim:
                layers.append(InjectiveConv(channels, channels // 2))
                channels //= 2
                if size != sizes[-1]:
                    break
                layers += flow_steps(channels, *how, kernel=3)
        super().__init__(layers)
        self.shape, dense = (channels, *sizes[-1]), []
        if (rest := math.prod(self.shape)) > latent_dim:
            dense = [InjectiveConv(rest, latent_dim), *flow_steps(latent_dim, *how, kernel=1)]
        self.dense = Chain(dense)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Data to latents (B, d), by each layer's left inverse; the second number means nothing."""
        maps, _ = super().forward(x)
        z, log_det = self.dense(maps.flatten(1)[..., None, None])
        return z.flatten(1), log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Latents (B, d) to data."""
        return super().inverse(self.dense.inverse(z[..., None, None]).reshape(-1, *self.shape))


class CodeFlow(nn.Module):
    """A flow from data to codes: d of the data flow's latents are codes u, whose flow gives z. What
    other latents there are is noise, zero on the manifold."""

    def __init__(self, data_flow: Any, config: "FlowConfig") -> None:
        super().__init__()
        self.latent_dim, self.data_flow = config.latent_dim, data_flow
        self.latent_flow = LatentFlow(config)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Data to codes z (B, d), noise v (B, D - d), and the log-determinant of both (B,)."""
        latents, log_det = self.data_flow(x)
        u, v = latents.tensor_split([self.latent_dim], 1)
        z, more = self.latent_flow(u)
        return z, v, log_det + more

    def encode(self, x: Tensor) -> Tensor:
        """f, from (B, ...) to (B, d)."""
        return self.split(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """g, from (B, d) to (B, ...), whose left inverse is f."""
        return self.data_flow.inverse(self.latent_flow.inverse(z))


@config_dataclass
class FlowConfig(InjectiveFlowConfig):
    """The part of their configurations that DNF and Trumpet share.

    Parameters:
        input_dim (tuple): Shape (C, H, W) of an image, of even H and W.
        steps (int): Glow's steps of flow at each size of the maps. Default: 4.
        hidden_channels (int): Of the two hidden layers of every coupling's net. Default: 128.
        latent_blocks (int): Affine couplings of the density of the codes. Default: 8.
        latent_hidden_dim (int): Width of the two hidden layers of their nets. Default: 256.
    """

    steps: AtLeastOne = 4
    hidden_channels: AtLeastOne = 128
    latent_blocks: AtLeastOne = 8
    latent_hidden_dim: AtLeastOne = 256


class FlowModel(InjectiveFlow):
    """A model whose encoder and decoder, which cannot be given, are the two directions of one flow.

    Attributes:
        data_flow: Its part next to the data.
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
        shape = config.input_dim or ()
        if len(shape) != 3 or any(side % 2 for side in shape[1:]):
            raise ConfigError(f"{config.name} input_dim: (C, H, W) of even H and W is needed")
        flow = CodeFlow(cls.data_flow(config), config)
        return FlowEncoder(flow), FlowDecoder(flow)

    @property
    def flow(self) -> Any:
        """The :class:`CodeFlow` of encoder and decoder."""
        return self.decoder.flow

    def _encode(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        # ActNorm sets its scales by the first batch that it sees in training mode: that must be one
        # of the training, whose losses go through the flow itself, and not what a user looks at.
        with self._in_evaluation_mode(gradient=torch.is_grad_enabled()):
            return super()._encode(x, condition)
