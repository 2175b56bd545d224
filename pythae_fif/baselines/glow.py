"""Invertible and injective layers for images, with exact log-determinants.

zuko has none; FrEIA and normflows, no longer kept up, have no injective ones. Layers map data to
latents, `forward(x) -> (z, log_det)`, and back, `inverse(z) -> x`; codes are images of one pixel.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALE_BOUND = 4.0  # of h in a coupling's scale, sigmoid(h + 2), which is then at least 0.12
MAX_INIT_INPUTS = 3 * 3 * 128  # of the last layer of a coupling's net, whose output is not divided
MIN_STD = 1e-2  # a channel of a smaller standard deviation is scaled as if it had this one


class ActNorm(nn.Module):
    r"""A scale and a shift by channel (Kingma & Dhariwal 2018, section 3.1).

    The first batch in training mode sets them so that it leaves with zero mean and unit variance.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(channels, 1, 1))
        self.initialized = False  # on the host: every pass would wait for a flag on the device

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) to its normalised form and the log-determinant, a scalar."""
        if self.training and not self.initialized:
            with torch.no_grad():
                std, mean = torch.std_mean(x, dim=(0, 2, 3), correction=0, keepdim=True)
                self.shift.copy_(mean[0])
                self.log_scale.copy_(-std[0].clamp_min(MIN_STD).log())
            self.initialized = True
        log_det = self.log_scale.sum() * math.prod(x.shape[2:])
        return (x - self.shift) * self.log_scale.exp(), log_det

    def inverse(self, z: Tensor) -> Tensor:
        return z * (-self.log_scale).exp() + self.shift

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.initialized)

    def set_extra_state(self, state: Tensor) -> None:
        self.initialized = bool(state)


class _ChannelMixing(nn.Module):
    """A 1 x 1 convolution of orthogonal weights at first."""

    def __init__(self, *channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        nn.init.orthogonal_(self.weight)


def _mix(weight: Tensor, x: Tensor) -> Tensor:
    return F.conv2d(x, weight[:, :, None, None])


class InvertibleConv(_ChannelMixing):
    """An invertible 1 x 1 convolution (Kingma & Dhariwal 2018, 3.2) of C channels, (C, C)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) to the same shape and the log-determinant, a scalar."""
        log_det = torch.linalg.slogdet(self.weight).logabsdet * math.prod(x.shape[2:])
        return _mix(self.weight, x), log_det

    def inverse(self, z: Tensor) -> Tensor:
        return _mix(torch.linalg.inv_ex(self.weight).inverse, z)  # `inv` waits for the device


class InjectiveConv(_ChannelMixing):
    r"""An injective 1 x 1 convolution (Kothari et al. 2021): C >= c channels from c, (C, c).

    Back, from the C channels of the data to c, goes the pseudo-inverse
    :math:`(W^\top W)^{-1} W^\top`, a left inverse. W has orthonormal columns at first.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) to (B, c, H, W), and 0: a chain of such has no sum of log-determinants."""
        # By QR: the Gram matrix would square the condition number.
        q, r = torch.linalg.qr(self.weight)
        return _mix(torch.linalg.solve_triangular(r, q.mT, upper=True), x), x.new_zeros(())

    def inverse(self, z: Tensor) -> Tensor:
        return _mix(self.weight, z)


class ConvCoupling(nn.Module):
    """An affine coupling (Dinh et al. 2017): half of the channels scale and shift the others.

    The scale is the sigmoid of h + 2, as in Glow's released code, with a bound on h: without it
    some samples overflow. A step of Adam moves the net's output by about the learning rate times
    the inputs of its last layer, so the output of wide nets is divided.

    Args:
        channels: C, at least 2.
        hidden_channels: Of the two hidden layers of its net.
        kernel: 3, or 1 for images of one pixel.
    """

    def __init__(self, channels: int, hidden_channels: int, kernel: int) -> None:
        super().__init__()
        self.sizes = (channels - channels // 2, channels // 2)
        last = nn.Conv2d(hidden_channels, 2 * self.sizes[1], kernel, padding="same")
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.output_scale = min(1.0, MAX_INIT_INPUTS / last.weight[0].numel())
        self.net = nn.Sequential(
            nn.Conv2d(self.sizes[0], hidden_channels, kernel, padding="same"),
            nn.ReLU(),
            nn.Conv2d(hidden_channels, hidden_channels, 1),
            nn.ReLU(),
            last,
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) to the same shape and the log-determinant, (B,)."""
        kept, changed = x.split(self.sizes, 1)
        log_scale, shift = self._affine(kept)
        return torch.cat([kept, changed * log_scale.exp() + shift], 1), log_scale.flatten(1).sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        kept, changed = z.split(self.sizes, 1)
        log_scale, shift = self._affine(kept)
        return torch.cat([kept, (changed - shift) * (-log_scale).exp()], 1)

    def _affine(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        h, shift = (self.output_scale * self.net(kept)).split(self.sizes[1], 1)
        return F.logsigmoid(SCALE_BOUND * torch.tanh(h / SCALE_BOUND) + 2), shift


class Squeeze(nn.Module):
    """(B, C, H, W) to (B, 4 C, H / 2, W / 2): pixels to channels."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return F.pixel_unshuffle(x, 2), x.new_zeros(())

    def inverse(self, z: Tensor) -> Tensor:
        return F.pixel_shuffle(z, 2)


class Chain(nn.Module):
    """Layers one after the other, the first next to the data."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Data to latents, and the sum of the layers' log-determinants, (B,)."""
        total = x.new_zeros(len(x))
        for layer in self.layers:
            x, log_det = layer(x)
            total = total + log_det
        return x, total

    def inverse(self, z: Tensor) -> Tensor:
        layers: Any = reversed(self.layers)  # nn.Module has no `inverse`
        for layer in layers:
            z = layer.inverse(z)
        return z


def flow_steps(channels: int, steps: int, hidden_channels: int, kernel: int) -> list[nn.Module]:
    """Glow's step of flow, `steps` times: ActNorm, 1 x 1 convolution, coupling."""
    layers: list[nn.Module] = []
    for _ in range(steps):
        layers += [ActNorm(channels), InvertibleConv(channels, channels)]
        if channels > 1:  # one channel has no half that could move the other
            layers.append(ConvCoupling(channels, hidden_channels, kernel))
    return layers
