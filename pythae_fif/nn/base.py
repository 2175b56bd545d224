"""Encoders and decoders in Pythae's form, conditions joined to inputs, and residual blocks."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn


class HeadedEncoder(BaseEncoder):
    """An encoder with a head for codes and, if it is variational, one for variances.

    Args:
        features: Maps data (B, ...) to features (B, F).
        embedding: Maps features to codes (B, d).
        log_covariance: Maps features to log-variances (B, d). None if not variational.
    """

    def __init__(
        self, features: nn.Module, embedding: nn.Module, log_covariance: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.features = features
        self.embedding = embedding
        self.log_covariance = log_covariance

    def forward(self, x: Tensor) -> ModelOutput:
        """Maps data (B, ...) to `embedding` and, if variational, `log_covariance`, both (B, d)."""
        features = self.features(x)
        output = ModelOutput(embedding=self.embedding(features))
        if self.log_covariance is not None:
            output["log_covariance"] = self.log_covariance(features)
        return output


class LayeredDecoder(BaseDecoder):
    """A decoder that is a sequence of layers.

    Args:
        *layers: The layers, which together map codes (B, d) to data (B, ...).
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> ModelOutput:
        """Maps codes (B, d) to `reconstruction` (B, ...)."""
        return ModelOutput(reconstruction=self.layers(z))


def join(x: Tensor, condition: Tensor) -> Tensor:
    """Appends a condition to the columns or channels of x.

    Args:
        x: Rows (B, D) or maps (B, C, ...).
        condition: Condition vectors, (B, c).

    Returns:
        The joined tensor, (B, D + c) or (B, C + c, ...).
    """
    places = x.shape[2:]
    condition = condition.to(x.dtype)[(..., *[None] * len(places))]
    return torch.cat([x, condition.expand(-1, -1, *places)], 1)


@contextmanager
def evaluation_mode(module: nn.Module, gradient: bool = False) -> Iterator[None]:
    """Sets evaluation mode within the block.

    Args:
        module: The module.
        gradient: Whether gradients are enabled in the block.
    """
    in_training = [child for child in module.modules() if child.training]
    if in_training:
        module.eval()
    try:
        with torch.set_grad_enabled(gradient):
            yield
    finally:  # module by module: the user may have frozen some
        for child in in_training:
            child.training = True


class AtCondition(BaseEncoder, BaseDecoder):
    """An encoder or decoder at one fixed condition, which is joined to all its inputs.

    Args:
        network: A conditional encoder or decoder.
        condition: The condition, (c,).
    """

    condition: Tensor

    def __init__(self, network: nn.Module, condition: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("condition", condition)

    def forward(self, x: Tensor) -> ModelOutput:
        """Returns the network's output for x (B, ...) and the condition."""
        return self.network(join(x, self.condition.expand(len(x), -1)))


def feed_forward(
    in_features: int,
    out_features: int,
    width: int,
    hidden: int,
    activation: type[nn.Module] = nn.SiLU,
) -> nn.Sequential:
    """Builds a feed-forward network without normalisation.

    Args:
        in_features: Length of its inputs.
        out_features: Length of its outputs.
        width: Width of every hidden layer.
        hidden: Number of hidden layers, at least 1.
        activation: Activation after every hidden layer.
    """
    layers: list[nn.Module] = [nn.Linear(in_features, width), activation()]
    for _ in range(hidden - 1):
        layers += [nn.Linear(width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, out_features))


class ResidualBlock(nn.Module):
    """A block with a skip connection, x + layers(x)."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def residual_blocks(
    count: int, dim: int, width: int, hidden: int, activation: type[nn.Module] = nn.SiLU
) -> list[ResidualBlock]:
    """Builds residual blocks of :func:`feed_forward` networks.

    Args:
        count: Number of blocks.
        dim: Length of their inputs and outputs.
        width: Width of the hidden layers.
        hidden: Number of hidden layers in each block.
        activation: Activation after every hidden layer.
    """
    return [ResidualBlock(feed_forward(dim, dim, width, hidden, activation)) for _ in range(count)]
