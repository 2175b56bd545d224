"""Runs of another kind than the benchmark's, which take no time and go wrong as asked.

Stores, engines and `verify` are tested with them, which shows that those know of no benchmark.
"""

import dataclasses
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from pythae_fif.errors import FIFError
from pythae_fif.runs.kind import Environment, Job, Kind, run_id_of
from pythae_fif.runs.provenance import provenance
from pythae_fif.runs.record import Record
from pythae_fif.runs.store import Store

ENVIRONMENT = Environment(offline=True)
ONCE = ".once"
"""Name of a file in a run's folder, whose content is what to do at the next start alone."""
SEEN = "seen.txt"
"""Name of the file of the deed `look around`."""


@dataclass(frozen=True)
class TaskSpec:
    """What to do.

    Attributes:
        seed: Tells runs apart.
        deed: A name of `DEEDS`.
        asked: Of what the record shall hold answers.
    """

    seed: int = 0
    deed: str = "nothing"
    asked: tuple[str, ...] = ("a",)

    folder = "tasks"

    @property
    def run_id(self) -> str:
        return run_id_of({"seed": self.seed, "deed": self.deed})

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "asked": list(self.asked)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TaskSpec":
        return cls(**{**values, "asked": tuple(values["asked"])})


class TaskRecord(Record):
    """Name of what was asked -> the answer."""

    schema_version: Literal[1] = Field(1, alias="schema")
    answers: dict[str, int]


def _sleep(job: "TaskJob") -> None:
    """Goes on until it is stopped, as a training does."""
    while True:
        job.folder.tell("running", "training", 0.5)
        time.sleep(0.01)


def _hang(job: "TaskJob") -> None:
    """Says no more, as a training that waits for ever."""
    while True:
        time.sleep(60)


def _nap(job: "TaskJob") -> None:
    time.sleep(0.2)


def _look_around(job: "TaskJob") -> None:
    """Writes which GPUs the run's process sees and how many threads it has."""
    seen = f"{os.environ['CUDA_VISIBLE_DEVICES']}/{torch.get_num_threads()}"
    job.folder.write(SEEN, lambda file: file.write(seen.encode()))


def _fail(job: "TaskJob") -> None:
    raise ValueError(f"broken in {job.folder.path}/model\nsecond line")


def _partly(job: "TaskJob") -> None:
    _answer(job, job.spec.asked[:1])
    raise FIFError("half of it is missing")


def _exit(job: "TaskJob") -> None:
    os._exit(0)


def _exit_by_3(job: "TaskJob") -> None:
    os._exit(3)


DEEDS = {
    "nothing": lambda job: None,
    "nap": _nap,
    "sleep": _sleep,
    "hang": _hang,
    "look around": _look_around,
    "fail": _fail,
    "partly": _partly,
    "exit": _exit,
    "exit by 3": _exit_by_3,
}


def _work(job: "TaskJob") -> None:
    """Does the deed, then writes a picture, a log and the record."""
    once = job.folder.path / ONCE
    deed = job.spec.deed
    if once.exists():
        deed = once.read_text()
        once.unlink()
    job.folder.tell("running", "training")
    DEEDS[deed](job)
    _answer(job, job.spec.asked)


def _answer(job: "TaskJob", names: tuple[str, ...]) -> None:
    for name in ("model/weights", "picture.png", "log.jsonl"):
        job.folder.path.joinpath(name).parent.mkdir(exist_ok=True)
        job.folder.write(name, lambda file, name=name: file.write(f"{name} {job.spec}".encode()))
    before = job.before.answers if job.before else {}
    job.write_record(
        TaskRecord(
            run_id=job.spec.run_id,
            answers={name: before.get(name, job.spec.seed) for name in (*before, *names)},
            provenance=provenance("cpu", job.started, job.folder.attempt),
        )
    )


TaskJob = Job[TaskSpec, TaskRecord]


class _Tasks(Kind[TaskSpec, TaskRecord]):
    def answers(self, spec: TaskSpec, record: TaskRecord) -> bool:
        return set(spec.asked) <= set(record.answers)

    def joined(self, before: TaskSpec, asked: TaskSpec) -> TaskSpec:
        names = dict.fromkeys((*before.asked, *asked.asked))
        return dataclasses.replace(asked, asked=tuple(names))


TASKS = _Tasks("tasks", 1, TaskSpec.from_dict, TaskRecord, _work)


def task_store(root: Path | str) -> Store[TaskSpec, TaskRecord]:
    return Store(root, TASKS)


def prepared(store: Store[TaskSpec, TaskRecord], *specs: TaskSpec) -> list[Path]:
    return [store.prepare(spec, ENVIRONMENT) for spec in specs]
