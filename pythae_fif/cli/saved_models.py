"""Commands on saved models: `score`, `sample` and `likelihood`."""

import contextlib
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas
import torch
from PIL import Image
from pydantic import Field
from pythae.models import BaseAE
from torch import Tensor

from pythae_fif.benchmark.config import AtLeastTen, ExtractorName, OwnScores, Seed
from pythae_fif.benchmark.pictures import picture_sheet
from pythae_fif.benchmark.trained import load_trained
from pythae_fif.cli.display import Terminal
from pythae_fif.cli.flags import Parser
from pythae_fif.data import to_float
from pythae_fif.data.images import decode_files, find_images, read_npz, to_uint8
from pythae_fif.data.table_files import read_table_file
from pythae_fif.device import default_device
from pythae_fif.errors import ConfigError, DataError, pluralized
from pythae_fif.evaluation import Features, load_extractor, score_samples
from pythae_fif.files import check_regular_file, write_bytes, write_json
from pythae_fif.models import InjectiveFlow, as_density
from pythae_fif.models.saved import require_columns
from pythae_fif.names import SkipBroken
from pythae_fif.pictures import pixel_bytes
from pythae_fif.register import find_model
from pythae_fif.sampling.samplers import BATCH_SIZE, describe_own_prior, draw_own_samples
from pythae_fif.validation import AtLeastOne, Flag, StrictModel

logger = logging.getLogger(__name__)

MODEL_HELP = "the folder of a model or run"


class ModelFlags(StrictModel):
    """Flags of all commands on saved models."""

    label: Annotated[str | None, Flag("class of a conditional model", "NAME")] = None
    trust: Annotated[bool, Flag("open the pickles of a model, which can run any code")] = False


class ScoreFlags(ModelFlags):
    """The arguments and flags of `score`."""

    samples: str
    reference: str
    extractor: Annotated[
        ExtractorName,
        Flag("extractor, see `pythae-fif list`, or module:function (default: inception)", "NAME"),
    ] = "inception"
    num_samples: Annotated[AtLeastTen, Flag("samples of a model (default: 10000)", "N")] = 10_000
    training: Annotated[str | None, Flag("training images, for memorisation scores", "PATH")] = None
    seed: Annotated[Seed, Flag("random seed of samples and subsets (default: 0)", "SEED")] = 0
    extractor_weights: Annotated[str | None, Flag("file of the extractor's weights", "FILE")] = None
    offline: Annotated[bool, Flag("never download anything")] = False
    skip_broken: SkipBroken = False
    scores: OwnScores = Field(default_factory=list)
    to_json: Annotated[str | None, Flag("also write the scores to this file", "FILE")] = None


class SampleFlags(ModelFlags):
    """The argument and flags of `sample`."""

    model: str
    to: Annotated[
        str, Flag("new folder for PNG files, or a .csv file for a table (required)", "PATH")
    ]
    number: Annotated[AtLeastOne, Flag("number of samples (default: 1000)", "N")] = 1000
    seed: Annotated[Seed, Flag("random seed (default: 0)", "SEED")] = 0


class LikelihoodFlags(ModelFlags):
    """The arguments and flags of `likelihood`."""

    model: str
    data: str
    to: Annotated[str, Flag("CSV file to write (required)", "FILE")]
    skip_broken: SkipBroken = False
    original_units: Annotated[
        bool, Flag("densities in a table's original units, not in standardised ones")
    ] = False
    label: Annotated[
        str | None,
        Flag("for a conditional model: the class of all data, or a table's column", "NAME"),
    ] = None


