"""`score`: scores of two sets of images, or of a saved model's samples, by any extractor."""

__all__ = ["score_command"]

from pathlib import Path
from typing import Annotated

import torch
from PIL import Image
from pythae.models import AutoModel, BaseAE
from pythae.samplers import NormalSampler
from torch import Tensor

from pythae_fif.benchmark.config import ExtractorName, Seed
from pythae_fif.benchmark.settings import AtLeastTen
from pythae_fif.cli.parsing import Parser, add_flags
from pythae_fif.cli.terminal import Terminal
from pythae_fif.data.images import decode_files, find_images, read_npz, to_uint8
from pythae_fif.data.splits import by_sides
from pythae_fif.device import default_device
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.evaluation import Features, load_extractor, score_samples
from pythae_fif.files import write_json
from pythae_fif.models.saved import loading
from pythae_fif.runs.folder import STATUS
from pythae_fif.sampling.samplers import draw
from pythae_fif.validation import AtLeastOne, Checked, Flag, read_checked

REFERENCE = "reference"
MODEL = "model_config.json"
"""The file by which the folder of a saved model is known."""


class ScoreFlags(Checked):
    """The flags of `score`."""

    extractor: Annotated[ExtractorName, Flag("of `list`, or your own (inception)")] = "inception"
    image_size: Annotated[AtLeastOne | None, Flag("of folders (the model's)", "PIXELS")] = None
    num_samples: Annotated[AtLeastTen, Flag("of a model (10000)", "N")] = 10_000
    training: Annotated[str | None, Flag("images trained on, for memorisation", "PATH")] = None
    seed: Annotated[Seed, Flag("of samples and subsets", "SEED")] = 0
    extractor_weights: Annotated[str | None, Flag("if they are elsewhere", "FILE")] = None
    offline: Annotated[bool, Flag("never download")] = False
    to_json: Annotated[str | None, Flag("write the scores there", "FILE")] = None


def score_command(words: list[str]) -> int:
    """Prints the scores of samples against a reference; 0.

    Raises:
        ConfigError: An unknown flag or value, or weights or packages that are missing.
        DataError: What is not there, or no images.
    """
    parser = Parser("score", "Scores samples against a reference, each a folder of images or .npz.")
    parser.add_argument("samples", metavar="SAMPLES", help="images, or folder of a run or model")
    parser.add_argument(REFERENCE, metavar="REFERENCE", help="images")
    add_flags(parser, ScoreFlags)
    given = parser.given(words)
    samples, reference = (Path(given.pop(name)).expanduser() for name in ("samples", REFERENCE))
    flags = read_checked(ScoreFlags, given, "score", flags=given)
    if (samples / "model" / MODEL).is_file():  # a run's folder
        samples /= "model"
    is_model = (samples / MODEL).is_file()
    known = None if flags.training is None else Path(flags.training).expanduser()
    paths = [reference, *([] if is_model else [samples]), *([known] if known else [])]
    if absent := [path for path in (samples, *paths) if not path.exists()]:
        raise DataError(f"{absent[0]}: no such file or folder")
    if "num_samples" in given and not is_model:
        raise ConfigError(f"--num-samples: is for a saved model, and {samples} is none")
    if flags.image_size is not None and all(path.is_file() for path in paths):
        raise ConfigError("--image-size: is for folders of images; those of a file keep their size")
    model: BaseAE | None = None
    shape: tuple[int, ...] = ()
    if is_model:
        with loading(samples):
            model = AutoModel.load_from_folder(str(samples))
        shape = tuple(model.model_config.input_dim or ())
    size = flags.image_size or (shape[-1] if len(shape) == 3 else None)
    held = _images(reference, size)
    held = _with_channels(held, 1) if shape[:1] == (1,) else held
    extractor = load_extractor(
        flags.extractor,
        tuple(held.shape[1:]),
        device=default_device(),
        weights=flags.extractor_weights,
        offline=flags.offline,
    )
    size, channels = size or held.shape[-1], held.shape[1]
    trained = None if known is None else _with_channels(_images(known, size, "train"), channels)
    if model is not None:
        torch.manual_seed(flags.seed)
        sampler = NormalSampler(model.to(default_device()).eval())
        drawn = torch.cat([part.cpu() for part in draw(sampler, flags.num_samples)])
    else:
        drawn = _with_channels(_images(samples, size), channels)
    for path, images in ((samples, drawn), (known, trained)):
        if images is not None and extractor.image_shape not in (None, tuple(images.shape[1:])):
            sides = by_sides(images.shape[1:]), by_sides(held.shape[1:])
            raise DataError(f"{path} has images of {sides[0]}, {reference} of {sides[1]}")
    references = {REFERENCE: Features.of(held, extractor)}
    training = None if trained is None else Features.of(trained, extractor)
    scores = score_samples(drawn, extractor, references, seed=flags.seed, training=training)
    shown = f"{scores}\n{'references':20}{len(held):>20,}"
    Terminal(highlight=False).print(shown, markup=False)
    if flags.to_json is not None:
        write_json(Path(flags.to_json).expanduser(), scores.to_dict())
    return 0


def _with_channels(images: Tensor, channels: int) -> Tensor:
    """Grey images with so many channels; those of a grey file in a folder are read as RGB."""
    if images.shape[1] == channels:
        return images
    grey = all(bool((part == part[:, :1]).all()) for part in images.split(1024))
    return images[:, :1].expand(-1, channels, -1, -1) if grey else images


def _images(path: Path, size: int | None, split: str = "test") -> Tensor:
    """The images of a folder, RGB and resized, or of an .npz file, as uint8 (N, C, H, W)."""
    if path.is_file():
        arrays = {key: array for key, array in read_npz(path).items() if array.ndim in (3, 4)}
        key = next((k for k in ("data", split, *arrays) if k in arrays), None)
        if key is None:
            raise DataError(f"{path}: has no images")
        return torch.from_numpy(to_uint8(arrays[key], f"{path}, key {key!r}"))
    if (path / "config.yaml").is_file() and (path / STATUS).is_file():
        raise DataError(f"{path}: the run has no model to score")
    if not (names := find_images(path)):
        raise DataError(f"{path}: neither a folder of images, an .npz file nor a saved model")
    if size is None:
        try:
            with Image.open(path / names[0]) as first:
                size = min(first.size)
        except (OSError, Image.DecompressionBombError) as error:
            raise DataError(f"{path / names[0]}: cannot be decoded") from error
    return torch.from_numpy(decode_files(path, names, image_size=size).images)
