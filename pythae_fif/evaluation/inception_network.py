"""The layers of the Inception network of 2015 as pytorch-fid defines it, folded for speed."""

__all__ = ["InceptionNetwork", "resize_like_tf1"]

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BATCH_NORM_EPS = 1e-3


def resize_like_tf1(images: Tensor, side: int) -> Tensor:
    """Bilinear resize as TensorFlow 1 did by default: pixel i of the output reads i * in / out.

    Without the half-pixel offset of later libraries and without antialiasing; the arithmetic is
    in the order of TensorFlow's kernel (columns, then rows, in float32).

    Args:
        images: Images (B, C, H, W), floating point.
        side: Height and width to have.

    Returns:
        Images (B, C, side, side).

    Example:
        >>> resize_like_tf1(torch.tensor([[[[0.0, 2.0], [0.0, 2.0]]]]), 4)[0, 0, 0]
        tensor([0., 1., 2., 2.])
    """
    left, right, across = _taps(images.shape[3], side, images.device)
    top, bottom, down = _taps(images.shape[2], side, images.device)
    # columns first, on the original rows: each is interpolated once, not once for each new row
    rows = images[..., left]
    rows = rows + (images[..., right] - rows) * across
    upper = rows[..., top, :]
    return upper + (rows[..., bottom, :] - upper) * down[:, None]


