"""The Inception network of 2015 that defines the FID, from the weights that pytorch-fid loads."""

__all__ = ["InceptionExtractor", "resize_like_tf1"]

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torchvision
from pytorch_fid.inception import FIDInceptionA, FIDInceptionC, FIDInceptionE_1, FIDInceptionE_2
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pythae_fif.errors import ConfigError
from pythae_fif.evaluation.extractor import Extracted, Extractor
from pythae_fif.evaluation.weights import INCEPTION
from pythae_fif.files import digest

SIDE = 299


class InceptionExtractor(Extractor):
    """Pooled features of the Inception network of 2015, and its logits without bias.

    The network as pytorch-fid defines it (average pools that leave out the padding, a max pool in
    the last block, 1,008 outputs), fed as the original graph was: images of 0..255 resized to
    299 x 299 by TensorFlow 1's bilinear rule, then (x - 128) / 128; grey images are repeated to
    three channels. The Frechet distance of its features is the FID. Packages that resize in
    another way have a `convention` each.

    For speed batch normalisations are folded into the convolutions, exactly but for rounding.

    Args:
        state: Weights under the names of pytorch-fid's file, as `INCEPTION.load` reads them.
        device: Where it runs; features stay there.
        convention: A key of `CONVENTIONS`; the extractor's name.

    Attributes:
        hash: Identifies weights and preprocessing.
        logit_bias: The bias (1008) that the logits leave out.
    """

    score_name = "IS"
    feature_dim = 2048

    def __init__(
        self,
        state: Mapping[str, Tensor],
        *,
        device: str | torch.device = "cpu",
        convention: str = "inception",
    ) -> None:
        self.name, chosen = convention, CONVENTIONS[convention]
        self.distance_name, self._prepare = chosen.distance_name, chosen.prepare
        self.device = torch.device(device)
        try:
            network = _network(state)
            weight, bias = state["fc.weight"].float(), state["fc.bias"].float()
        except KeyError as error:
            raise ConfigError(
                f"Inception weights lack {error}: they should be those of {INCEPTION.file}"
            ) from None
        network.eval().requires_grad_(False)
        self.network = network.to(self.device)
        self.class_weight = weight.to(self.device)
        self.logit_bias = bias.to(self.device)
        weights = (state[key].cpu().numpy().tobytes() for key in sorted(state))
        self.hash = digest(chosen.preprocessing, "float32", *weights)

    def extract(self, images: Tensor) -> Extracted:
        """Features (B, 2048) and logits without bias (B, 1008)."""
        features = torch.cat([self._features(chunk) for chunk in self.chunks(images)])
        return Extracted(features, features @ self.class_weight.T)

    def _features(self, images: Tensor) -> Tensor:
        images = self._prepare(images).expand(-1, 3, -1, -1)
        images = images.to(dtype=torch.float32, memory_format=torch.channels_last)
        features: Tensor = self.network(images)
        return features


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


def _like_tf1(images: Tensor) -> Tensor:
    return (resize_like_tf1(255 * images, SIDE) - 128) / 128


def _like_pytorch_fid(images: Tensor) -> Tensor:
    return 2 * F.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False) - 1


def _like_clean_fid(images: Tensor) -> Tensor:
    """Pillow's bicubic filter on floating-point channels, which is torch's with antialiasing."""
    images = F.interpolate(255 * images, (SIDE, SIDE), mode="bicubic", antialias=True)
    return (images.clamp(0, 255) - 128) / 128


class Convention(NamedTuple):
    """How images in [0, 1] become the network's input (B, C, 299, 299), and what the distance is
    called; `preprocessing` is a part of the extractor's hash."""

    distance_name: str
    preprocessing: str
    prepare: Callable[[Tensor], Tensor]


CONVENTIONS = {
    "inception": Convention(
        "FID", "inception-2015/1: TF1 bilinear 299, (255 x - 128) / 128", _like_tf1
    ),
    "inception-pytorch-fid": Convention(
        "FID (pytorch-fid)", "inception-2015/1: bilinear 299, 2 x - 1", _like_pytorch_fid
    ),
    "inception-clean-fid": Convention(
        "FID (clean-fid)", "inception-2015/1: bicubic 299, (255 x - 128) / 128", _like_clean_fid
    ),
}


def _network(state: Mapping[str, Tensor]) -> nn.Module:
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
    network.fc = nn.Identity()
    network.double().eval()
    for module in network.modules():
        if isinstance(module, torchvision.models.inception.BasicConv2d):
            module.conv = fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity()
    return network.float().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return, unused-ignore] # torch forgot it
