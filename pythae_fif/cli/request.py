"""What a benchmark is asked for: the flags of `run`, read with the YAML files that they name."""

__all__ = ["Request", "RunFlags", "read_request", "run_parser", "shard_of"]

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pythae_fif import __version__, studies
from pythae_fif.benchmark.config import Experiment, experiment_file, load_experiment
from pythae_fif.benchmark.yaml_files import names_in, read_yaml
from pythae_fif.cli.engine import add_engine_flags, read_engine
from pythae_fif.cli.parsing import CommonFlags, Parser, add_flags, flags_in
from pythae_fif.data.names import TableOptions
from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.runs.engines.options import EngineOptions
from pythae_fif.validation import AtLeastOne, Flag, read_checked


class RunFlags(CommonFlags):
    """The flags of `run` beside the keys of an experiment and the options of its engine."""

    results: Annotated[str, Flag("folder or URL of the results (default: results)", "DIR")] = (
        "results"
    )
    dataset: Annotated[str | None, Flag("a data set of `list` (default: digits)")] = None
    table: Annotated[int | None, Flag("models and settings of the paper's table 2", "N")] = None
    config: Annotated[str | None, Flag("YAML file of an experiment's keys", "FILE")] = None
    extractor_weights: Annotated[str | None, Flag("file of the extractor's weights", "FILE")] = None
    max_failures: Annotated[AtLeastOne | None, Flag("stop after N failed runs", "N")] = None
    dry_run: Annotated[bool, Flag("show the plan and estimate its time, and stop")] = False
    shard: Annotated[str, Flag("the I-th of N parts of the plan, I from 0", "I/N")] = "0/1"
    open: Annotated[bool, Flag("show the page in the browser when all is done")] = False
    tensorboard: Annotated[bool, Flag("losses as TensorBoard events in every run")] = False


@dataclass(frozen=True)
class Request:
    """A benchmark as it is asked for.

    Attributes:
        flags: Those that are neither of the experiment nor of the engine.
        experiment: What to run.
        shard: Which part of its plan.
        engine: Where.
        usual_samplers: Whether the samplers are those of the data set, which nobody chose.
    """

    flags: RunFlags
    experiment: Experiment
    shard: slice
    engine: EngineOptions
    usual_samplers: bool


def run_parser(description: str, epilog: str = "") -> Parser:
    """The parser of `run`; a flag that is not given leaves the value of the YAML file."""
    parser = Parser("run", description, epilog)
    parser.usage = f"{parser.prog} [flags]"  # they fill a page
    parser.add_argument("--version", action="version", version=f"pythae-fif {__version__}")
    of_tables = flags_in(TableOptions)
    others = flags_in(Experiment).keys() - of_tables.keys()
    add_flags(parser.add_argument_group("experiment"), Experiment, others)
    add_flags(parser.add_argument_group("a table of your own"), TableOptions)
    add_flags(parser, RunFlags)
    add_engine_flags(parser)
    return parser


def read_request(given: Mapping[str, Any]) -> Request:
    """The request of the flags that are given.

    Args:
        given: What :func:`run_parser` read: field -> value.

    Raises:
        ConfigError: A flag, or a key of a YAML file, that is unknown or out of range.
    """
    values = {name: value for name, value in given.items() if name in RunFlags.model_fields}
    flags = read_checked(RunFlags, values, "run", flags=given)
    keys = {name: value for name, value in given.items() if name in flags_in(Experiment)}
    own = read_yaml(Path(flags.config)) if flags.config else {}
    experiment = _experiment(flags, keys, own.get("dataset"))
    usual = "samplers" not in {*keys, *own}
    return Request(flags, experiment, shard_of(flags.shard), read_engine(given), usual)


def shard_of(text: str) -> slice:
    """The slice of a plan that is shard `i/n`, i from 0 to n - 1, as array jobs count.

    The shards are disjoint and their union is the plan. Neighbours in a plan are alike, so that
    taking turns shares out long and short runs.

    Raises:
        ConfigError: It is not of that form, or i is not below n.

    Example:
        >>> ["a", "b", "c", "d", "e"][shard_of("1/2")]
        ['b', 'd']
    """
    left, slash, right = text.partition("/")
    if not (slash and left.isdecimal() and right.isdecimal() and int(left) < int(right)):
        last = (
            f"0/{right} to {int(right) - 1}/{right}" if right.isdecimal() and int(right) else "0/4"
        )
        raise ConfigError(f"--shard {text}: needs i/n with i from 0 to n - 1, such as {last}")
    return slice(int(left), None, int(right))


def _experiment(flags: RunFlags, keys: Mapping[str, Any], own_dataset: Any) -> Experiment:
    """The experiment of the flags, the YAML file that they name, and that of the data set.

    Args:
        flags, keys: Those that are given.
        own_dataset: What the user's file has as data set, if it has one.
    """
    file: str | Path | None = flags.config
    dataset = flags.dataset
    if flags.table is not None:
        if file is not None:
            raise ConfigError("--table and --config: give one of the two, each is a file of keys")
        file = experiment_file(flags.table)
        dataset = dataset or "celeba"
    if dataset is None:
        dataset = own_dataset or "digits"
    known = [*names_in(), *studies.DATASETS]
    where = "--dataset" if flags.dataset else f"{flags.config}: dataset"
    if dataset not in known:
        raise ConfigError(f"{where} {dataset!r} is unknown: {did_you_mean(dataset, known)}")
    if dataset in studies.DATASETS:
        command = f"study {studies.DATASETS[dataset]} --dataset {dataset}"
        raise ConfigError(f"{where} {dataset!r} is of a study: run `{command}`")
    return load_experiment(dataset, file, keys)
