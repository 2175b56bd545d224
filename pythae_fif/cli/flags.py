"""Parses command lines: flags are typed fields, and every error is one line."""

import argparse
from collections.abc import Container, Mapping
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_args, get_origin

from pydantic import BaseModel

from pythae_fif import __version__
from pythae_fif.benchmark.config import Experiment, Profile
from pythae_fif.benchmark.load import load_experiment
from pythae_fif.benchmark.models import configs_dir
from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.runs.engines import ENGINES, find_engine
from pythae_fif.runs.launch import Engine
from pythae_fif.validation import (
    Flag,
    StrictModel,
    flag_fields,
    flag_name,
    read_checked,
)

M = TypeVar("M", bound=BaseModel)

ENGINE_FLAGS = {name for cls in ENGINES.values() for name in flag_fields(cls)}
USUAL_FLAGS = {
    "dataset", "data", "arch", "models", "samplers", "seeds", "beta", "hutchinson_samples",
    "latent_dim", "profile", "epochs", "config", "results", "dry_run", "engine",
}  # fmt: skip
"""Flags that `--help` shows. `--help-all` shows the others too."""

MAX_MESSAGE_LENGTH = 500
"""Characters of argparse's messages, which repeat a wrong value."""

RUN = """\
Trains generative autoencoders on a data set, draws samples, and compares their scores.

  pythae-fif                                  six models on digits, in minutes
  pythae-fif --dataset celeba --arch resnet   the published protocol on CelebA

other commands, each with its own --help:
  study NAME               reproduces an experiment of the paper; needs a clone
  list                     shows the data sets, models, samplers and other choices
  score SAMPLES REFERENCE  scores a set of images, or samples of a saved model
  sample MODEL             writes samples of a trained model as PNG files or CSV
  likelihood MODEL DATA    writes the log-likelihood of each row or image as CSV
  verify RESULTS           checks the records in a results folder"""
EXIT_CODES = (
    "exit codes: 0 success, 1 failed or corrupt runs, 2 wrong input or full disk, 130 interrupted"
)


class CommonFlags(StrictModel):
    """Flags of all commands that execute runs. The classes in `ENGINES` have the engines' flags."""

    results: Annotated[str, Flag("results folder (default: results)", "DIR")] = "results"
    engine: Annotated[
        str,
        Flag(f"where runs are executed: {', '.join(ENGINES)} (default: local)", "NAME"),
    ] = "local"


class RunFlags(CommonFlags):
    """Flags of `run`, besides the keys of an experiment and the options of its engine."""

    dataset: Annotated[
        str | None, Flag("data set, see `pythae-fif list` (default: digits)", "NAME")
    ] = None
    experiment: Annotated[
        Literal["table1", "table2", "table6"] | None,
        Flag("settings of an experiment of the paper: table1, table2 or table6", "NAME"),
    ] = None
    config: Annotated[str | None, Flag("YAML file with settings", "FILE")] = None
    dry_run: Annotated[bool, Flag("show the plan and estimate its time, then stop")] = False


