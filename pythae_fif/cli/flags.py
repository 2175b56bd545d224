"""The words of a command line become a request: flags are typed fields, errors are one line."""

import argparse
from collections.abc import Container
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_args, get_origin

from pydantic import BaseModel

from pythae_fif import __version__
from pythae_fif.benchmark.config import Experiment, Profile, load_experiment
from pythae_fif.benchmark.models import configs_dir
from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.runs.launch import Engine
from pythae_fif.runs.local import LocalEngine
from pythae_fif.runs.ray import RayEngine
from pythae_fif.runs.slurm import SlurmEngine
from pythae_fif.validation import Flag, StrictModel, flag_fields, flag_name, read_checked

M = TypeVar("M", bound=BaseModel)

ENGINES: dict[str, type[Engine]] = {"local": LocalEngine, "ray": RayEngine, "slurm": SlurmEngine}
ENGINE_FLAGS = {name for cls in ENGINES.values() for name in flag_fields(cls)}
USUAL_FLAGS = {
    "dataset", "data", "arch", "models", "samplers", "seeds", "beta", "hutchinson_samples",
    "latent_dim", "profile", "epochs", "config", "results", "dry_run", "open", "engine",
}  # fmt: skip
"""Flags that `--help` shows; `--help-all` has the others too."""

RUN = """\
Trains generative autoencoders on a data set, samples, scores and compares.

  python run_benchmark.py                                  six models on digits, in minutes
  python run_benchmark.py --dataset celeba --arch resnet   the published protocol

other commands, each with a --help of its own:
  study NAME               an experiment of the paper
  list                     what there is to choose from
  score SAMPLES REFERENCE  scores of two sets of images, or of a saved model
  verify RESULTS           what in a folder of results can be trusted"""
EXIT_CODES = "exit codes: 0 all there, 1 some failed, 2 wrong input or disk full, 130 interrupted"


class CommonFlags(StrictModel):
    """The flags of all commands that make results; an engine's own are its class in `ENGINES`."""

    results: Annotated[str, Flag("folder of the results (default: results)", "DIR")] = "results"
    engine: Annotated[Literal["local", "ray", "slurm"], Flag("local, ray or slurm")] = "local"


class RunFlags(CommonFlags):
    """The flags of `run` beside the keys of an experiment and the options of its engine."""

    dataset: Annotated[str | None, Flag("a data set of `list` (default: digits)")] = None
    experiment: Annotated[
        Literal["table2"] | None, Flag("settings of an experiment of the paper: table2", "NAME")
    ] = None
    config: Annotated[str | None, Flag("YAML file of an experiment's keys", "FILE")] = None
    dry_run: Annotated[bool, Flag("show the plan and estimate its time, and stop")] = False
    open: Annotated[bool, Flag("show the page in the browser when all is done")] = False


class Parser(argparse.ArgumentParser):
    """The words of one command, after its name; `--help` shows its `usual` flags, all if None."""

    def __init__(
        self, command: str, words: list[str], description: str, usual: Container[str] | None = None
    ) -> None:
        super().__init__(
            prog=f"pythae-fif {command}",
            usage=f"pythae-fif {command} [flags]",
            description=description,
            epilog=EXIT_CODES,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.command, self.words = command, words
        self.usual = None if "--help-all" in words else usual
        if usual is not None:
            self.add_argument("--help-all", action="help", help="show all flags")

    def add_flags(self, *classes: type[BaseModel], only: Container[str] | None = None) -> None:
        """Adds the flags of the classes' fields, or of some, that are not there yet."""
        fields = [(name, cls, flag) for cls in classes for name, flag in flag_fields(cls).items()]
        for name, cls, flag in fields:
            there = flag_name(name) in self._option_string_actions
            if not there and (only is None or name in only):
                form = _argument_options(cls.model_fields[name].annotation, flag)
                shown = self.usual is None or name in self.usual
                self.add_argument(
                    flag_name(name), help=flag.help if shown else argparse.SUPPRESS, **form
                )

    def parsed_values(self) -> dict[str, Any]:
        """What the words give: field -> value. An unknown flag is a ConfigError."""
        known, unknown = self.parse_known_args(self.words)
        if unknown:
            flag = unknown[0].partition("=")[0]
            hint = did_you_mean(flag, self._option_string_actions).partition("valid: ")[0].strip()
            raise ConfigError(f"{self.command} does not take {flag!r}: {hint or 'see its --help'}")
        return vars(known)

    def read(self, cls: type[M]) -> M:
        """The flags of a class; a ConfigError for a value that is not right."""
        values = {name: of for name, of in self.parsed_values().items() if name in cls.model_fields}
        return read_checked(cls, values, self.command, flags=values)

    def engine(self) -> Engine:
        """The engine that is named, with its options; a ConfigError for those of another."""
        flags, name = self.parsed_values(), self.read(CommonFlags).engine
        options = {option: flags[option] for option in ENGINE_FLAGS & flags.keys()}
        return read_checked(ENGINES[name], options, f"engine {name}", ENGINE_FLAGS)

    def error(self, message: str) -> NoReturn:
        """Raises ConfigError in place of printing the usage."""
        raise ConfigError(message)


def _argument_options(annotation: Any, flag: Flag) -> dict[str, Any]:
    """How many words a flag takes, and what becomes of each."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated or type(None) in inner:
        return _argument_options(inner[0], flag)
    if origin is list:
        return {**_argument_options(inner[0], flag), "nargs": "+"}
    if annotation is bool:
        return {"action": "store_true"}
    kind = annotation if annotation in (int, float) else str
    return {"type": flag.parse or kind, "metavar": flag.metavar}


def read_request(words: list[str]) -> tuple[RunFlags, Experiment, Engine]:
    """A benchmark as the words of `run` ask for it; what is not given is as in the YAML files."""
    parser = Parser("run", words, RUN, USUAL_FLAGS)
    parser.add_argument("--version", action="version", version=f"pythae-fif {__version__}")
    parser.add_flags(RunFlags, Experiment, Profile, *ENGINES.values())
    flags, of_experiment = parser.read(RunFlags), {*flag_fields(Experiment), *flag_fields(Profile)}
    keys = {name: value for name, value in parser.parsed_values().items() if name in of_experiment}
    file: Any = flags.config
    if flags.experiment is not None:
        if file is not None:
            raise ConfigError(
                "--experiment and --config: give one of the two, each is a file of keys"
            )
        file = configs_dir() / f"experiments/{flags.experiment}.yaml"
    return flags, load_experiment(flags.dataset, keys, file), parser.engine()
