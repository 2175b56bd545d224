"""The words of a command line become a request: flags are typed fields, errors are one line."""

import argparse
from collections.abc import Container, Mapping
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, get_args, get_origin

from pydantic import BaseModel

from pythae_fif import __version__
from pythae_fif.benchmark.config import Experiment, load_experiment
from pythae_fif.benchmark.models import configs_dir
from pythae_fif.benchmark.settings import Profile
from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.runs.launch import Engine
from pythae_fif.runs.local import LocalEngine
from pythae_fif.runs.ray import RayEngine
from pythae_fif.runs.slurm import SlurmEngine
from pythae_fif.validation import Checked, Flag, flag_of, flags_in, name_of, read_checked

ENGINES: dict[str, type[Engine]] = {
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
    quiet: Annotated[bool, Flag("no display while it runs")] = False
    engine: Annotated[
        str,
        name_of(lambda: ENGINES),
        Flag("where runs are executed: local (default), ray or slurm"),
    ] = "local"


class RunFlags(CommonFlags):
    """The flags of `run` beside the keys of an experiment and the options of its engine."""

    dataset: Annotated[str | None, Flag("a data set of `list` (default: digits)")] = None
    table: Annotated[
        Literal["2"] | None, Flag("models and settings of the paper's table 2", "N")
    ] = None
    config: Annotated[str | None, Flag("YAML file of an experiment's keys", "FILE")] = None
    dry_run: Annotated[bool, Flag("show the plan and estimate its time, and stop")] = False
    open: Annotated[bool, Flag("show the page in the browser when all is done")] = False


class Request(NamedTuple):
    """A benchmark as it is asked for: flags beside those of the experiment and its engine."""

    flags: RunFlags
    experiment: Experiment
    engine: Engine


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
            hint = did_you_mean(flag, self._option_string_actions)
            nearest, asks, _ = hint.partition("? ")
            hint = f"{nearest}?" if asks else "see its --help"
            raise ConfigError(f"{self.command} does not take {flag!r}: {hint}")
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
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated or type(None) in inner:
        return _form(inner[0], flag)
    if origin is list:
        return {**_form(inner[0], flag), "nargs": "+"}
    if annotation is bool:
        return {"action": "store_true"}
    kind = annotation if annotation in (int, float) else str
    several = {"nargs": "+"} if origin is dict else {}
    return {"type": flag.parse or kind, "metavar": flag.metavar, **several}


ENGINE_FLAGS = list(dict.fromkeys(name for cls in ENGINES.values() for name in flags_in(cls)))
"""Names of the options of all engines."""


def read_engine(flags: CommonFlags, given: Mapping[str, Any]) -> Engine:
    """The engine that the flags name, with those of the given options that are of engines.

    Raises:
        ConfigError: An unknown value, or an option of another engine.
    """
    options = {option: given[option] for option in ENGINE_FLAGS if option in given}
    if "sbatch" in options:
        options["sbatch"] = dict(options["sbatch"])
    return read_checked(ENGINES[flags.engine], options, f"engine {flags.engine}", flags=options)


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
    of_experiment = {*flags_in(Experiment), *flags_in(Profile)}
    keys = {name: value for name, value in given.items() if name in of_experiment}
    file: Any = flags.config
    if flags.table is not None:
        if file is not None:
            raise ConfigError("--table and --config: give one of the two, each is a file of keys")
        file = configs_dir() / f"experiments/table{flags.table}.yaml"
    return Request(flags, load_experiment(flags.dataset, keys, file), read_engine(flags, given))
