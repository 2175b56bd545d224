"""Networks as a user writes them: in classes of his own, with the layers of today."""

from collections.abc import Callable

import torch
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn

TOKENS = 49
WIDTH = 64

BuildLayers = Callable[[int], list[nn.Module]]
"""Returns the layers after a layer with that number of channels."""


class OwnEncoder(BaseEncoder):
    """Layers from data (B, ...) to codes (B, d)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> ModelOutput:
        return ModelOutput(embedding=self.layers(x))


class OwnDecoder(BaseDecoder):
    """Layers from codes (B, d) to data (B, ...)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.layers(z))


def mlp(build_layers: BuildLayers, latent_dim: int) -> tuple[OwnEncoder, OwnDecoder]:
    """Builds networks with two hidden layers for images of 28 x 28 pixels.

    Args:
        build_layers: The layers after a linear layer.
        latent_dim: d.
    """
    encoder = OwnEncoder(
        nn.Flatten(), nn.Linear(784, 256), *build_layers(256),
        nn.Linear(256, 256), *build_layers(256), nn.Linear(256, latent_dim),
    )  # fmt: skip
    decoder = OwnDecoder(
        nn.Linear(latent_dim, 256), *build_layers(256),
        nn.Linear(256, 256), *build_layers(256), nn.Linear(256, 784), nn.Unflatten(1, (1, 28, 28)),
    )  # fmt: skip
    return encoder, decoder


def convnet(build_layers: BuildLayers, latent_dim: int) -> tuple[OwnEncoder, OwnDecoder]:
    """Builds networks of convolutions for images of 28 x 28 pixels.

    Args:
        build_layers: The layers after a convolution.
        latent_dim: d.
    """
    encoder = OwnEncoder(
        nn.Conv2d(1, 32, 4, 2, 1), *build_layers(32),
        nn.Conv2d(32, 64, 4, 2, 1), *build_layers(64),
        nn.Flatten(), nn.Linear(64 * 49, latent_dim),
    )  # fmt: skip
    decoder = OwnDecoder(
        nn.Linear(latent_dim, 64 * 49), nn.Unflatten(1, (64, 7, 7)),
        nn.ConvTranspose2d(64, 32, 4, 2, 1), *build_layers(32),
        nn.ConvTranspose2d(32, 1, 4, 2, 1),
    )  # fmt: skip
    return encoder, decoder


class TransformerEncoder(BaseEncoder):
    """Two transformer layers on patches of 4 x 4 pixels of images of 28 x 28 pixels."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, 4, 4)
        self.positions = nn.Parameter(0.02 * torch.randn(TOKENS, WIDTH))
        self.layers = transformer_layers()
        self.head = nn.Linear(TOKENS * WIDTH, latent_dim)

    def forward(self, x: Tensor) -> ModelOutput:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return ModelOutput(embedding=self.head(self.layers(tokens).flatten(1)))


class TransformerDecoder(BaseDecoder):
    """The layers of the encoder in reverse order."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.stem = nn.Linear(latent_dim, TOKENS * WIDTH)
        self.positions = nn.Parameter(0.02 * torch.randn(TOKENS, WIDTH))
        self.layers = transformer_layers()
        self.pixels = nn.ConvTranspose2d(WIDTH, 1, 4, 4)

    def forward(self, z: Tensor) -> ModelOutput:
        tokens = self.stem(z).view(-1, TOKENS, WIDTH) + self.positions
        places = self.layers(tokens).transpose(1, 2).unflatten(2, (7, 7))
        return ModelOutput(reconstruction=self.pixels(places))


def transformer_layers() -> nn.Sequential:
    """Builds two layers without dropout that normalise first."""
    options = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
    return nn.Sequential(
        *(nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, **options) for _ in range(2))
    )


OWN_NETWORKS: dict[str, Callable[[int], tuple[BaseEncoder, BaseDecoder]]] = {
    "mlp-silu": lambda d: mlp(lambda n: [nn.SiLU()], d),
    "mlp-layernorm-gelu": lambda d: mlp(lambda n: [nn.LayerNorm(n), nn.GELU()], d),
    "convnet-groupnorm-silu": lambda d: convnet(lambda n: [nn.GroupNorm(8, n), nn.SiLU()], d),
    "convnet-prelu": lambda d: convnet(lambda n: [nn.PReLU(n)], d),
    "convnet-batchnorm-relu": lambda d: convnet(lambda n: [nn.BatchNorm2d(n), nn.ReLU()], d),
    "transformer": lambda d: (TransformerEncoder(d), TransformerDecoder(d)),
}
"""Name -> a function of the latent dimension that builds an encoder and a decoder."""
