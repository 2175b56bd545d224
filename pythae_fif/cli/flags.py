"""The words of a command line become a request: flags are typed fields, errors are one line."""

__all__ = [
    "ENGINES",
    "ENGINE_FLAGS",
    "USUAL",
    "AnyEngine",
    "CommonFlags",
    "Parser",
    "Request",
    "RunFlags",
    "read_engine",
    "read_request",
    "run_parser",
]

import argparse
from collections.abc import Container, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin

from pydantic import BaseModel

from pythae_fif import __version__
from pythae_fif.benchmark.config import Experiment, load_experiment
from pythae_fif.benchmark.models import configs_dir, names_in, read_yaml
from pythae_fif.benchmark.settings import Profile
from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.runs.local import LocalEngine
from pythae_fif.runs.ray import RayEngine
from pythae_fif.runs.slurm import SlurmEngine
from pythae_fif.studies import study as studies
from pythae_fif.validation import (
    Checked,
    Flag,
    flag_of,
    flags_in,
    name_of,
    read_checked,
)

AnyEngine = LocalEngine | RayEngine | SlurmEngine
ENGINES: dict[str, type[AnyEngine]] = {
    "local": LocalEngine,
    "ray": RayEngine,
    "slurm": SlurmEngine,
}
USUAL = {
    "help", "help_all", "version", "dataset", "data", "arch", "models", "samplers", "seeds", "beta",
    "hutchinson_samples", "latent_dim", "profile", "epochs", "config", "results", "dry_run", "open",
    "engine",
}  # fmt: skip
"""Flags that `--help` shows; `--help-all` has the others too."""
ALSO = {"--lr": "--learning-rate", "--output": "--results", "--k": "--hutchinson-samples"}
"""What other programs call a flag, where no letters are alike."""

RUN = """\
Trains generative autoencoders on a data set, samples, scores and compares.

  python run_benchmark.py                                  six models on digits, in minutes
  python run_benchmark.py --dataset celeba --arch resnet   the published protocol

other commands, each with a --help of its own:
  study NAME               an experiment of the paper
  list                     what there is to choose from
  score SAMPLES REFERENCE  scores of two sets of images, or of a saved model
  verify RESULTS           what in a folder of results can be trusted"""
EXIT_CODES = "exit codes: 0 all is there, 1 some runs failed, 2 wrong input, 130 interrupted"


class CommonFlags(Checked):
    """The flags of all commands that make results; an engine's own are its class in `ENGINES`."""

    results: Annotated[str, Flag("folder of the results (default: results)", "DIR")] = "results"
    data_root: Annotated[str | None, Flag("where data sets are (PYTHAE_FIF_DATA)", "DIR")] = None
    offline: Annotated[bool, Flag("never download")] = False
    quiet: Annotated[bool, Flag("no display while it runs")] = False
    engine: Annotated[
        str,
        name_of(lambda: ENGINES),
        Flag("where runs are executed: local (default), ray or slurm"),
    ] = "local"


class RunFlags(CommonFlags):
    """The flags of `run` beside the keys of an experiment and the options of its engine."""

    dataset: Annotated[str | None, Flag("a data set of `list` (default: digits)")] = None
    table: Annotated[int | None, Flag("models and settings of the paper's table 2", "N")] = None
    config: Annotated[str | None, Flag("YAML file of an experiment's keys", "FILE")] = None
    extractor_weights: Annotated[str | None, Flag("file of the extractor's weights", "FILE")] = None
    dry_run: Annotated[bool, Flag("show the plan and estimate its time, and stop")] = False
    open: Annotated[bool, Flag("show the page in the browser when all is done")] = False


@dataclass(frozen=True)
class Request:
    """A benchmark as it is asked for.

    Attributes:
        flags: Those that are neither of the experiment nor of the engine.
        experiment: What to run.
        engine: Where.
        usual_samplers: Whether the samplers are those of the data set, which nobody chose.
    """

    flags: RunFlags
    experiment: Experiment
    engine: AnyEngine
    usual_samplers: bool