def _taps(old: int, new: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    position = torch.arange(new, dtype=torch.float32, device=device) * torch.tensor(
        old / new, dtype=torch.float32, device=device
    )
    low = position.long()
    return low, (low + 1).clamp(max=old - 1), position - low


class _Conv(nn.Module):
    """Convolutions with their batch normalisations folded in, side by side, then ReLU.

    Several names give one convolution of 1 x 1 with the outputs of all.
    """

    def __init__(
        self,
        state: Mapping[str, Tensor],
        *names: str,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        folded = [_fold(state, name) for name in names]
        weight = torch.cat([weight for weight, _ in folded])
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.cat([bias for _, bias in folded]))
        self.widths = [len(bias) for _, bias in folded]
        self.stride, self.padding = stride, padding

    def linear(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).relu_()


def _fold(state: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    weight = state[f"{name}.conv.weight"].double()
    gain = state[f"{name}.bn.weight"].double() / torch.sqrt(
        state[f"{name}.bn.running_var"].double() + BATCH_NORM_EPS
    )
    bias = state[f"{name}.bn.bias"].double() - state[f"{name}.bn.running_mean"].double() * gain
    return (weight * gain[:, None, None, None]).float(), bias.float()


def _pool_last(split: tuple[Tensor, ...]) -> list[Tensor]:
    """ReLU on all parts but the last, which is averaged over 3 x 3 first."""
    *parts, pooled = split
    pooled = F.avg_pool2d(pooled, 3, stride=1, padding=1, count_include_pad=False)
    return [*(part.relu() for part in parts), pooled.relu_()]


class _BlockA(nn.Module):
    def __init__(self, state: Mapping[str, Tensor], name: str) -> None:
        super().__init__()
        self.first = _Conv(
            state,
            *(f"{name}.{part}" for part in ("branch1x1", "branch5x5_1", "branch3x3dbl_1")),
            f"{name}.branch_pool",
        )
        self.conv5 = _Conv(state, f"{name}.branch5x5_2", padding=2)
        self.conv3a = _Conv(state, f"{name}.branch3x3dbl_2", padding=1)
        self.conv3b = _Conv(state, f"{name}.branch3x3dbl_3", padding=1)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.first.linear(x).split(self.first.widths, dim=1)
        one, five, three, pool = _pool_last(parts)
        return torch.cat([one, self.conv5(five), self.conv3b(self.conv3a(three)), pool], dim=1)


class _BlockB(nn.Module):
    def __init__(self, state: Mapping[str, Tensor], name: str) -> None:
        super().__init__()
        self.conv3 = _Conv(state, f"{name}.branch3x3", stride=2)
        self.twice = nn.Sequential(
            _Conv(state, f"{name}.branch3x3dbl_1"),
            _Conv(state, f"{name}.branch3x3dbl_2", padding=1),
            _Conv(state, f"{name}.branch3x3dbl_3", stride=2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv3(x), self.twice(x), F.max_pool2d(x, 3, stride=2)], dim=1)


class _BlockC(nn.Module):
    def __init__(self, state: Mapping[str, Tensor], name: str) -> None:
        super().__init__()
        self.first = _Conv(
            state,
            *(f"{name}.{part}" for part in ("branch1x1", "branch7x7_1", "branch7x7dbl_1")),
            f"{name}.branch_pool",
        )
        wide, tall = (0, 3), (3, 0)
        self.once = nn.Sequential(
            _Conv(state, f"{name}.branch7x7_2", padding=wide),
            _Conv(state, f"{name}.branch7x7_3", padding=tall),
        )
        self.twice = nn.Sequential(
            _Conv(state, f"{name}.branch7x7dbl_2", padding=tall),
            _Conv(state, f"{name}.branch7x7dbl_3", padding=wide),
            _Conv(state, f"{name}.branch7x7dbl_4", padding=tall),
            _Conv(state, f"{name}.branch7x7dbl_5", padding=wide),
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = self.first.linear(x).split(self.first.widths, dim=1)
        one, seven, seven_double, pool = _pool_last(parts)
        return torch.cat([one, self.once(seven), self.twice(seven_double), pool], dim=1)


class _BlockD(nn.Module):
    def __init__(self, state: Mapping[str, Tensor], name: str) -> None:
        super().__init__()
        self.first = _Conv(state, f"{name}.branch3x3_1", f"{name}.branch7x7x3_1")
        self.conv3 = _Conv(state, f"{name}.branch3x3_2", stride=2)
        self.conv7 = nn.Sequential(
            _Conv(state, f"{name}.branch7x7x3_2", padding=(0, 3)),
            _Conv(state, f"{name}.branch7x7x3_3", padding=(3, 0)),
            _Conv(state, f"{name}.branch7x7x3_4", stride=2),
        )

    def forward(self, x: Tensor) -> Tensor:
        three, seven = self.first(x).split(self.first.widths, dim=1)
        return torch.cat(
            [self.conv3(three), self.conv7(seven), F.max_pool2d(x, 3, stride=2)], dim=1
        )


class _BlockE(nn.Module):
    """The last two blocks; the very last has a max pool where the others average."""

    def __init__(self, state: Mapping[str, Tensor], name: str, *, max_pool: bool) -> None:
        super().__init__()
        parts = ["branch1x1", "branch3x3_1", "branch3x3dbl_1"]
        self.max_pool = max_pool
        if max_pool:
            self.pooled = _Conv(state, f"{name}.branch_pool")
        else:
            parts.append("branch_pool")
        self.first = _Conv(state, *(f"{name}.{part}" for part in parts))
        self.wide = _Conv(state, f"{name}.branch3x3_2a", padding=(0, 1))
        self.tall = _Conv(state, f"{name}.branch3x3_2b", padding=(1, 0))
        self.conv3 = _Conv(state, f"{name}.branch3x3dbl_2", padding=1)
        self.wide_double = _Conv(state, f"{name}.branch3x3dbl_3a", padding=(0, 1))
        self.tall_double = _Conv(state, f"{name}.branch3x3dbl_3b", padding=(1, 0))

    def forward(self, x: Tensor) -> Tensor:
        if self.max_pool:
            one, three, double = self.first(x).split(self.first.widths, dim=1)
            pool = self.pooled(F.max_pool2d(x, 3, stride=1, padding=1))
        else:
            parts = self.first.linear(x).split(self.first.widths, dim=1)
            one, three, double, pool = _pool_last(parts)
        double = self.conv3(double)
        return torch.cat(
            [
                one,
                self.wide(three),
                self.tall(three),
                self.wide_double(double),
                self.tall_double(double),
                pool,
            ],
            dim=1,
        )


class InceptionNetwork(nn.Sequential):
    """Images (B, 3, 299, 299) in [-1, 1] to features (B, 2048)."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__(
            _Conv(state, "Conv2d_1a_3x3", stride=2),
            _Conv(state, "Conv2d_2a_3x3"),
            _Conv(state, "Conv2d_2b_3x3", padding=1),
            nn.MaxPool2d(3, stride=2),
            _Conv(state, "Conv2d_3b_1x1"),
            _Conv(state, "Conv2d_4a_3x3"),
            nn.MaxPool2d(3, stride=2),
            *(_BlockA(state, f"Mixed_5{letter}") for letter in "bcd"),
            _BlockB(state, "Mixed_6a"),
            *(_BlockC(state, f"Mixed_6{letter}") for letter in "bcde"),
            _BlockD(state, "Mixed_7a"),
            _BlockE(state, "Mixed_7b", max_pool=False),
            _BlockE(state, "Mixed_7c", max_pool=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        # the mean in float32: bfloat16 would round the sums
        return super().forward(x).float().mean(dim=(2, 3))
