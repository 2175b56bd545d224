"""Pythae's forms of encoder and decoder, conditions beside their inputs, and the residual block."""

import torch
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn


class HeadedEncoder(BaseEncoder):
    """An encoder of features with a head for codes and, if variational, one for variances.

    Args:
        features: From data (B, ...) to (B, F).
        embedding: From features to (B, d).
        log_covariance: From features to (B, d), if any.
    """

    def __init__(
        self, features: nn.Module, embedding: nn.Module, log_covariance: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.features = features
        self.embedding = embedding
        self.log_covariance = log_covariance

    def forward(self, x: Tensor) -> ModelOutput:
        """`embedding` and, if variational, `log_covariance`, both (B, d), of data (B, ...)."""
        features = self.features(x)
        output = ModelOutput(embedding=self.embedding(features))
        if self.log_covariance is not None:
            output["log_covariance"] = self.log_covariance(features)
        return output


class LayeredDecoder(BaseDecoder):
    """A decoder that is one layer after another.

    Args:
        *layers: Together from codes (B, d) to data (B, ...).
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> ModelOutput:
        """`reconstruction` (B, ...) of codes (B, d)."""
        return ModelOutput(reconstruction=self.layers(z))


def join(x: Tensor, condition: Tensor) -> Tensor:
    """x, (B, D) or (B, C, ...), and behind its columns or channels the condition (B, c)."""
    condition = condition.to(x.dtype)[(..., *[None] * (x.dim() - 2))]
    return torch.cat([x, condition.expand(-1, -1, *x.shape[2:])], 1)


class AtCondition(BaseEncoder, BaseDecoder):
    """An encoder or decoder at one condition (c,), which is joined to whatever it is given."""

    condition: Tensor

    def __init__(self, network: nn.Module, condition: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("condition", condition)

    def forward(self, x: Tensor) -> ModelOutput:
        """The network's output of x (B, ...) and the condition."""
        return self.network(join(x, self.condition.expand(len(x), -1)))


def feed_forward(
    before: int, after: int, width: int, hidden: int, activation: type[nn.Module] = nn.SiLU
) -> nn.Sequential:
    """Linear layers with hidden ones of a width between them, without normalisation."""
    layers: list[nn.Module] = [nn.Linear(before, width), activation()]
    for _ in range(hidden - 1):
        layers += [nn.Linear(width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, after))


class ResidualBlock(nn.Module):
    """x + layers(x)."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def residual_blocks(
    count: int, dim: int, width: int, hidden: int, activation: type[nn.Module] = nn.SiLU
) -> list[ResidualBlock]:
    """Residual blocks of :func:`feed_forward` networks, as many as are counted."""
    layers = (feed_forward(dim, dim, width, hidden, activation) for _ in range(count))
    return [ResidualBlock(of) for of in layers]
