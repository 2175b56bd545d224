"""Networks for rows of numbers: the paper's for tables, and residual ones for a few dimensions."""

from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseEncoder
from torch import Tensor, nn

from pythae_fif.nn.base import HeadedEncoder, LayeredDecoder, feed_forward, residual_blocks


class TabularEncoder(BaseEncoder):
    """A feed-forward net to latent space, then two residual blocks there (appendix E.2).

    Args:
        input_dim: Shape (D,) of a row.
        latent_dim: Latent dimension d.
        hidden_dim: Width of every hidden layer.
        activation: Of every hidden layer: SiLU as in the authors' code, ReLU in the paper's text.
        variational: Whether it also gives the `log_covariance` that VAEs need.
    """

    def __init__(
        self,
        input_dim: tuple[int, ...],
        latent_dim: int,
        hidden_dim: int = 256,
        activation: type[nn.Module] = nn.SiLU,
        *,
        variational: bool = False,
    ) -> None:
        super().__init__()
        self.variational = variational
        dim = latent_dim * (1 + variational)
        self.layers = nn.Sequential(
            feed_forward(input_dim[0], dim, hidden_dim, 2, activation),
            *residual_blocks(2, dim, hidden_dim, 2, activation),
        )

    def forward(self, x: Tensor) -> ModelOutput:
        """Rows (..., D) to `embedding` (..., d) and, if variational, `log_covariance`."""
        codes = self.layers(x)
        if not self.variational:
            return ModelOutput(embedding=codes)
        mean, log_covariance = codes.chunk(2, dim=-1)
        return ModelOutput(embedding=mean, log_covariance=log_covariance)


class TabularDecoder(LayeredDecoder):
    """The mirror image of :class:`TabularEncoder`, with parameters of its own."""

    def __init__(
        self,
        input_dim: tuple[int, ...],
        latent_dim: int,
        hidden_dim: int = 256,
        activation: type[nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__(
            *residual_blocks(2, latent_dim, hidden_dim, 2, activation),
            feed_forward(latent_dim, input_dim[0], hidden_dim, 2, activation),
        )


class ResidualEncoder(HeadedEncoder):
    """Residual blocks in data space, then a linear layer to the latent space (appendix E.1.1).

    Args:
        dim: D, the dimension of the data.
        latent_dim: d.
        blocks: Number of residual blocks.
        width: Of their hidden layers.
    """

    def __init__(self, dim: int, latent_dim: int, blocks: int = 4, width: int = 256) -> None:
        features = nn.Sequential(*residual_blocks(blocks, dim, width, 1))
        super().__init__(features, nn.Linear(dim, latent_dim))


class ResidualDecoder(LayeredDecoder):
    """The mirror image of :class:`ResidualEncoder`."""

    def __init__(self, dim: int, latent_dim: int, blocks: int = 4, width: int = 256) -> None:
        unembedding = nn.Linear(latent_dim, dim)
        super().__init__(unembedding, *residual_blocks(blocks, dim, width, 1))


def wide_networks(
    dim: int, latent_dim: int, blocks: int, width: int
) -> tuple[HeadedEncoder, LayeredDecoder]:
    """Encoder and decoder of residual blocks of many dimensions, which can fold what the few of the
    data cannot; arguments as for :class:`ResidualEncoder`, but blocks are as wide, too."""

    def layers(before: int, after: int) -> list[nn.Module]:
        inside = [*residual_blocks(blocks, width, width, 1), nn.SiLU()]
        return [nn.Linear(before, width), nn.SiLU(), *inside, nn.Linear(width, after)]

    encoder = HeadedEncoder(nn.Sequential(*layers(dim, latent_dim)), nn.Identity())
    return encoder, LayeredDecoder(*layers(latent_dim, dim))
