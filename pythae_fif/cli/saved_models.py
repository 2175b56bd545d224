"""Commands on saved models: `score`, `sample` and `likelihood`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import Field

from pythae_fif.benchmark.config import AtLeastTen, ExtractorName, OwnScores, Seed
from pythae_fif.benchmark.trained import load_trained
from pythae_fif.cli.display import Terminal
from pythae_fif.cli.flags import Parser
from pythae_fif.errors import ConfigError, pluralized
from pythae_fif.evaluation.saved_models import export_samples, likelihood_frame, score_files
from pythae_fif.files import check_target, csv_name, write_bytes, write_json
from pythae_fif.names import SkipBroken
from pythae_fif.register import find_model
from pythae_fif.sampling.samplers import describe_own_prior
from pythae_fif.validation import AtLeastOne, Flag, StrictModel

UNUSUAL_QUANTILE = 0.99
"""Share of validation data beyond which an example is counted as unusual."""
MAX_SAMPLES = 10_000_000
MODEL_HELP = "the folder of a model or run"
FLAGS_OF_ERRORS = {"trust=True": "--trust", "needs labels": "--label"}
"""What an error of a function says -> the flag that takes the place of the argument."""


class ModelFlags(StrictModel):
    """Flags of all commands on saved models."""

    label: Annotated[str | None, Flag("class of a conditional model", "NAME")] = None
    trust: Annotated[bool, Flag("open the pickles of a model, which can run any code")] = False
    overwrite: Annotated[bool, Flag("replace an existing file")] = False


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
    number: Annotated[
        AtLeastOne, Field(le=MAX_SAMPLES), Flag("number of samples (default: 1000)", "N")
    ] = 1000
    seed: Annotated[Seed, Flag("random seed (default: 0)", "SEED")] = 0
    raw: Annotated[
        bool, Flag("numbers of a table as the decoder gives them: not rounded, without noise")
    ] = False


class LikelihoodFlags(ModelFlags):
    """The arguments and flags of `likelihood`."""

    model: str
    data: str
    to: Annotated[str, Flag("CSV file to write (required)", "FILE")]
    validation: Annotated[
        str | None,
        Flag(
            "normal data that the model was not trained on: adds the share that is more normal",
            "PATH",
        ),
    ] = None
    skip_broken: SkipBroken = False
    original_units: Annotated[
        bool, Flag("densities in a table's original units, not in standardised ones")
    ] = False
    label: Annotated[
        str | None,
        Flag("for a conditional model: the class of all data, or a table's column", "NAME"),
    ] = None


@contextmanager
def _flags_named_in_errors() -> Iterator[None]:
    """Adds the flag to an error that names an argument of a function."""
    try:
        yield
    except ConfigError as error:
        flags = [flag for text, flag in FLAGS_OF_ERRORS.items() if text in str(error)]
        if not flags:
            raise
        raise ConfigError(f"{error}; in this command: {flags[0]}") from error


@_flags_named_in_errors()
def score_command(argv: list[str]) -> None:
    """Prints the scores of samples against reference images.

    Raises:
        ConfigError: A flag is unknown, a value is not valid, or the model is not trusted.
        DataError: Images are missing, cannot be read, or have another shape.
    """
    parser = Parser(
        "score",
        argv,
        "Scores samples against reference images. Images are in a folder or an .npz file.",
        positionals={
            "samples": "images, or the folder of a model or run",
            "reference": "images to compare with",
        },
    )
    parser.add_flags(ScoreFlags)
    flags = parser.read(ScoreFlags)
    if flags.to_json is not None:
        check_target(Path(flags.to_json).expanduser(), overwrite=flags.overwrite)
    model = None
    if find_model(Path(flags.samples).expanduser()):
        model = load_trained(Path(flags.samples).expanduser(), flags.trust)
        if len(model.model_config.input_dim) != 3:
            raise ConfigError(f"{flags.samples}: a model of a table; score takes models of images")

    terminal = Terminal()
    with terminal.stage("reading images" if model is None else "drawing samples") as progress:
        scores = score_files(
            flags.samples if model is None else model,
            flags.reference,
            flags.extractor,
            training=flags.training,
            num_samples=flags.num_samples,
            label=flags.label,
            seed=flags.seed,
            extractor_weights=flags.extractor_weights,
            offline=flags.offline,
            skip_broken=flags.skip_broken,
            scores=flags.scores,
            progress=progress,
        )
    if model is not None:
        terminal.say(f"samples of the model, from {describe_own_prior(model)}")
    terminal.say(str(scores))
    if flags.to_json is not None:
        write_json(Path(flags.to_json).expanduser(), asdict(scores))


@_flags_named_in_errors()
def sample_command(argv: list[str]) -> None:
    """Draws samples of a trained model, and writes PNG files or a CSV file.

    Raises:
        ConfigError: A flag is not valid, or does not fit the model.
        DataError: There is no model.
    """
    parser = Parser(
        "sample",
        argv,
        "Writes samples of a trained model to files.",
        positionals={"model": MODEL_HELP},
    )
    parser.add_flags(SampleFlags)
    flags = parser.read(SampleFlags)

    model = load_trained(Path(flags.model).expanduser(), flags.trust)
    terminal = Terminal()
    with terminal.stage("drawing samples") as progress:
        export_samples(
            model,
            flags.to,
            flags.number,
            label=flags.label,
            seed=flags.seed,
            raw=flags.raw,
            overwrite=flags.overwrite,
            progress=progress,
        )
    terminal.say(
        f"{pluralized(flags.number, 'sample')} from {describe_own_prior(model)} written to "
        f"{flags.to}"
    )


@_flags_named_in_errors()
def likelihood_command(argv: list[str]) -> None:
    """Computes the log-likelihood of each example of a data set, and writes a CSV file.

    Raises:
        ConfigError: A flag is not valid, or the model has no density.
        DataError: There is no model, or the data cannot be read or do not fit the model.
    """
    parser = Parser(
        "likelihood",
        argv,
        "Writes the log-likelihood of each row or image, and its distance to its projection.",
        positionals={
            "model": MODEL_HELP,
            "data": "a table, a folder of images or an .npz file",
        },
    )
    parser.add_flags(LikelihoodFlags)
    flags = parser.read(LikelihoodFlags)
    target = Path(flags.to).expanduser()
    inputs = [Path(path).expanduser() for path in (flags.data, flags.validation) if path]
    check_target(target, overwrite=flags.overwrite, inputs=inputs)
    model = load_trained(Path(flags.model).expanduser(), flags.trust)
    terminal = Terminal()
    with terminal.stage("computing likelihoods") as progress:
        frame = likelihood_frame(
            model,
            flags.data,
            flags.label,
            validation=flags.validation,
            original_units=flags.original_units,
            skip_broken=flags.skip_broken,
            progress=progress,
        )
    named = frame if frame.index.name == "row" else frame.rename(index=csv_name)
    write_bytes(target, named.to_csv().encode())

    is_table = len(model.model_config.input_dim) == 1
    units = "original" if flags.original_units else "standardised"
    unit_note = f", for rows in {units} units," if is_table else ""
    missing = int(frame["distance"].isna().sum())
    note = f"; {pluralized(missing, 'row')} with missing values" if missing else ""
    terminal.say(
        f"{pluralized(len(frame) - missing, 'log-likelihood')} in nats{unit_note} written to "
        f"{flags.to}{note}{_describe_outliers(frame)}"
    )


def _describe_outliers(frame: pd.DataFrame) -> str:
    """Returns how many examples are unusual by each number; empty without validation data."""
    parts = []
    for name in frame:
        if name.endswith("_quantile"):
            count = int((frame[name] > UNUSUAL_QUANTILE).sum())
            number = name.removesuffix("_quantile").replace("log_l", "log-l").replace("_", " ")
            parts.append(f"{count} by {number}")
    if not parts:
        return ""
    share = f"{UNUSUAL_QUANTILE:.0%}"
    return f"; more unusual than {share} of the validation data: {', '.join(parts)}"