def score_command(words: list[str]) -> None:
    """Prints the scores of samples against reference images.

    Raises:
        ConfigError: A flag is unknown, a value is not valid, or the model is not trusted.
        DataError: Images are missing, cannot be read, or have another shape.
    """
    parser = Parser(
        "score",
        words,
        "Scores samples against reference images. Images are in a folder or an .npz file.",
        positionals={
            "samples": "images, or the folder of a model or run",
            "reference": "images to compare with",
        },
    )
    parser.add_flags(ScoreFlags)
    flags = parser.read(ScoreFlags)
    model = None
    model_shape = None
    if find_model(Path(flags.samples).expanduser()):
        model = _load_model(flags.samples, flags.trust)
        model_shape = tuple(model.model_config.input_dim)
        if len(model_shape) != 3:
            raise ConfigError(f"{flags.samples}: a model of a table; score takes models of images")

    reference, _ = _read_images(flags.reference, model_shape, flags)
    shape = tuple(reference.shape[1:])
    training = None
    if flags.training is not None:
        training, _ = _read_images(flags.training, shape, flags, "train")
    terminal = Terminal()
    if model is None:
        samples, _ = _read_images(flags.samples, shape, flags)
    else:
        samples = _draw_samples(model, flags.num_samples, flags, terminal)

    extractor = load_extractor(
        flags.extractor,
        shape,
        device=default_device(),
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


def sample_command(words: list[str]) -> None:
    """Draws samples of a trained model, and writes PNG files or a CSV file.

    Raises:
        ConfigError: A flag is not valid, or does not fit the model.
        DataError: There is no model.
    """
    parser = Parser(
        "sample",
        words,
        "Writes samples of a trained model to files.",
        positionals={"model": MODEL_HELP},
    )
    parser.add_flags(SampleFlags)
    flags = parser.read(SampleFlags)
    model = _load_model(flags.model, flags.trust)
    path = Path(flags.to).expanduser()
    is_table = len(model.model_config.input_dim) == 1
    if is_table != (path.suffix.lower() == ".csv") or (path.is_dir() and any(path.iterdir())):
        target = "a file that ends in .csv" if is_table else "a new folder"
        raise ConfigError(f"--to {flags.to}: samples of this model need {target}")

    terminal = Terminal()
    samples = _draw_samples(model, flags.number, flags, terminal)
    with terminal.stage("writing") as progress:
        if is_table:
            frame = require_columns(model).to_frame(samples)
            write_bytes(path, frame.to_csv(index=False).encode())
        else:
            for number, image in enumerate(samples):
                content = pixel_bytes(picture_sheet(image[None], 1, 1))
                write_bytes(path / f"{number:05d}.png", content)
                progress(number + 1, len(samples))
    terminal.say(
        f"{pluralized(len(samples), 'sample')} from {describe_own_prior(model)} written to {path}"
    )


def likelihood_command(words: list[str]) -> None:
    """Computes the log-likelihood of each example of a data set, and writes a CSV file.

    Raises:
        ConfigError: A flag is not valid, or the model has no density.
        DataError: There is no model, or the data cannot be read or do not fit the model.
    """
    parser = Parser(
        "likelihood",
        words,
        "Writes the log-likelihood of each row or image, and its distance to its projection.",
        positionals={
            "model": MODEL_HELP,
            "data": "a table, a folder of images or an .npz file",
        },
    )
    parser.add_flags(LikelihoodFlags)
    flags = parser.read(LikelihoodFlags)
    device = default_device()
    model = as_density(_load_model(flags.model, flags.trust)).to(device)
    examples, names, labels = _read_examples(model, flags)
    complete = examples.flatten(1).isfinite().all(1).nonzero()[:, 0]

    batches = complete.split(BATCH_SIZE)
    values = torch.full((len(examples), 2), torch.nan, dtype=torch.float64)
    terminal = Terminal()
    with terminal.stage("computing likelihoods") as progress:
        for number, rows in enumerate(batches):
            x = to_float(examples[rows]).to(device)
            classes = None if labels is None else labels[rows.numpy()]
            log_probs = model.log_prob(x, classes, original_units=flags.original_units)
            distances = (model.reconstruct(x, classes) - x).flatten(1).norm(dim=1)
            values[rows] = torch.stack([log_probs, distances], dim=1).to(values)
            progress(min((number + 1) * BATCH_SIZE, len(complete)), len(complete))

    frame = pandas.DataFrame(values.numpy(), names, ["log_likelihood", "distance"])
    write_bytes(Path(flags.to).expanduser(), frame.to_csv().encode())

    units = "original" if flags.original_units else "standardised"
    unit_note = f", for rows in {units} units," if examples.ndim == 2 else ""
    missing = len(names) - len(complete)
    note = f"; {pluralized(missing, 'row')} with missing values" if missing else ""
    terminal.say(
        f"{pluralized(len(complete), 'log-likelihood')} in nats{unit_note} written to "
        f"{flags.to}{note}"
    )


def _load_model(folder: str, trust: bool) -> BaseAE:
    """Loads the model of a run, or a saved model; an error about trust names the flag `--trust`."""
    try:
        return load_trained(Path(folder).expanduser(), trust)
    except ConfigError as error:  # its message may name an argument of a function
        hint = "; in this command: --trust" if "trust=True" in str(error) else ""
        raise ConfigError(f"{error}{hint}") from error


def _draw_samples(
    model: BaseAE, number: int, flags: ScoreFlags | SampleFlags, terminal: Terminal
) -> Tensor:
    """Draws samples of a model on the GPU, if there is one, and shows the progress."""
    with terminal.stage("drawing samples") as progress:
        return draw_own_samples(
            model.to(default_device()),
            number,
            seed=flags.seed,
            labels=_read_label(model, flags.label),
            progress=progress,
        )


def _read_label(model: BaseAE, word: str | None) -> int | str | None:
    """Returns the class that a flag names.

    Args:
        model: The model, which may know the names of its classes.
        word: The name of a class, or its index; None for no class.
    """
    is_name = word in (getattr(model, "class_names", None) or ())
    return int(word) if word is not None and word.isdecimal() and not is_name else word


def _read_examples(
    model: InjectiveFlow, flags: LikelihoodFlags
) -> "tuple[Tensor, pandas.Index[Any], np.ndarray | None]":
    """Reads a table, or images.

    Returns:
        The examples (N, ...); their row numbers or file names; and their labels (N,), or None.
    """
    label = _read_label(model, flags.label)
    shape = tuple(model.model_config.input_dim)
    if len(shape) > 1:
        examples, names = _read_images(flags.data, shape, flags)
    else:
        table, _ = read_table_file(Path(flags.data))
        examples = torch.from_numpy(require_columns(model).transform(table)).float()
        if label in table:
            label = table[label].convert_dtypes().astype(str)
            examples[torch.tensor(label.isna().to_numpy())] = torch.nan
        names = pandas.RangeIndex(len(examples), name="row")
    return examples, names, None if label is None else np.broadcast_to(label, len(examples))


def _read_images(
    word: str,
    shape: tuple[int, ...] | None,
    flags: ScoreFlags | LikelihoodFlags,
    split: str = "test",
) -> "tuple[Tensor, pandas.Index[Any]]":
    """Reads images, resized if they are in a folder.

    Args:
        word: A folder of images or an .npz file, which has them by the key `data`, the split, or
            its first key.
        shape: The shape (C, H, W) that the images must have; None for the first image's shape. Grey
            images are converted to C channels.
        flags: The flags of the command.
        split: The key of an .npz file that is used if it has no key `data`.

    Returns:
        uint8 images (N, C, H, W), and their file names or row numbers.

    Raises:
        DataError: There are no images, or they have another shape.
    """
    path = Path(word).expanduser()
    if path.is_file():
        arrays = read_npz(path)
        key = next((key for key in ("data", split, *arrays) if key in arrays), "data")
        images = torch.from_numpy(to_uint8(arrays[key], f"{path}, key {key!r}"))
        names: pandas.Index[Any] = pandas.RangeIndex(len(images), name="row")
    else:
        images, names = _read_folder(path, shape, flags.skip_broken)
    if shape is None:
        return images, names

    if images.shape[1] != shape[0] and bool((images == images[:, :1]).all()):
        images = images[:, :1].expand(-1, shape[0], -1, -1)
    if images.shape[1:] != shape:
        raise DataError(f"{path} has images of shape {tuple(images.shape[1:])}, not {shape}")
    return images, names


def _read_folder(
    path: Path, shape: tuple[int, ...] | None, skip_broken: bool
) -> "tuple[Tensor, pandas.Index[Any]]":
    """Reads the images of a folder, resized to squares, and their names."""
    names = find_images(path)
    if not names:
        raise DataError(f"{path}: neither a folder of images, nor an .npz file, nor a saved model")
    sides = (_shorter_side(path / name) for name in names) if shape is None else iter(shape[1:])
    side = next(filter(None, sides), 1)

    with Terminal().stage(f"reading {path.name}") as progress:
        decoded = decode_files(path, names, side, progress, skip_broken=skip_broken)
    for note in decoded.notes:
        logger.warning("%s: %s", path, note)
    file_names = pandas.Index(names, name="file")[decoded.indices]
    return torch.from_numpy(decoded.images), file_names


def _shorter_side(path: Path) -> int:
    """Returns the shorter side of an image in pixels; 0 if the file cannot be read."""
    with contextlib.suppress(Exception):  # Pillow's plugins raise a dozen unrelated types
        check_regular_file(path)
        with Image.open(path) as image:
            return min(image.size)
    return 0
