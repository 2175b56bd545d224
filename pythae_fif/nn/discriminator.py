"""A network that tells images from reconstructions, for VAEGAN."""

__all__ = ["ConvDiscriminator"]

from itertools import pairwise

from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDiscriminator
from torch import Tensor, nn

from pythae_fif.nn.small import downsampling, map_sizes


class ConvDiscriminator(BaseDiscriminator):
    """Stride-2 convolutions and one linear layer to a probability.

    Args:
        input_dim: Shape (C, H, W) of an image.
    """

    def __init__(self, input_dim: tuple[int, ...]) -> None:
        super().__init__()
        *_, (height, width) = sizes = map_sizes(input_dim)
        channels = [input_dim[0], 32, 64, 128][: len(sizes)]
        size = channels[-1] * height * width
        head = nn.Sequential(nn.Flatten(), nn.Linear(size, 1), nn.Sigmoid())
        convolutions = [downsampling(list(pair)) for pair in pairwise(channels)]
        self.layers = nn.ModuleList([*convolutions, head])
        self.depth = len(self.layers)

    def forward(self, x: Tensor, output_layer_levels: list[int] | None = None) -> ModelOutput:
        """Scores images.

        Args:
            x: Images (B, C, H, W).
            output_layer_levels: Layers, counted from 1, whose outputs are wanted too.

        Returns:
            `embedding` (B, 1), the probability that an image is real, and `embedding_layer_i` of
            each wanted layer.
        """
        output = ModelOutput()
        for level, layer in enumerate(self.layers, start=1):
            x = layer(x)
            if level in (output_layer_levels or ()):
                output[f"embedding_layer_{level}"] = x
        output["embedding"] = x
        return output
