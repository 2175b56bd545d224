"""The free-form nets of the paper's appendix E.2 for tables of numbers."""

__all__ = ["TabularDecoder", "TabularEncoder"]

from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn

# Pythae pickles this module by value when it saves a model: keep its globals to functions,
# classes and imports.


def _feed_forward(
    before: int, after: int, hidden_dim: int, activation: type[nn.Module]
) -> nn.Sequential:
    """Two hidden layers, without normalisation."""
    return nn.Sequential(
        nn.Linear(before, hidden_dim),
        activation(),
        nn.Linear(hidden_dim, hidden_dim),
        activation(),
        nn.Linear(hidden_dim, after),
    )


class _ResBlock(nn.Module):
    """x plus a feed-forward net of it."""

    def __init__(self, dim: int, hidden_dim: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.layers = _feed_forward(dim, dim, hidden_dim, activation)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.layers(x)
        return y


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
        (columns,) = input_dim
        self.variational = variational
        dim = latent_dim * (1 + variational)
        self.layers = nn.Sequential(
            _feed_forward(columns, dim, hidden_dim, activation),
            _ResBlock(dim, hidden_dim, activation),
            _ResBlock(dim, hidden_dim, activation),
        )

    def forward(self, x: Tensor) -> ModelOutput:
        """Rows (..., D) to `embedding` (..., d)."""
        codes = self.layers(x)
        if not self.variational:
            return ModelOutput(embedding=codes)
        mean, log_covariance = codes.chunk(2, dim=-1)
        return ModelOutput(embedding=mean, log_covariance=log_covariance)


class TabularDecoder(BaseDecoder):
    """The mirror image of :class:`TabularEncoder`, with parameters of its own.

    Args: As of :class:`TabularEncoder`.
    """

    def __init__(
        self,
        input_dim: tuple[int, ...],
        latent_dim: int,
        hidden_dim: int = 256,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        (columns,) = input_dim
        self.layers = nn.Sequential(
            _ResBlock(latent_dim, hidden_dim, activation),
            _ResBlock(latent_dim, hidden_dim, activation),
            _feed_forward(latent_dim, columns, hidden_dim, activation),
        )

    def forward(self, z: Tensor) -> ModelOutput:
        """Codes (..., d) to `reconstruction` (..., D)."""
        return ModelOutput(reconstruction=self.layers(z))
