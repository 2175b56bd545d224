"""The engine of a call and its options, from flags and from a YAML file."""

__all__ = ["EngineOptions", "add_engine_flags", "build_engine", "engine_options"]

import argparse
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pythae_fif.benchmark.yaml_files import build_checked, read_yaml
from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.runs.engines.common import Engine
from pythae_fif.runs.engines.local import LocalEngine

TAKERS = {
    "gpus": ("local",),
    "runs_per_gpu": ("local", "ray"),
    "ray_address": ("ray",),
    **dict.fromkeys(("partition", "time", "account", "sbatch", "no_wait"), ("slurm",)),
}
"""The engines that take an option; all take one that is not here."""


@dataclass(frozen=True)
class EngineOptions:
    """Where and how runs are executed; no result depends on it.

    Attributes:
        engine: ``local``, ``ray`` or ``slurm``.
        gpus: The local GPUs in use, counted among the visible ones; all if None.
        runs_per_gpu: Runs at once on a GPU.
        cpus_per_run: Cores and threads of a run; None for a fair share.
        ray_address: ``local`` for a cluster that lives as long as the call, ``auto`` for the one
            that this machine belongs to, or ``ray://host:port``. None for the running one if
            there is one, else ``local``.
        partition, time, account: Of Slurm's jobs; the time as sbatch takes it.
        sbatch: Further parameters of sbatch or submitit.
        no_wait: Submit Slurm's jobs and stop.
    """

    engine: str = "local"
    gpus: list[int] | None = None
    runs_per_gpu: int = 1
    cpus_per_run: int | None = None
    ray_address: str | None = None
    partition: str | None = None
    time: str | None = None
    account: str | None = None
    sbatch: dict[str, Any] = field(default_factory=dict)
    no_wait: bool = False


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags, named as the attributes of :class:`EngineOptions`."""
    p = parser.add_argument_group("engine", "where the runs are executed")
    p.add_argument("--engine", help="local (default), ray or slurm")
    p.add_argument("--engine-config", metavar="FILE", help="YAML file with these flags as keys")
    p.add_argument("--gpus", metavar="I,J", type=_numbers, help="local: visible GPUs to use")
    p.add_argument("--runs-per-gpu", type=int, metavar="N", help="local, ray: runs at once on one")
    p.add_argument("--cpus-per-run", type=int, metavar="N", help="cores and threads of a run")
    p.add_argument("--ray-address", metavar="ADDRESS", help="ray: auto, local or ray://HOST:PORT")
    p.add_argument("--partition", help="slurm: where the jobs go")
    p.add_argument("--time", help="slurm: limit of a job, such as 04:00:00; it is then requeued")
    p.add_argument("--account", help="slurm: who is charged")
    p.add_argument(
        "--sbatch", nargs="+", type=_pair, metavar="KEY=VALUE", help="slurm: more of sbatch's"
    )
    p.add_argument(
        "--no-wait", action="store_true", help="slurm: submit and stop; the same again collects"
    )


def engine_options(flags: argparse.Namespace) -> EngineOptions:
    """The options of the YAML file, overlaid by the flags that are given.

    Raises:
        ConfigError: An unknown engine, key or value, or an option of another engine.
    """
    names = [option.name for option in dataclasses.fields(EngineOptions)]
    given = {name: getattr(flags, name) for name in names}
    given = {
        name: value for name, value in given.items() if value is not None and value is not False
    }
    if "sbatch" in given:
        given["sbatch"] = dict(given["sbatch"])
    in_file: dict[str, Any] = {}
    if flags.engine_config is not None:
        in_file = read_yaml(Path(flags.engine_config))
        if isinstance(in_file.get("time"), int):  # YAML reads 04:00:00 as a number of base sixty
            raise ConfigError(f"{flags.engine_config}: time: put it in quotes, as '04:00:00'")
    options = build_checked(EngineOptions, {**in_file, **given}, str(flags.engine_config))
    if options.engine not in ENGINES:
        raise ConfigError(f"--engine {options.engine!r}: {did_you_mean(options.engine, ENGINES)}")
    for name in {**in_file, **given}:
        if options.engine not in TAKERS.get(name, ENGINES):
            where = (
                f"--{name.replace('_', '-')}" if name in given else f"{flags.engine_config}: {name}"
            )
            raise ConfigError(
                f"{where} is for engine {' or '.join(TAKERS[name])}, not {options.engine}"
            )
    for name in ("runs_per_gpu", "cpus_per_run"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: at least 1 is needed")
    gpus = options.gpus
    if gpus is not None and (not gpus or len(set(gpus)) < len(gpus)):
        raise ConfigError(f"--gpus {gpus}: give at least one, and none twice")
    return options


def build_engine(options: EngineOptions, results: str | Path) -> Engine:
    """The engine of the options.

    Args:
        options: What :func:`engine_options` gave.
        results: The results folder or URL.

    Raises:
        ConfigError: Something that it needs is not installed or not there.
    """
    return ENGINES[options.engine](options, results)


def _local(options: EngineOptions, results: str | Path) -> Engine:
    engine = LocalEngine(options.gpus, options.runs_per_gpu, options.cpus_per_run)
    engine.slots()  # so that a wrong number is told before the data are loaded
    return engine


def _ray(options: EngineOptions, results: str | Path) -> Engine:
    try:
        from pythae_fif.runs.engines.ray import RayEngine
    except ModuleNotFoundError as error:
        raise _missing("ray", error) from error
    return RayEngine(options.ray_address, options.runs_per_gpu, options.cpus_per_run)


def _slurm(options: EngineOptions, results: str | Path) -> Engine:
    try:
        from pythae_fif.runs.engines.slurm import SlurmEngine
    except ModuleNotFoundError as error:
        raise _missing("slurm", error) from error
    return SlurmEngine(options, results)


def _missing(extra: str, error: ModuleNotFoundError) -> ConfigError:
    return ConfigError(
        f"--engine {extra} needs the package {error.name}: pip install 'pythae-fif[{extra}]'"
    )


ENGINES = {"local": _local, "ray": _ray, "slurm": _slurm}


def _numbers(text: str) -> list[int]:
    """`0,1` as numbers."""
    return [int(number) for number in text.split(",")]


def _pair(text: str) -> tuple[str, str | int]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, int(value) if value.isdecimal() else value
