"""Networks for rows of numbers: the paper's for tables, and residual ones for low dimensions."""

from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseEncoder
from torch import Tensor, nn

from pythae_fif.nn.base import HeadedEncoder, LayeredDecoder, feed_forward, residual_blocks


class TabularEncoder(BaseEncoder):
    """A feed-forward network to latent space, and two residual blocks there (appendix E.2).

    Args:
        input_dim: Shape (D,) of a row.
        latent_dim: Latent dimension d.
        hidden_dim: Width of every hidden layer.
        activation: Activation after every hidden layer: SiLU in the authors' code, ReLU in the
            paper's text.
        variational: Whether the encoder also gives the `log_covariance` that VAEs need.
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
        """Maps rows (..., D) to `embedding` (..., d) and, if variational, `log_covariance`."""
        codes = self.layers(x)
        if not self.variational:
            return ModelOutput(embedding=codes)
        mean, log_covariance = codes.chunk(2, dim=-1)
        return ModelOutput(embedding=mean, log_covariance=log_covariance)


class TabularDecoder(LayeredDecoder):
    """The mirror image of :class:`TabularEncoder`; the two do not share parameters.

    Args:
        input_dim: Shape (D,) of a row.
        latent_dim: Latent dimension d.
        hidden_dim: Width of every hidden layer.
        activation: Activation after every hidden layer.
    """

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
        latent_dim: Latent dimension d.
        blocks: Number of residual blocks.
        width: Width of their hidden layers.
    """

    def __init__(self, dim: int, latent_dim: int, blocks: int = 4, width: int = 256) -> None:
        super().__init__(
            nn.Sequential(*residual_blocks(blocks, dim, width, 1)), nn.Linear(dim, latent_dim)
        )


class ResidualDecoder(LayeredDecoder):
    """The mirror image of :class:`ResidualEncoder`, with the same arguments."""

    def __init__(self, dim: int, latent_dim: int, blocks: int = 4, width: int = 256) -> None:
        super().__init__(nn.Linear(latent_dim, dim), *residual_blocks(blocks, dim, width, 1))


def wide_networks(
    dim: int, latent_dim: int, blocks: int, width: int
) -> tuple[HeadedEncoder, LayeredDecoder]:
    """Builds an encoder and a decoder with residual blocks in many dimensions.

    Data are first mapped to these dimensions: the blocks can fold space there in ways that are
    impossible in the few dimensions of the data.

    Args:
        dim: D, the dimension of the data.
        latent_dim: Latent dimension d.
        blocks: Number of residual blocks.
        width: Dimension of the blocks, and width of their hidden layers.
    """

    def layers(in_features: int, out_features: int) -> list[nn.Module]:
        wide_layers = [*residual_blocks(blocks, width, width, 1), nn.SiLU()]
        return [
            nn.Linear(in_features, width),
            nn.SiLU(),
            *wide_layers,
            nn.Linear(width, out_features),
        ]

    return (
        HeadedEncoder(nn.Sequential(*layers(dim, latent_dim)), nn.Identity()),
        LayeredDecoder(*layers(latent_dim, dim)),
    )
