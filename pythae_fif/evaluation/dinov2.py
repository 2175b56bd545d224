"""Features of DINOv2, which Stein et al. ask researchers to use in place of Inception's."""

__all__ = ["DINOv2Extractor"]

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import normalize

from pythae_fif.errors import ConfigError, one_line
from pythae_fif.evaluation.extractor import Extracted, Extractor
from pythae_fif.evaluation.names import importing_for
from pythae_fif.evaluation.weights import DINOV2, weights_digest
from pythae_fif.files import digest

PREPROCESSING = "dinov2/1: bicubic 224 of Pillow in 8 bits, ImageNet's mean and std"
SIDE, PATCH = 224, 14
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DINOv2Extractor(Extractor):
    """The class token of DINOv2 (Oquab et al. 2023), whose Frechet distance is FD-DINOv2.

    As Stein et al. 2023 compute it: images are resized to 224 x 224 as Pillow does, by a bicubic
    filter in 8 bits, and normalised with ImageNet's mean and standard deviation; the positions of
    37 x 37 patches are interpolated to 16 x 16 as DINOv2's own code does, with an offset of 0.1 and
    no antialiasing. timm builds the network, and interpolates positions in another way.

    Args:
        state: Weights as `DINOV2.load()` gives them; they tell width and depth.
        device: Where it runs.

    Attributes:
        hash: Identifies weights and preprocessing.

    Raises:
        ConfigError: timm is not installed, or these are other weights.
    """

    name = "dinov2"
    distance_name = "FD-DINOv2"
    score_name = None

    def __init__(self, state: Mapping[str, Tensor], *, device: str | torch.device = "cpu") -> None:
        with importing_for(self.name):
            from timm.models import create_model

        self.device = torch.device(device)
        self.hash = digest(PREPROCESSING, "float32", weights_digest(state))
        held = {key: value for key, value in state.items() if key != "mask_token"}
        try:
            self.feature_dim = held["cls_token"].shape[-1]
            held["pos_embed"] = _interpolated(held["pos_embed"], SIDE // PATCH)
            with torch.device("meta"):
                network = create_model(
                    "vit_large_patch14_dinov2",
                    img_size=SIDE,
                    embed_dim=self.feature_dim,
                    num_heads=self.feature_dim // 64,
                    depth=sum(key.endswith("norm1.weight") for key in held),
                )
            network.load_state_dict(held, assign=True)
        except (KeyError, RuntimeError) as error:
            raise ConfigError(
                f"these weights are not those of {DINOV2.file}: {one_line(error)}"
            ) from error
        network.eval().requires_grad_(False)
        self.network = network.to(device=self.device, dtype=torch.float32)

    def extract(self, images: Tensor) -> Extracted:
        """Features (B, 1024), and no logits."""
        return Extracted(torch.cat([self._features(part) for part in self.chunks(images)]), None)

    def _features(self, images: Tensor) -> Tensor:
        images = 255 * images
        for size in ((images.shape[2], SIDE), (SIDE, SIDE)):  # rows, then columns, each in 8 bits
            images = F.interpolate(images, size, mode="bicubic", antialias=True)
            images = images.round().clamp(0, 255)
        images = normalize(images.expand(-1, 3, -1, -1) / 255, MEAN, STD)
        features: Tensor = self.network(images)
        return features


def _interpolated(positions: Tensor, side: int) -> Tensor:
    """Positions (1, 1 + M^2, F) of M x M patches as those of side x side ones."""
    patches = positions[:, 1:].unflatten(1, (math.isqrt(positions.shape[1] - 1), -1))
    if patches.shape[1] != side:
        scale = (side + 0.1) / patches.shape[1]
        patches = F.interpolate(
            patches.permute(0, 3, 1, 2), scale_factor=(scale, scale), mode="bicubic"
        ).permute(0, 2, 3, 1)
    return torch.cat([positions[:, :1], patches.flatten(1, 2)], dim=1)
