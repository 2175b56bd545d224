"""The engines by name: what each takes, and how it is made."""

__all__ = [
    "ENGINES",
    "EngineOptions",
    "LocalOptions",
    "RayOptions",
    "SlurmOptions",
    "build_engine",
    "minutes",
]

from argparse import ArgumentTypeError
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from pythae_fif.errors import ConfigError, importing
from pythae_fif.validation import AtLeastOne, Checked, Duration, Each, Flag, Whole, parse_duration

if TYPE_CHECKING:
    from pythae_fif.runs.engines.common import Engine


def _numbers(text: str) -> list[int]:
    """`0,1` as numbers."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not I,J") from None


def _pair(text: str) -> tuple[str, str | int]:
    """`KEY=VALUE` as the two; a value of digits is a number."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, int(value) if value.isdecimal() else value


class EngineOptions(Checked):
    """Where and how runs are executed, of every engine; no result depends on it.

    Attributes:
        cpus_per_run: Cores and threads of a run; None for a fair share.
        run_timeout: A run that tells nothing new for so long, neither an epoch nor a stage, is
            ended and counts as failed; None for never.
    """

    cpus_per_run: Annotated[AtLeastOne | None, Flag("cores and threads of a run", "N")] = None
    run_timeout: Annotated[Duration | None, Flag("end a run silent for 1h, 90min", "TIME")] = None

    @property
    def timeout_seconds(self) -> float | None:
        """`run_timeout` in seconds."""
        return None if self.run_timeout is None else parse_duration(self.run_timeout)


class LocalOptions(EngineOptions):
    """This machine.

    Attributes:
        gpus: The GPUs in use, counted among the visible ones; all if None.
        runs_per_gpu: Runs at once on a GPU.
    """

    gpus: Annotated[Each[Whole] | None, Flag("visible GPUs to use", "I,J", _numbers)] = None
    runs_per_gpu: Annotated[AtLeastOne, Flag("runs at once on a GPU", "N")] = 1


class RayOptions(EngineOptions):
    """A Ray cluster.

    Attributes:
        runs_per_gpu: Runs at once on a GPU.
        ray_address: ``local`` for a cluster that lives as long as the call, ``auto`` for the one
            that this machine belongs to, or ``ray://host:port``. None for the running one if
            there is one, else ``local``.
    """

    runs_per_gpu: Annotated[AtLeastOne, Flag("runs at once on a GPU", "N")] = 1
    ray_address: Annotated[str | None, Flag("auto, local or ray://HOST:PORT", "ADDRESS")] = None


class SlurmOptions(EngineOptions):
    """Slurm.

    Attributes:
        partition, time, account: Of the jobs; the time as sbatch takes it.
        sbatch: Further parameters of sbatch or submitit.
        no_wait: Submit the jobs and stop.
    """

    partition: Annotated[str | None, Flag("where the jobs go")] = None
    time: Annotated[str | None, Flag("limit of a job, such as 04:00:00; it is then requeued")] = (
        None
    )
    account: Annotated[str | None, Flag("who is charged")] = None
    sbatch: Annotated[dict[str, Any], Flag("more of sbatch's", "KEY=VALUE", _pair)] = Field(
        default_factory=dict
    )
    no_wait: Annotated[bool, Flag("submit and stop; the same again collects")] = False

    @field_validator("time", mode="before")
    @classmethod
    def _no_number(cls, value: Any) -> Any:
        if isinstance(value, int):  # YAML reads 04:00:00 as a number of base sixty
            raise ValueError("put it in quotes, as '04:00:00'")
        return value


ENGINES: dict[str, type[EngineOptions]] = {
    "local": LocalOptions,
    "ray": RayOptions,
    "slurm": SlurmOptions,
}
"""Name of an engine -> the class of its options."""


def build_engine(options: EngineOptions, results: str | Path) -> "Engine":
    """The engine of the options.

    Args:
        options: An instance of one of the classes of `ENGINES`.
        results: The results folder or URL.

    Raises:
        ConfigError: Something that it needs is not installed or not there.
    """
    if isinstance(options, RayOptions):
        with importing("ray", "--engine ray"):
            from pythae_fif.runs.engines.ray import RayEngine

        return RayEngine(**dict(options))
    if isinstance(options, SlurmOptions):
        with importing("slurm", "--engine slurm"):
            from pythae_fif.runs.engines.slurm import SlurmEngine

        return SlurmEngine(options, results)
    from pythae_fif.runs.engines.local import LocalEngine

    engine = LocalEngine(**dict(options))
    engine.slots()  # so that a wrong number is told before the data are loaded
    return engine


def minutes(limit: str) -> int:
    """A time limit as sbatch takes it, in minutes, rounded up.

    Raises:
        ConfigError: It is of none of sbatch's forms.

    Example:
        >>> minutes("90"), minutes("90:30"), minutes("04:00:00"), minutes("1-02"), minutes("1-0:30")
        (90, 91, 240, 1560, 1470)
    """
    before, dash, rest = limit.rpartition("-")
    try:
        days = int(before) if dash else 0
        parts = [int(part) for part in rest.split(":")]
        if dash:  # days-hours, -minutes, -seconds
            hours, mins, seconds = (*parts, 0, 0)[:3]
        elif len(parts) < 3:  # minutes, -seconds
            hours, (mins, seconds) = 0, (*parts, 0)[:2]
        else:
            hours, mins, seconds = parts
        total = (days * 24 + hours) * 60 + mins + (seconds > 0)
        if min(days, *parts, total - 1) < 0 or len(parts) > 3:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"--time {limit}: needs minutes, hours:minutes:seconds or days-hours, as sbatch does"
        ) from None
    return total
