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


class _TabularNet(nn.Module):
    """A feed-forward net between rows and codes, and two residual blocks on the side of the codes.

    The arguments are those of :class:`TabularEncoder`.
    """

    encodes: bool

    def __init__(
        self,
        input_dim: tuple[int, ...],
        latent_dim: int,
        hidden_dim: int = 256,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        (columns,) = input_dim
        self.latent_dim = latent_dim
        ends = (columns, latent_dim) if self.encodes else (latent_dim, columns)

        def feed_forward() -> nn.Module:
            return _feed_forward(*ends, hidden_dim, activation)

        def block() -> nn.Module:
            return _ResBlock(latent_dim, hidden_dim, activation)

        order = [feed_forward, block, block] if self.encodes else [block, block, feed_forward]
        self.layers = nn.Sequential(*(make() for make in order))


class TabularEncoder(_TabularNet, BaseEncoder):
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

    encodes = True

    def __init__(
        self,
        input_dim: tuple[int, ...],
        latent_dim: int,
        hidden_dim: int = 256,
        activation: type[nn.Module] = nn.ReLU,
        *,
        variational: bool = False,
    ) -> None:
        super().__init__(input_dim, latent_dim * (1 + variational), hidden_dim, activation)
        self.latent_dim, self.variational = latent_dim, variational

    def forward(self, x: Tensor) -> ModelOutput:
        """Rows (..., D) to `embedding` (..., d)."""
        codes = self.layers(x)
        if not self.variational:
            return ModelOutput(embedding=codes)
        mean, log_covariance = codes.chunk(2, dim=-1)
        return ModelOutput(embedding=mean, log_covariance=log_covariance)


class TabularDecoder(_TabularNet, BaseDecoder):
    """The mirror image of :class:`TabularEncoder`, with parameters of its own.

    Args: As of :class:`TabularEncoder`.
    """

    encodes = False

    def forward(self, z: Tensor) -> ModelOutput:
        """Codes (..., d) to `reconstruction` (..., D)."""
        return ModelOutput(reconstruction=self.layers(z))
