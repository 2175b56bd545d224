"""`score`: scores a set of images, or samples of a saved model, with any extractor."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
from PIL import Image
from pydantic import Field
from pythae.models import BaseAE
from torch import Tensor

from pythae_fif.benchmark.config import AtLeastTen, ExtractorName, OwnScores, Seed
from pythae_fif.benchmark.trained import load_trained
from pythae_fif.cli.display import Terminal
from pythae_fif.cli.flags import Parser
from pythae_fif.data.images import decode_files, find_images, read_npz, to_uint8
from pythae_fif.device import default_device
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.evaluation import Features, load_extractor, score_samples
from pythae_fif.files import write_json
from pythae_fif.register import find_model
from pythae_fif.sampling.own_prior import describe_own_prior, draw_own_samples
from pythae_fif.validation import Flag, StrictModel


class ScoreFlags(StrictModel):
    """The arguments and flags of `score`."""

    samples: str
    reference: str
    extractor: Annotated[
        ExtractorName,
        Flag("extractor, see `pythae-fif list`, or module:function (default: inception)", "NAME"),
    ] = "inception"
    num_samples: Annotated[AtLeastTen, Flag("samples of a model (default: 10000)", "N")] = 10_000
    label: Annotated[str | None, Flag("class of a conditional model's samples", "NAME")] = None
    training: Annotated[str | None, Flag("training images, for memorisation scores", "PATH")] = None
    seed: Annotated[Seed, Flag("random seed of samples and subsets (default: 0)", "SEED")] = 0
    extractor_weights: Annotated[str | None, Flag("file of the extractor's weights", "FILE")] = None
    offline: Annotated[bool, Flag("never download anything")] = False
    trust: Annotated[bool, Flag("open the pickles of a model, which can run any code")] = False
    scores: OwnScores = Field(default_factory=list)
    to_json: Annotated[str | None, Flag("also write the scores to this file", "FILE")] = None


def score_command(words: list[str]) -> bool:
    """Prints the scores of samples against reference images.

    Returns:
        True.

    Raises:
        ConfigError: A flag is unknown, a value is not valid, or the model is not trusted.
        DataError: Images are missing, cannot be read, or have another shape.
    """
    flags = _read_flags(words)
    terminal = Terminal()
    device = default_device()
    folder = Path(flags.samples).expanduser()
    model = load_model(folder, flags.trust) if find_model(folder) else None
    model_shape = None if model is None else tuple(model.model_config.input_dim)
    reference = read_images(flags.reference, model_shape)
    shape = tuple(reference.shape[1:])
    training = None if flags.training is None else read_images(flags.training, shape, "train")
    if model is None:
        samples = read_images(flags.samples, shape)
    else:
        with terminal.stage("drawing samples") as progress:
            samples = draw_own_samples(
                model.to(device),
                flags.num_samples,
                seed=flags.seed,
                labels=read_label(model, flags.label),
                progress=progress,
            )

    extractor = load_extractor(
        flags.extractor,
        shape,
        device=device,
        weights=flags.extractor_weights,
        offline=flags.offline,
    )
    scores = score_samples(
        samples,
        extractor,
        training=None if training is None else Features.from_images(training, extractor),
        references={"reference": Features.from_images(reference, extractor)},
        seed=flags.seed,
        scores=flags.scores,
    )
    if model is not None:
        terminal.say(f"samples of the model, from {describe_own_prior(model)}")
    terminal.say(str(scores))
    if flags.to_json is not None:
        write_json(Path(flags.to_json).expanduser(), asdict(scores))
    return True


def _read_flags(words: list[str]) -> ScoreFlags:
    """Parses the words of `score`."""
    parser = Parser(
        "score",
        words,
        "Scores samples against reference images. Images are in a folder or an .npz file.",
        positionals="SAMPLES REFERENCE",
    )
    parser.add_argument(
        "samples", metavar="SAMPLES", help="images, or the folder of a model or run"
    )
    parser.add_argument("reference", metavar="REFERENCE", help="images to compare with")
    parser.add_flags(ScoreFlags)
    return parser.read(ScoreFlags)


def load_model(folder: Path, trust: bool) -> BaseAE:
    """Loads the model of a run, or a saved model, for a command with the flag `--trust`.

    Args:
        folder: The folder of the run or of the model.
        trust: Whether files in the folder may run code.

    Raises:
        ConfigError: A file would run code that is not trusted.
        DataError: A file is missing or damaged.
    """
    try:
        return load_trained(folder, trust)
    except ConfigError as error:  # its message may name an argument of a function
        hint = "; in this command: --trust" if "trust=True" in str(error) else ""
        raise ConfigError(f"{error}{hint}") from error


def read_label(model: BaseAE, word: str | None) -> int | str | None:
    """Returns the class that a flag names.

    Args:
        model: The model, which may know the names of its classes.
        word: The name of a class, or its index; None for no class.
    """
    is_name = word in (getattr(model, "class_names", None) or ())
    return int(word) if word is not None and word.isdecimal() and not is_name else word


def read_images(word: str, shape: tuple[int, ...] | None, split: str = "test") -> Tensor:
    """Reads images, resized if they are in a folder.

    Args:
        word: A folder of images or an .npz file, which has them by the key `data` or by the split.
        shape: The shape (C, H, W) that the images must have; None for the first image's shape. Grey
            images are converted to C channels.
        split: The key of an .npz file that is used if it has no key `data`.

    Returns:
        uint8 images (N, C, H, W).

    Raises:
        DataError: There are no images, or they have another shape.
    """
    path = Path(word).expanduser()
    images = _read_npz(path, split) if path.is_file() else _read_folder(path, shape)
    if shape is None:
        return images

    if images.shape[1] != shape[0] and bool((images == images[:, :1]).all()):
        images = images[:, :1].expand(-1, shape[0], -1, -1)
    if images.shape[1:] != shape:
        raise DataError(f"{path} has images of shape {tuple(images.shape[1:])}, not {shape}")
    return images


def _read_npz(path: Path, split: str) -> Tensor:
    """Reads the images of an .npz file by the key `data`, the split, or the first key."""
    arrays = read_npz(path)
    key = next((key for key in ("data", split, *arrays) if key in arrays), "data")
    return torch.from_numpy(to_uint8(arrays[key], f"{path}, key {key!r}"))


def _read_folder(path: Path, shape: tuple[int, ...] | None) -> Tensor:
    """Reads the images of a folder, resized to squares of the shorter side."""
    names = find_images(path) if path.exists() else []
    if not names:
        raise DataError(f"{path}: neither a folder of images, nor an .npz file, nor a saved model")
    if shape is None:
        with Image.open(path / names[0]) as image:
            side = min(image.size)
    else:
        side = min(shape[-2:])
    return torch.from_numpy(decode_files(path, names, side).images)
