"""Invertible and injective layers for images, with exact log-determinants.

zuko has no such layers. FrEIA and normflows, which are no longer maintained, have no injective
ones. Layers map data to latents, `forward(x) -> (z, log_det)`, and back, `inverse(z) -> x`. Codes
are images of one pixel.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALE_BOUND = 4.0  # bound of |h| in a coupling's scale sigmoid(h + 2): it is at least 0.12
MAX_UNSCALED_INPUTS = 3 * 3 * 128  # more inputs of its last layer divide a coupling's output
MIN_STD = 1e-2  # a channel with a smaller standard deviation is scaled as if it had this one


class ActNorm(nn.Module):
    r"""A scale and a shift of each channel (Kingma & Dhariwal 2018, section 3.1).

    The first batch in training mode sets them so that its output has zero mean and unit variance.

    Args:
        channels: Number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(channels, 1, 1))
        self.initialized = False  # on the host: every pass would wait for a flag on the device

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the normalised maps, (B, C, H, W), and the log-determinant, a scalar."""
        if self.training and not self.initialized:
            with torch.no_grad():
                std, mean = torch.std_mean(x, dim=(0, 2, 3), correction=0, keepdim=True)
                self.shift.copy_(mean[0])
                self.log_scale.copy_(-std[0].clamp_min(MIN_STD).log())
            self.initialized = True

        log_det = self.log_scale.sum() * math.prod(x.shape[2:])
        return (x - self.shift) * self.log_scale.exp(), log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Undoes the scale and the shift."""
        return z * (-self.log_scale).exp() + self.shift

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.initialized)

    def set_extra_state(self, state: Tensor) -> None:
        self.initialized = bool(state)


class _ChannelMixing(nn.Module):
    """A 1 x 1 convolution with orthogonal initial weights.

    Args:
        *channels: Shape of the weight matrix.
    """

    def __init__(self, *channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        nn.init.orthogonal_(self.weight)


def _mix(weight: Tensor, x: Tensor) -> Tensor:
    return F.conv2d(x, weight[:, :, None, None])


class InvertibleConv(_ChannelMixing):
    """An invertible 1 x 1 convolution with weights (C, C) (Kingma & Dhariwal 2018, 3.2)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the mixed channels, (B, C, H, W), and the log-determinant, a scalar."""
        log_det = torch.linalg.slogdet(self.weight).logabsdet * math.prod(x.shape[2:])
        return _mix(self.weight, x), log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Undoes the mixing of channels."""
        return _mix(torch.linalg.inv_ex(self.weight).inverse, z)  # `inv` waits for the device


class InjectiveConv(_ChannelMixing):
    r"""An injective 1 x 1 convolution from c to C >= c channels (Kothari et al. 2021).

    The C channels of the data are mapped to c by the pseudo-inverse
    :math:`(W^\top W)^{-1} W^\top`, a left inverse of W, (C, c). The initial columns of W are
    orthonormal.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (B, C, H, W) to (B, c, H, W), and 0: log-determinants do not add up here."""
        # By QR: the Gram matrix would square the condition number.
        q, r = torch.linalg.qr(self.weight)
        return _mix(torch.linalg.solve_triangular(r, q.mT, upper=True), x), x.new_zeros(())

    def inverse(self, z: Tensor) -> Tensor:
        """Maps (B, c, H, W) to (B, C, H, W)."""
        return _mix(self.weight, z)


class ConvCoupling(nn.Module):
    """An affine coupling (Dinh et al. 2017): half of the channels scale and shift the others.

    The scale is the sigmoid of h + 2, as in Glow's released code, with a bound on h: without it
    some samples overflow. A step of Adam moves the network's output by about the learning rate
    times the number of inputs of its last layer, so the output of wide networks is divided.

    Args:
        channels: Number of channels C, at least 2.
        hidden_channels: Channels of the two hidden layers of its network.
        kernel: Side of the network's convolutions: 3, or 1 for images of one pixel.
    """

    def __init__(self, channels: int, hidden_channels: int, kernel: int) -> None:
        super().__init__()
        self.sizes = (channels - channels // 2, channels // 2)
        output_layer = nn.Conv2d(hidden_channels, 2 * self.sizes[1], kernel, padding="same")
        for parameter in output_layer.parameters():
            nn.init.zeros_(parameter)
        self.output_scale = min(1.0, MAX_UNSCALED_INPUTS / output_layer.weight[0].numel())
        self.net = nn.Sequential(
            nn.Conv2d(self.sizes[0], hidden_channels, kernel, padding="same"),
            nn.ReLU(),
            nn.Conv2d(hidden_channels, hidden_channels, 1),
            nn.ReLU(),
            output_layer,
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the changed maps, (B, C, H, W), and the log-determinant, (B,)."""
        condition, x_changed = x.split(self.sizes, 1)
        log_scale, shift = self._affine(condition)
        z = torch.cat([condition, x_changed * log_scale.exp() + shift], 1)
        return z, log_scale.flatten(1).sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        """Undoes the scale and the shift."""
        condition, z_changed = z.split(self.sizes, 1)
        log_scale, shift = self._affine(condition)
        return torch.cat([condition, (z_changed - shift) * (-log_scale).exp()], 1)

    def _affine(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithm of the scale, and the shift, computed from the unchanged channels."""
        h, shift = (self.output_scale * self.net(condition)).split(self.sizes[1], 1)
        return F.logsigmoid(SCALE_BOUND * torch.tanh(h / SCALE_BOUND) + 2), shift


class Squeeze(nn.Module):
    """Moves pixels to channels: (B, C, H, W) becomes (B, 4 C, H / 2, W / 2)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the squeezed maps and the log-determinant, 0."""
        return F.pixel_unshuffle(x, 2), x.new_zeros(())

    def inverse(self, z: Tensor) -> Tensor:
        """Moves channels back to pixels."""
        return F.pixel_shuffle(z, 2)


class Chain(nn.Module):
    """A sequence of layers.

    Args:
        layers: The layers, beginning at the data.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers: Any = nn.ModuleList(layers)  # nn.Module has no `inverse`

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps data to latents and the sum of the layers' log-determinants, (B,)."""
        total_log_det = x.new_zeros(len(x))
        for layer in self.layers:
            x, log_det = layer(x)
            total_log_det = total_log_det + log_det
        return x, total_log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Maps latents to data."""
        for layer in reversed(self.layers):
            z = layer.inverse(z)
        return z


def flow_steps(channels: int, steps: int, hidden_channels: int, kernel: int) -> list[nn.Module]:
    """Builds steps of Glow's flow: ActNorm, a 1 x 1 convolution and a coupling each.

    Args:
        channels: Number of channels.
        steps: Number of steps.
        hidden_channels: Channels of the hidden layers of each coupling's network.
        kernel: Side of the convolutions in each coupling's network.
    """
    layers: list[nn.Module] = []
    for _ in range(steps):
        layers += [ActNorm(channels), InvertibleConv(channels, channels)]
        if channels > 1:  # a coupling needs two halves
            layers.append(ConvCoupling(channels, hidden_channels, kernel))
    return layers
