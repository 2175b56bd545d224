"""`sample` and `likelihood`: samples of a trained model, and likelihoods of data, as files."""

from pathlib import Path
from typing import Annotated, Any

import pandas
import torch
from torch import Tensor

from pythae_fif.benchmark.config import Seed
from pythae_fif.benchmark.pictures import picture_sheet
from pythae_fif.cli.display import Terminal
from pythae_fif.cli.flags import Parser
from pythae_fif.cli.score import load_model, read_images, read_label
from pythae_fif.data import to_float
from pythae_fif.data.images import find_images
from pythae_fif.data.table_files import read_table_file
from pythae_fif.device import default_device
from pythae_fif.errors import ConfigError, pluralized
from pythae_fif.files import write_bytes
from pythae_fif.models import InjectiveFlow, as_density
from pythae_fif.models.saved import require_columns
from pythae_fif.pictures import pixel_bytes
from pythae_fif.sampling.own_prior import describe_own_prior, draw_own_samples
from pythae_fif.sampling.samplers import BATCH_SIZE
from pythae_fif.validation import AtLeastOne, Flag, StrictModel


class SampleFlags(StrictModel):
    """The argument and flags of `sample`."""

    model: str
    to: Annotated[str, Flag("new folder for PNG files, or a .csv file for a table", "PATH")]
    number: Annotated[AtLeastOne, Flag("number of samples (default: 1000)", "N")] = 1000
    label: Annotated[str | None, Flag("class of a conditional model", "NAME")] = None
    seed: Annotated[Seed, Flag("random seed (default: 0)", "SEED")] = 0
    trust: Annotated[bool, Flag("open the pickles of a model, which can run any code")] = False


class LikelihoodFlags(StrictModel):
    """The arguments and flags of `likelihood`."""

    model: str
    data: str
    to: Annotated[str, Flag("CSV file to write", "FILE")]
    label: Annotated[
        str | None,
        Flag("for a conditional model: the class of all data, or a table's column", "NAME"),
    ] = None
    original_units: Annotated[
        bool, Flag("densities in a table's original units, not in standardised ones")
    ] = False
    trust: Annotated[bool, Flag("open the pickles of a model, which can run any code")] = False


def sample_command(words: list[str]) -> bool:
    """Draws samples of a trained model, and writes PNG files or a CSV file.

    Returns:
        True.

    Raises:
        ConfigError: A flag is not valid, or does not fit the model.
        DataError: There is no model.
    """
    parser = Parser(
        "sample", words, "Writes samples of a trained model to files.", positionals="MODEL"
    )
    parser.add_argument("model", metavar="MODEL", help="the folder of a model or run")
    parser.add_flags(SampleFlags)
    flags = parser.read(SampleFlags)
    device = default_device()
    model = load_model(Path(flags.model).expanduser(), flags.trust).to(device)
    path = Path(flags.to).expanduser()
    is_table = len(model.model_config.input_dim) == 1
    if is_table != (path.suffix.lower() == ".csv") or (path.is_dir() and any(path.iterdir())):
        target = "a file that ends in .csv" if is_table else "a new folder"
        raise ConfigError(f"--to {flags.to}: samples of this model need {target}")

    terminal = Terminal()
    with terminal.stage("drawing samples") as progress:
        samples = draw_own_samples(
            model,
            flags.number,
            seed=flags.seed,
            labels=read_label(model, flags.label),
            progress=progress,
        )
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
    return True


def likelihood_command(words: list[str]) -> bool:
    """Computes the log-likelihood of each example of a data set, and writes a CSV file.

    Returns:
        True.

    Raises:
        ConfigError: A flag is not valid, or the model has no density.
        DataError: There is no model, or the data cannot be read or do not fit the model.
    """
    parser = Parser(
        "likelihood",
        words,
        "Writes the log-likelihood of each row or image, and its distance to its projection.",
        positionals="MODEL DATA",
    )
    parser.add_argument("model", metavar="MODEL", help="the folder of a model or run")
    parser.add_argument("data", metavar="DATA", help="a table, a folder of images or an .npz file")
    parser.add_flags(LikelihoodFlags)
    flags = parser.read(LikelihoodFlags)
    device = default_device()
    model = as_density(load_model(Path(flags.model).expanduser(), flags.trust)).to(device)
    names, examples, labels = _read_examples(model, flags)
    complete = examples.flatten(1).isfinite().all(1).nonzero()[:, 0]

    log_probs = []
    distances = []
    terminal = Terminal()
    with terminal.stage("computing likelihoods") as progress:
        for rows in complete.split(BATCH_SIZE):
            x = to_float(examples[rows]).to(device)
            classes = labels if isinstance(labels, int | str | None) else labels[rows.numpy()]
            log_probs += model.log_prob(x, classes, original_units=flags.original_units).tolist()
            distances += (model.reconstruct(x, classes) - x).flatten(1).norm(dim=1).tolist()
            progress(len(log_probs), len(complete))

    values = {"log_likelihood": log_probs, "distance": distances}
    frame = pandas.DataFrame(values, index=names[complete.numpy()]).reindex(names)
    write_bytes(Path(flags.to).expanduser(), frame.to_csv().encode())

    units = "original" if flags.original_units else "standardised"
    unit_note = f", for rows in {units} units," if examples.ndim == 2 else ""
    missing = len(names) - len(complete)
    note = f"; {pluralized(missing, 'row')} with missing values" if missing else ""
    terminal.say(
        f"{pluralized(len(complete), 'log-likelihood')} in nats{unit_note} written to "
        f"{flags.to}{note}"
    )
    return True


def _read_examples(model: InjectiveFlow, flags: LikelihoodFlags) -> tuple[Any, Tensor, Any]:
    """Reads a table, or images.

    Returns:
        Row numbers or file names; the examples (N, ...); and their labels (N,), one label for all,
        or None.
    """
    path = Path(flags.data).expanduser()
    label = read_label(model, flags.label)
    shape = tuple(model.model_config.input_dim)
    if len(shape) == 1:
        table, _ = read_table_file(path)
        rows = torch.from_numpy(require_columns(model).transform(table)).float()
        labels = table[label].astype(str).to_numpy() if label in table else label
        return pandas.RangeIndex(len(rows), name="row"), rows, labels

    images = read_images(flags.data, shape)
    if path.is_dir():
        return pandas.Index(find_images(path), name="file"), images, label
    return pandas.RangeIndex(len(images), name="row"), images, label
