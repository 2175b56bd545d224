"""The free-form nets of the paper's appendix E.2 for tables of numbers."""

__all__ = ["TabularDecoder", "TabularEncoder"]

from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseEncoder
from torch import Tensor, nn

from pythae_fif.nn.base import LayeredDecoder, ResidualBlock, feed_forward


class TabularEncoder(BaseEncoder):
    """A feed-forward net to latent space, then two residual blocks there.

    Args:
        input_dim: Shape (D,) of a row.
        latent_dim: Latent dimension d.
        hidden_dim: Width of every hidden layer.
        activation: Of every hidden layer: ReLU in the paper's text, SiLU in its authors' code.
        variational: Whether it also gives the `log_covariance` that VAEs need.

    Example:
        >>> import torch
        >>> TabularEncoder((43,), 21)(torch.randn(5, 43)).embedding.shape
        torch.Size([5, 21])
    """

    def __init__(
        self,
        input_dim: tuple[int, ...],
        latent_dim: int,
        hidden_dim: int = 256,
        activation: type[nn.Module] = nn.ReLU,
        *,
        variational: bool = False,
    ) -> None:
        super().__init__()
        self.variational = variational
        dim = latent_dim * (1 + variational)
        self.layers = nn.Sequential(
            feed_forward(input_dim[0], dim, hidden_dim, 2, activation),
            *(ResidualBlock(dim, hidden_dim, 2, activation) for _ in range(2)),
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
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__(
            *(ResidualBlock(latent_dim, hidden_dim, 2, activation) for _ in range(2)),
            feed_forward(latent_dim, input_dim[0], hidden_dim, 2, activation),
        )