class Parser(argparse.ArgumentParser):
    """The parser of one command.

    Args:
        command: The name of the command.
        words: The words after the command's name.
        description: The text above the flags in `--help`.
        help_flags: Names of the flags that `--help` shows, while `--help-all` shows all. None shows
            all flags in `--help`.
        positionals: Name of each positional argument -> its help.
    """

    def __init__(
        self,
        command: str,
        words: list[str],
        description: str,
        help_flags: Container[str] | None = None,
        positionals: Mapping[str, str] | None = None,
    ) -> None:
        arguments = positionals or {}
        super().__init__(
            prog=f"pythae-fif {command}",
            usage=" ".join(["pythae-fif", command, *map(str.upper, arguments), "[flags]"]),
            description=description,
            epilog=EXIT_CODES,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

        for name, help_text in arguments.items():
            self.add_argument(name, metavar=name.upper(), help=help_text)
        self._command = command
        self._words = words
        self._help_flags = None if "--help-all" in words else help_flags
        if help_flags is not None:
            self.add_argument("--help-all", action="help", help="show all flags")

    def add_flags(self, *classes: type[BaseModel], names: Container[str] | None = None) -> None:
        """Adds the flags of classes. A flag that was added before is skipped.

        Args:
            classes: Classes with fields that have a :class:`~pythae_fif.validation.Flag`.
            names: Names of the fields to add; None for all.
        """
        for cls in classes:
            for name, flag in flag_fields(cls).items():
                is_new = flag_name(name) not in self._option_string_actions
                if is_new and (names is None or name in names):
                    self._add_flag(name, flag, cls.model_fields[name].annotation)

    def _add_flag(self, name: str, flag: Flag, annotation: Any) -> None:
        is_shown = self._help_flags is None or name in self._help_flags
        help_text = flag.help if is_shown else argparse.SUPPRESS
        self.add_argument(flag_name(name), help=help_text, **_argument_options(annotation, flag))

    def parsed_values(self, names: Container[str] | None = None) -> dict[str, Any]:
        """Returns the values of the flags in the command line, by field.

        Args:
            names: Names of the fields to return; None for all.

        Raises:
            ConfigError: A flag is unknown, or its value is missing or malformed.
        """
        namespace, unknown = self.parse_known_args(self._words)
        if unknown:
            flag = unknown[0].partition("=")[0]
            hint = did_you_mean(flag, self._option_string_actions).partition("valid: ")[0].strip()
            raise ConfigError(f"{self._command} does not take {flag!r}: {hint or 'see its --help'}")
        values = vars(namespace)
        return {name: values[name] for name in values if names is None or name in names}

    def read(self, cls: type[M]) -> M:
        """Builds a configuration from the flags of its fields.

        Raises:
            ConfigError: A flag is unknown, or a value is not valid.
        """
        values = self.parsed_values(cls.model_fields)
        return read_checked(cls, values, self._command, flags=flag_fields(cls))

    def engine(self) -> Engine:
        """Builds the engine from `--engine` and its flags.

        Raises:
            ConfigError: A flag belongs to another engine, or a value is not valid.
        """
        name = self.read(CommonFlags).engine
        options = self.parsed_values(ENGINE_FLAGS)
        return read_checked(find_engine(name), options, f"engine {name}", ENGINE_FLAGS)

    def error(self, message: str) -> NoReturn:
        """Raises a ConfigError instead of printing the usage."""
        raise ConfigError(message[:MAX_MESSAGE_LENGTH])


def _argument_options(annotation: Any, flag: Flag) -> dict[str, Any]:
    """Returns argparse's options for a field of a type: number of words, conversion, metavar."""
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Annotated or type(None) in arguments:
        return _argument_options(arguments[0], flag)
    if origin is list:
        return {**_argument_options(arguments[0], flag), "nargs": "+"}
    if annotation is bool:
        return {"action": "store_true"}
    word_type = annotation if annotation in (int, float) else str
    return {"type": flag.parse or word_type, "metavar": flag.metavar}


def read_request(words: list[str]) -> tuple[RunFlags, Experiment, Engine]:
    """Parses the words of `run`. Values that they do not set come from the YAML files.

    Raises:
        ConfigError: A flag is unknown, or a value is not valid.
    """
    parser = Parser("run", words, RUN, USUAL_FLAGS)
    parser.add_argument("--version", action="version", version=f"pythae-fif {__version__}")
    parser.add_flags(RunFlags, Experiment, Profile, *ENGINES.values())
    flags = parser.read(RunFlags)

    values = parser.parsed_values(flag_fields(Experiment).keys() | flag_fields(Profile).keys())

    file: Any = flags.config
    if flags.experiment is not None:
        if file is not None:
            raise ConfigError(
                "--experiment and --config cannot be combined: each is a file of settings"
            )
        file = configs_dir() / f"experiments/{flags.experiment}.yaml"
    return flags, load_experiment(flags.dataset, values, file), parser.engine()
