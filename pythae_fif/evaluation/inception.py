"""The Inception network of 2015 that defines the FID, from the weights that pytorch-fid loads."""

__all__ = ["InceptionExtractor", "find_inception_weights", "load_inception", "resize_like_tf1"]

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.evaluation.cache import digest
from pythae_fif.evaluation.images import PRECISIONS, grey_or_rgb_images

logger = logging.getLogger(__name__)

PREPROCESSING = "inception-2015/1: TF1 bilinear 299, (255 x - 128) / 128"
SIDE = 299
FEATURE_DIM = 2048
CPU_CHUNK = 8
BATCH_NORM_EPS = 1e-3

WEIGHTS_VARIABLE = "PYTHAE_FIF_INCEPTION"
WEIGHTS_FILE = "pt_inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = (
    f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{WEIGHTS_FILE}"
)
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SAME_FILE_OF_TORCH_FIDELITY = "weights-inception-2015-12-05-6726825d.pth"


def find_inception_weights(path: str | Path | None = None, *, download: bool = True) -> Path:
    """The file of the Inception weights, checked by its sha256.

    Looked for in this order: `path`; the file that the environment variable
    `PYTHAE_FIF_INCEPTION` names; where pytorch-fid and torch-fidelity keep their downloads
    (`checkpoints` of `torch.hub.get_dir()`); and then pytorch-fid's address, from which it is
    downloaded to where pytorch-fid would put it.

    Args:
        path: The file, such as the flag `--inception-weights` gives it.
        download: Whether the network may be asked.

    Raises:
        ConfigError: there is no such file and it cannot be downloaded, or its content is other.
    """
    named = path if path is not None else os.environ.get(WEIGHTS_VARIABLE)
    if named:
        origin = "--inception-weights" if path is not None else WEIGHTS_VARIABLE
        file = Path(named).expanduser()
        if not file.is_file():
            raise ConfigError(f"{origin}: no file {file}; it should be {WEIGHTS_FILE}, {_HELP}")
        return _checked(file, origin)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for file in (folder / WEIGHTS_FILE, folder / SAME_FILE_OF_TORCH_FIDELITY):
        if file.is_file():
            return _checked(file, "the cache of torch.hub")
    target = folder / WEIGHTS_FILE
    reason = "downloads are off"
    if download:
        logger.info("downloading %s to %s", WEIGHTS_URL, target)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # writes to a temporary file, checks the hash, then renames
            torch.hub.download_url_to_file(
                WEIGHTS_URL, str(target), hash_prefix=WEIGHTS_SHA256, progress=False
            )
            return target
        except (OSError, RuntimeError) as error:
            reason = f"the download failed: {str(error).partition(chr(10))[0]}"
    raise ConfigError(
        f"extractor 'inception' has no weights ({reason}): get {WEIGHTS_URL} on a machine with "
        f"network and put it at {target}, {_HELP}"
    )


_HELP = (
    f"or name it by --inception-weights or {WEIGHTS_VARIABLE}; without network, "
    "efficientnet-lite0 works offline (FD-EfficientNet, no FID)"
)


def _checked(file: Path, origin: str) -> Path:
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != WEIGHTS_SHA256:
        raise ConfigError(
            f"{origin}: {file} has sha256 {found[:16]}..., not {WEIGHTS_SHA256[:16]}... of "
            f"{WEIGHTS_FILE}: it is another or a damaged file; remove it, or get {WEIGHTS_URL}"
        )
    return file


class InceptionExtractor:
    """Pooled features of the Inception network of 2015, and its logits without bias.

    The network as pytorch-fid defines it (average pools that leave out the padding, a max pool in
    the last block, 1,008 outputs), fed as the original graph was: images of 0..255 resized to
    299 x 299 by TensorFlow 1's bilinear rule, then (x - 128) / 128; grey images are repeated to
    three channels. The Frechet distance of its features is the FID.

    For speed batch normalisations are folded into the convolutions, convolutions of 1 x 1 that
    read the same input become one, and an average pool changes places with the convolution of
    1 x 1 after it; all of it exact but for rounding.

    Args:
        state: Weights under the names of pytorch-fid's file, as `load_inception` reads them.
        device: Where it runs; features come back on the CPU.
        precision: `float32`, or `bfloat16` for speed where the processor has it: features then
            carry about three digits. The hash tells the two apart.

    Attributes:
        hash: Identifies weights, preprocessing and precision.
        logit_bias: The bias (1008) that the logits leave out.
    """

    name = "inception"
    distance_name = "FID"
    score_name = "IS"
    feature_dim = FEATURE_DIM

    def __init__(
        self,
        state: Mapping[str, Tensor],
        *,
        device: str | torch.device = "cpu",
        precision: str = "float32",
    ) -> None:
        if precision not in PRECISIONS:
            raise ConfigError(
                f"inception: unknown precision {precision!r}: {did_you_mean(precision, PRECISIONS)}"
            )
        self.device = torch.device(device)
        self.dtype = PRECISIONS[precision]
        try:
            network = _Inception(state)
            weight, bias = state["fc.weight"].float(), state["fc.bias"].float()
        except KeyError as error:
            raise ConfigError(
                f"Inception weights lack {error}: they should be those of {WEIGHTS_FILE}"
            ) from None
        network.eval().requires_grad_(False)
        self.network = network.to(device=self.device, dtype=self.dtype)
        self.class_weight = weight.to(self.device)
        self.logit_bias = bias.cpu()
        weights = (state[key].cpu().numpy().tobytes() for key in sorted(state))
        self.hash = digest(PREPROCESSING, precision, *weights)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, 2048) and logits without bias (B, 1008), float32, of images (B, 1|3, H, W).

        Raises:
            DataError: images of another shape, or outside [0, 1].
            NonFiniteError: NaN or infinite pixels.
        """
        images = grey_or_rgb_images(images, "Inception")
        # on the CPU small chunks stay in the cache of the processor
        chunk = CPU_CHUNK if self.device.type == "cpu" else len(images)
        parts = [self._features(part) for part in images.to(self.device).split(chunk)]
        features = torch.cat(parts)
        return features.cpu(), (features @ self.class_weight.T).cpu()

    def _features(self, images: Tensor) -> Tensor:
        images = resize_like_tf1(255 * images, SIDE)
        images = ((images - 128) / 128).expand(-1, 3, -1, -1)
        images = images.to(dtype=self.dtype, memory_format=torch.channels_last)
        return self.network(images).float()


def load_inception(
    path: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    precision: str = "float32",
    download: bool = True,
) -> InceptionExtractor:
    """The extractor with its published weights; see `find_inception_weights` for where they are.

    Raises:
        ConfigError: no weights, or other ones.
    """
    file = find_inception_weights(path, download=download)
    state = torch.load(file, map_location="cpu", weights_only=True)
    return InceptionExtractor(state, device=device, precision=precision)


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


class _Inception(nn.Sequential):
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
