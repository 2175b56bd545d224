"""What DNF and Trumpet share: flows from images or rows to codes, and back by the same net."""

__all__ = ["CodeFlow", "FlowConfig", "FlowModel", "MultiscaleFlow", "TrumpetFlow"]

import contextlib
import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn

from pythae_fif.baselines.glow import ActNorm, Chain, InjectiveConv, Squeeze, flow_steps
from pythae_fif.errors import ConfigError
from pythae_fif.models.config import Count, InjectiveFlowConfig
from pythae_fif.models.injective_flow import InjectiveFlow
from pythae_fif.nn.coupling import FlowDecoder, FlowEncoder, affine_couplings
from pythae_fif.validation import config_dataclass

SMALLEST = 4  # maps of this height or width are not squeezed further


def _as_image(input_dim: tuple[int, ...]) -> tuple[int, int, int]:
    """Shape of a data point as an image; a row is one of one pixel."""
    channels, height, width = (*input_dim, 1, 1)[:3]
    return channels, height, width


def _can_be_squeezed(height: int, width: int) -> bool:
    return height % 2 == width % 2 == 0 and min(height, width) > SMALLEST


class LatentFlow(nn.Module):
    """A density of codes (B, d): ActNorm and zuko's affine couplings.

    Args:
        latent_dim: d.
        blocks, hidden_dim: Number of couplings, and width of two hidden layers of their nets.
    """

    def __init__(self, latent_dim: int, blocks: int, hidden_dim: int) -> None:
        super().__init__()
        self.norm = ActNorm(latent_dim)
        # zuko reads its masks as it builds them, which the meta device does not let it.
        meta = torch.get_default_device().type == "meta"
        with torch.device("cpu") if meta else contextlib.nullcontext():
            self.couplings = affine_couplings(latent_dim, blocks, [hidden_dim] * 2)

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Codes of the manifold, (B, d), to z (B, d) and the log-determinant (B,)."""
        z, log_det = self.norm(u[..., None, None])
        z, more = self.couplings().call_and_ladj(z.flatten(1))
        return z, log_det + more

    def inverse(self, z: Tensor) -> Tensor:
        z = self.couplings().inv(z)
        return self.norm.inverse(z[..., None, None]).flatten(1)


class MultiscaleFlow(nn.Module):
    """The data flow of a DNF, invertible: Glow's, of which half the channels leave at each scale.

    Args:
        config: A :class:`FlowConfig`.

    Attributes:
        size: D, the latents.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.input_dim = tuple(config.input_dim)
        self.size = math.prod(self.input_dim)
        channels, height, width = _as_image(self.input_dim)
        sizes = config.steps, config.hidden_channels, 3 if height > 1 else 1
        self.scales: Any = nn.ModuleList()
        self.shapes = []  # of what leaves at each
        squeezed = height > 1
        while True:
            layers: list[nn.Module] = []
            if squeezed:
                channels, height, width = 4 * channels, height // 2, width // 2
                layers.append(Squeeze())
            self.scales.append(Chain([*layers, *flow_steps(channels, *sizes)]))
            squeezed = _can_be_squeezed(height, width)
            leaving = channels // 2 if squeezed else channels
            self.shapes.append((leaving, height, width))
            channels -= leaving
            if not squeezed:
                break

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Data to latents (B, D), the coarsest scale first, and the log-determinant (B,)."""
        x = x.reshape(len(x), *_as_image(self.input_dim))
        total, latents = x.new_zeros(len(x)), []
        for scale, (leaving, _, _) in zip(self.scales, self.shapes, strict=True):
            x, log_det = scale(x)
            total = total + log_det
            x, left = x.split([x.shape[1] - leaving, leaving], 1)
            latents.append(left.flatten(1))
        return torch.cat(latents[::-1], 1), total

    def inverse(self, z: Tensor) -> Tensor:
        """Latents (B, D) to data."""
        shapes = self.shapes[::-1]
        latents = z.split([math.prod(shape) for shape in shapes], 1)
        x = z.new_empty(len(z), 0, *shapes[0][1:])
        for scale, entering, shape in zip(reversed(self.scales), latents, shapes, strict=True):
            x = scale.inverse(torch.cat([x, entering.unflatten(1, shape)], 1))
        return x.reshape(len(z), *self.input_dim)


class TrumpetFlow(Chain):
    """The data flow of a Trumpet: steps of flow, and injective layers that halve the channels.

    Seen from the data, maps are squeezed to `SMALLEST` pixels or an odd side, with an injective
    layer after the steps of flow at each size, and the last map's channels are halved further
    while at least d numbers are left; a dense injective layer takes the rest to d. With images of
    3 x 64 x 64 and d = 192 that is Kothari et al.'s: six injective layers of factor 2, and none
    dense.

    Args:
        config: A :class:`FlowConfig`.

    Attributes:
        size: d, the latents.
    """

    def __init__(self, config: Any) -> None:
        self.input_dim, self.size = tuple(config.input_dim), config.latent_dim
        channels, height, width = _as_image(self.input_dim)
        sizes = config.steps, config.hidden_channels
        kernel = 3 if height > 1 else 1
        layers: list[nn.Module] = []
        squeezed = height > 1
        while True:
            if squeezed:
                channels, height, width = 4 * channels, height // 2, width // 2
                layers.append(Squeeze())
            layers += flow_steps(channels, *sizes, kernel)
            squeezed = _can_be_squeezed(height, width)
            half = channels // 2
            if channels % 2 == 0 and half * height * width >= self.size:
                layers.append(InjectiveConv(channels, half))
                channels = half
            elif not squeezed:
                break
        super().__init__(layers)
        self.shape, dense = (channels, height, width), []
        if (rest := channels * height * width) > self.size:
            dense = [InjectiveConv(rest, self.size), *flow_steps(self.size, *sizes, 1)]
        self.dense = Chain(dense)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Data to latents (B, d), by each layer's left inverse; the second number means nothing."""
        maps, _ = super().forward(x.reshape(len(x), *_as_image(self.input_dim)))
        z, log_det = self.dense(maps.flatten(1)[..., None, None])
        return z.flatten(1), log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Latents (B, d) to data."""
        maps = self.dense.inverse(z[..., None, None]).reshape(len(z), *self.shape)
        return super().inverse(maps).reshape(len(z), *self.input_dim)


class CodeFlow(nn.Module):
    """A flow from data to codes: d of the data flow's latents are codes u, whose flow gives z.

    What other latents there are is noise, zero on the manifold.

    Args:
        data_flow: :class:`MultiscaleFlow` or :class:`TrumpetFlow`.
        config: A :class:`FlowConfig`.
    """

    def __init__(self, data_flow: Any, config: Any) -> None:
        super().__init__()
        self.latent_dim, self.data_flow = config.latent_dim, data_flow
        sizes = config.latent_blocks, config.latent_hidden_dim
        self.latent_flow = LatentFlow(config.latent_dim, *sizes)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Data to codes z (B, d), noise v (B, D - d), and the log-determinant of both (B,)."""
        latents, log_det = self.data_flow(x)
        u, v = latents.tensor_split([self.latent_dim], 1)
        z, more = self.latent_flow(u)
        return z, v, log_det + more

    def project(self, x: Tensor) -> Tensor:
        """Data to the manifold's codes u (B, d)."""
        u: Tensor = self.data_flow(x)[0][:, : self.latent_dim]
        return u

    def expand(self, u: Tensor) -> Tensor:
        """The manifold's codes u (B, d) to data; :meth:`project` is its left inverse."""
        x: Tensor = self.data_flow.inverse(F.pad(u, (0, self.data_flow.size - self.latent_dim)))
        return x

    def encode(self, x: Tensor) -> Tensor:
        """f, from (B, ...) to (B, d)."""
        z: Tensor = self.latent_flow(self.project(x))[0]
        return z

    def decode(self, z: Tensor) -> Tensor:
        """g, from (B, d) to (B, ...)."""
        return self.expand(self.latent_flow.inverse(z))


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
    latent_blocks: Count = 8
    latent_hidden_dim: Count = 256


class FlowModel(InjectiveFlow):
    """A model whose encoder and decoder are the two directions of one flow.

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
        if config.input_dim is None:
            raise ConfigError(f"{config.name} input_dim: is needed for the flow")
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
