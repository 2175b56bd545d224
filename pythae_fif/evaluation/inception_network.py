"""The Inception network of 2015 as pytorch-fid defines it, folded for speed."""

__all__ = ["inception_network", "resize_like_tf1"]

from collections.abc import Mapping

import torch
import torchvision
from pytorch_fid.inception import FIDInceptionA, FIDInceptionC, FIDInceptionE_1, FIDInceptionE_2
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


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


def inception_network(state: Mapping[str, Tensor]) -> nn.Module:
    """pytorch-fid's network, with its batch normalisations folded into the convolutions.

    Args:
        state: Weights under the names of pytorch-fid's file.

    Returns:
        From images (B, 3, 299, 299) in [-1, 1] to features (B, 2048), in float32.

    Raises:
        KeyError: A weight is missing.
    """
    network: nn.Module = torchvision.models.inception_v3(
        weights=None, num_classes=1008, aux_logits=False, init_weights=False
    )
    for name, pool_features, width in (("b", 32, 192), ("c", 64, 256), ("d", 64, 288)):
        setattr(network, f"Mixed_5{name}", FIDInceptionA(width, pool_features=pool_features))
    for name, width in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
        setattr(network, f"Mixed_6{name}", FIDInceptionC(768, channels_7x7=width))
    network.Mixed_7b, network.Mixed_7c = FIDInceptionE_1(1280), FIDInceptionE_2(2048)
    for name in network.state_dict():
        if name not in state and not name.endswith("num_batches_tracked"):
            raise KeyError(name)
    network.load_state_dict(state, strict=False)
    network.fc, network.avgpool = nn.Identity(), _Mean()
    network.double().eval()
    for module in network.modules():
        if isinstance(module, torchvision.models.inception.BasicConv2d):
            module.conv = fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity()
    return network.float().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return] # torch forgot this one


class _Mean(nn.Module):
    """The mean over all places, in float32: bfloat16 would round the sums."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float().mean(dim=(2, 3))
