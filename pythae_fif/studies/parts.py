"""A part of a study: computed in one go and kept as a run, so that an interrupt loses it alone.

A module of a study has a dataclass `Part`: what differs between the parts, and how one is computed.
The module's constants are not in the id: raise `SCHEMA` when one changes.
"""

__all__ = ["PARTS", "Part", "PartRecord", "PartSpec", "Tell", "results_of"]

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Literal, Protocol, TypeVar, get_type_hints

from pydantic import Field, TypeAdapter

from pythae_fif.device import default_device
from pythae_fif.runs.engines.common import cores
from pythae_fif.runs.engines.local import LocalEngine
from pythae_fif.runs.kind import Environment, Job, Kind, run_id_of
from pythae_fif.runs.provenance import provenance
from pythae_fif.runs.record import Record
from pythae_fif.studies import OnProgress, StudyOptions
from pythae_fif.studies.plan import finish
from pythae_fif.validation import Checked

SCHEMA = 1
Tell = Callable[[float], None]
"""Is told the share of a part that is done, in [0, 1]."""
ResultT = TypeVar("ResultT", covariant=True)


class Part(Protocol[ResultT]):
    """A dataclass of plain values; its class may say on which `device` it computes."""

    def compute(self, tell: Tell, where: Environment) -> ResultT:
        """The result, of dataclasses, lists and numbers, in a process of its own."""


class PartSpec(Checked):
    """What differs between the parts of a study.

    Attributes:
        study: Whose it is.
        values: Of the study's `Part`.
    """

    study: str
    values: dict[str, Any]

    @property
    def run_id(self) -> str:
        """Twelve hexadecimal digits of a hash of the specification and the schema version."""
        return run_id_of({"kind": "part", "schema": SCHEMA, **self.to_dict()})

    @property
    def folder(self) -> str:
        """`studies/<study>`."""
        return f"studies/{self.study}"


class PartRecord(Record):
    """What a part gave.

    Attributes:
        result: Plain values of what the study's `Part.compute` returns.
    """

    SCORES = frozenset({"result"})

    schema_version: Literal[1] = Field(1, alias="schema")
    result: Any


def results_of(
    parts: Mapping[str, Part[ResultT]], options: StudyOptions, on_progress: OnProgress
) -> dict[str, ResultT]:
    """The results of parts; one that has a record already is not computed again.

    Args:
        parts: Name of a part, for progress and errors -> the part.
        options: Those of the study.
        on_progress: Is told how far all of them are.

    Raises:
        RunsLeftError: Parts failed, or go on elsewhere.
    """
    specs = {
        name: PartSpec(
            study=type(part).__module__.rpartition(".")[2],
            # Without what is None, as in ids of before the field was there.
            values=TypeAdapter(type(part)).dump_python(part, mode="json", exclude_none=True),
        )
        for name, part in parts.items()
    }
    engine = options.engine or LocalEngine(cpus_per_run=cores() if len(parts) == 1 else None)
    finished = finish(PARTS, specs, options, engine, on_progress)
    return {
        name: _result(type(parts[name])).validate_python(run.record.result)
        for name, run in finished.items()
    }


def _result(part: type[Part[ResultT]]) -> TypeAdapter[ResultT]:
    return TypeAdapter(get_type_hints(part.compute)["return"])


def work(job: Job[PartSpec, PartRecord]) -> None:
    """Computes a part and writes its record."""
    spec, folder = job.spec, job.folder
    of_study: Any = import_module(f"pythae_fif.studies.{spec.study}").Part
    part = TypeAdapter(of_study).validate_python(spec.values)
    device = getattr(part, "device", default_device())
    folder.tell("running", "training")
    result = part.compute(lambda share: folder.tell("running", "training", share), job.environment)
    job.write_record(
        PartRecord(
            run_id=spec.run_id,
            result=_result(of_study).dump_python(result),
            provenance=provenance(device, job.started, folder.attempt),
        )
    )


PARTS = Kind("part", SCHEMA, PartSpec.model_validate, PartRecord, work)
"""Parts of the studies that have no kind of run of their own."""