class Parser(argparse.ArgumentParser):
    """The parser of one command: of flags that are not given its namespace has nothing.

    Args:
        command: Its name, such as `study linear`.
        description: What stands above its flags.
        usual: Flags that `--help` shows; all if None.
    """

    def __init__(self, command: str, description: str, usual: Container[str] | None = None) -> None:
        super().__init__(
            prog=f"pythae-fif {command}",
            usage=f"pythae-fif {command} [flags]",
            description=description,
            epilog=EXIT_CODES,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
            add_help=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.command, self.usual = command, usual
        self.add_argument("-h", "--help", action=_Help, nargs=0, help="show this")
        if usual is not None:
            self.add_argument("--help-all", action=_Help, nargs=0, help="show all flags")

    def given(self, words: list[str]) -> dict[str, Any]:
        """What the words give: field -> value. An unknown flag is a ConfigError."""
        known, unknown = self.parse_known_args(words)
        if unknown:
            flag = unknown[0].partition("=")[0]
            if not flag.startswith("-"):
                raise ConfigError(f"{self.command} does not take {flag!r}: see its --help")
            bare = {name.lstrip("-"): name for name in self._option_string_actions}
            near = [ALSO.get(flag), *(bare[n] for n in get_close_matches(flag.lstrip("-"), bare))]
            nearest = next((name for name in near if name in self._option_string_actions), None)
            hint = f"did you mean {nearest!r}?" if nearest else "see its --help"
            raise ConfigError(f"unknown flag {flag!r} of {self.command}: {hint}")
        return vars(known)

    def add_flags(self, *classes: type[BaseModel], only: Container[str] | None = None) -> None:
        """Adds the flags of the classes' fields, or of some, that are not there yet."""
        fields = [(name, cls, flag) for cls in classes for name, flag in flags_in(cls).items()]
        for name, cls, flag in fields:
            there = flag_of(name) in self._option_string_actions
            if not there and (only is None or name in only):
                form = _form(cls.model_fields[name].annotation, flag)
                self.add_argument(flag_of(name), help=flag.help, **form)

    def error(self, message: str) -> NoReturn:
        """Raises ConfigError in place of printing the usage."""
        raise ConfigError(message)


class _Help(argparse.Action):
    """Prints the usual flags, or all of them, and ends the program."""

    def __call__(self, parser: Any, _: Any, __: Any, option: str | None = None) -> None:
        for action in parser._actions if option != "--help-all" else []:
            if parser.usual is not None and action.dest not in parser.usual:
                action.help = argparse.SUPPRESS
        parser.print_help()
        parser.exit()


def _form(annotation: Any, flag: Flag) -> dict[str, Any]:
    """How many words a flag takes, and what becomes of each."""
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    if type(None) in get_args(annotation) or get_origin(annotation) is Annotated:
        return _form(kinds[0], flag)
    if annotation is bool:
        return {"action": "store_true"}
    several = get_origin(annotation) in (list, dict)
    form: dict[str, Any] = {"metavar": flag.metavar} if flag.metavar else {}
    if flag.parse is not None:
        form["type"] = flag.parse
        several = get_origin(annotation) is dict
    elif several:
        form["type"] = _form(kinds[0], Flag("")).get("type", str)
    else:
        form["type"] = str if get_origin(annotation) is Literal else annotation
    return {**form, "nargs": "+"} if several else form


ENGINE_FLAGS = list(dict.fromkeys(name for cls in ENGINES.values() for name in flags_in(cls)))
"""Names of the options of all engines."""


def read_engine(flags: CommonFlags, given: Mapping[str, Any]) -> AnyEngine:
    """The engine that the flags name, with those of the given options that are of engines.

    Raises:
        ConfigError: An unknown value, or an option of another engine.
    """
    options = {option: given[option] for option in ENGINE_FLAGS if option in given}
    if "sbatch" in options:
        options["sbatch"] = dict(options["sbatch"])
    return read_checked(ENGINES[flags.engine], options, f"engine {flags.engine}", flags=options)


OF_EXPERIMENT = {**flags_in(Experiment), **flags_in(Profile)}
"""Flags that are keys of an experiment's file, too."""


def run_parser() -> Parser:
    """The parser of `run`; a flag that is not given leaves the value of the YAML file."""
    parser = Parser("run", RUN, USUAL)
    parser.add_argument("--version", action="version", version=f"pythae-fif {__version__}")
    parser.add_flags(RunFlags, Experiment, Profile, *ENGINES.values())
    return parser


def read_request(given: Mapping[str, Any]) -> Request:
    """The request of what :func:`run_parser` read.

    Raises:
        ConfigError: A flag, or a key of a YAML file, that is unknown or out of range.
    """
    values = {name: value for name, value in given.items() if name in RunFlags.model_fields}
    flags = read_checked(RunFlags, values, "run", flags=given)
    keys = {name: value for name, value in given.items() if name in OF_EXPERIMENT}
    file, dataset = flags.config, flags.dataset
    if flags.table is not None:
        if file is not None:
            raise ConfigError("--table and --config: give one of the two, each is a file of keys")
        if f"table{flags.table}" not in names_in("experiments"):
            raise ConfigError(f"--table {flags.table}: valid: 2")
        file = str(configs_dir() / f"experiments/table{flags.table}.yaml")
        dataset = dataset or "celeba"
    own = read_yaml(Path(file)) if file else {}
    dataset = dataset or own.get("dataset", "digits")
    if dataset not in (known := [*names_in(), *studies.DATASETS]):
        raise ConfigError(f"--dataset {dataset!r} is unknown: {did_you_mean(dataset, known)}")
    experiment = load_experiment(dataset, keys, file)
    return Request(flags, experiment, read_engine(flags, given), "samplers" not in {*keys, *own})
