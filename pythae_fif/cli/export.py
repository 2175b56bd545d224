"""`sample` and `likelihood`: samples of a trained model, and likelihoods of data, as files."""

from pathlib import Path
from typing import Annotated, Any

import pandas
import torch
from pythae.models import BaseAE
from pythae.samplers import NormalSampler
from torch import Tensor

from pythae_fif.benchmark.config import Seed
from pythae_fif.benchmark.pictures import picture_sheet
from pythae_fif.cli.display import Terminal
from pythae_fif.cli.flags import Parser
from pythae_fif.cli.score import load_model, read_images
from pythae_fif.data import to_float
from pythae_fif.data.images import find_images
from pythae_fif.data.table_files import read_table_file
from pythae_fif.device import default_device
from pythae_fif.errors import ConfigError, pluralized
from pythae_fif.files import write_bytes
from pythae_fif.models import InjectiveFlow, as_density
from pythae_fif.models.density import is_density
from pythae_fif.models.saved import require_columns
from pythae_fif.pictures import pixel_bytes
from pythae_fif.sampling.samplers import BATCH_SIZE, draw_samples
from pythae_fif.validation import AtLeastOne, Flag, StrictModel


class ModelFlags(StrictModel):
    """The argument and the flags of both commands."""

    model: str
    label: Annotated[int | None, Flag("class index of a conditional model", "INDEX")] = None
    trust: Annotated[bool, Flag("open the pickles of a model, which can run any code")] = False


class SampleFlags(ModelFlags):
    """The arguments and flags of `sample`."""

    to: Annotated[str, Flag("new folder for PNG files, or a .csv file for a table", "PATH")]
    number: Annotated[AtLeastOne, Flag("number of samples (default: 1000)", "N")] = 1000
    seed: Annotated[Seed, Flag("random seed (default: 0)", "SEED")] = 0


class LikelihoodFlags(ModelFlags):
    """The arguments and flags of `likelihood`."""

    data: str
    to: Annotated[str, Flag("CSV file to write", "FILE")]
    original_units: Annotated[
        bool, Flag("densities in a table's original units, not in standardised ones")
    ] = False


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
    model: Any = load_model(Path(flags.model).expanduser(), flags.trust).to(device).eval()
    path = Path(flags.to).expanduser()
    is_table = len(model.model_config.input_dim) == 1
    if is_table != (path.suffix.lower() == ".csv") or (path.is_dir() and any(path.iterdir())):
        target = "a file that ends in .csv" if is_table else "a new folder"
        raise ConfigError(f"--to {flags.to}: samples of this model need {target}")

    with Terminal().stage("drawing samples") as progress:
        samples = _draw(model, flags)
        if is_table:
            frame = require_columns(model).to_frame(samples)
            write_bytes(path, frame.to_csv(index=False).encode())
        else:
            for number, image in enumerate(samples):
                write_bytes(
                    path / f"{number:05d}.png", pixel_bytes(picture_sheet(image[None], 1, 1))
                )
                progress(number + 1, len(samples))
    Terminal().say(f"{pluralized(len(samples), 'sample')} written to {path}")
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
    names, examples = _read_examples(model, Path(flags.data).expanduser())
    is_complete = examples.flatten(1).isfinite().all(1)
    chunks = examples[is_complete].split(BATCH_SIZE)

    log_probs = []
    distances = []
    with Terminal().stage("computing likelihoods") as progress:
        for number, chunk in enumerate(chunks, start=1):
            x = to_float(chunk).to(device)
            log_probs += model.log_prob(
                x, flags.label, original_units=flags.original_units
            ).tolist()
            distances += (model.reconstruct(x, flags.label) - x).flatten(1).norm(dim=1).tolist()
            progress(number, len(chunks))

    values = {"log_likelihood": log_probs, "distance": distances}
    frame = pandas.DataFrame(values, index=names[is_complete.numpy()]).reindex(names)
    write_bytes(Path(flags.to).expanduser(), frame.to_csv().encode())
    missing = len(names) - len(log_probs)
    note = f"; {pluralized(missing, 'row')} with missing values" if missing else ""
    Terminal().say(f"{pluralized(len(log_probs), 'log-likelihood')} written to {flags.to}{note}")
    return True


def _draw(model: BaseAE, flags: SampleFlags) -> Tensor:
    """Draws samples (N, ...) from the model's prior; from standard normal codes if it has none."""
    torch.manual_seed(flags.seed)
    if not is_density(model):
        batches = [*draw_samples(NormalSampler(model), flags.number)]
    else:
        flow = as_density(model)
        counts = torch.ones(flags.number).split(BATCH_SIZE)
        batches = [flow.sample(len(ones), labels=flags.label) for ones in counts]
    return torch.cat([batch.cpu() for batch in batches])[: flags.number]


def _read_examples(model: InjectiveFlow, path: Path) -> tuple[Any, Tensor]:
    """Reads a table, or images; returns row numbers or file names, and the examples (N, ...)."""
    shape = tuple(model.model_config.input_dim)
    if len(shape) == 1:
        table, _ = read_table_file(path)
        rows = torch.from_numpy(require_columns(model).transform(table)).float()
        return pandas.RangeIndex(len(rows), name="row"), rows

    images = read_images(str(path), shape)
    if path.is_dir():
        return pandas.Index(find_images(path), name="file"), images
    return pandas.RangeIndex(len(images), name="row"), images
