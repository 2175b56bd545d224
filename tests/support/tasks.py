"""Runs that take no time and fail on request.

Stores, engines and `verify` are tested with them, which shows that these do not depend on the
benchmark.
"""

import os
import time
from typing import ClassVar

import torch

from pythae_fif.errors import FIFError
from pythae_fif.runs.store import Spec, Store
from pythae_fif.runs.worker import Run

NEXT_ACTION = ".once"
"""File in a run's folder with the action of the next start only."""
RESOURCES = "seen.txt"
"""File in which the action `report resources` writes what it sees."""


class TaskSpec(Spec):
    """The specification of a task, which is its own job.

    Attributes:
        seed: Distinguishes runs.
        action: A key of `ACTIONS`.
        records: Names of the records that the run writes.
    """

    kind: ClassVar[str] = "tasks"
    fields_outside_id: ClassVar[frozenset[str]] = frozenset({"records"})

    seed: int = 0
    action: str = "nothing"
    records: list[str] = ["a"]  # noqa: RUF012 - pydantic copies it

    @property
    def folder(self) -> str:
        return "tasks"

    @property
    def spec(self) -> "TaskSpec":
        return self

    @property
    def title(self) -> str:
        return self.folder

    def is_done(self, store: Store) -> bool:
        return store.has_records(self, {f"{name}.json": int for name in self.records})

    def execute(self, run: Run) -> None:
        """Takes the action, then writes files and the missing records."""
        action = self.action
        next_action = run.folder / NEXT_ACTION
        if next_action.exists():
            action = next_action.read_text()
            next_action.unlink()

        run.report("training")
        ACTIONS[action](run)
        write_records(run, self.records)


def write_records(run: Run, names: list[str]) -> None:
    """Writes a model, and for each missing record a picture and the record."""
    weights = run.write("model/weights", f"weights of {run.spec.run_id}".encode())
    for name in names:
        if run.load(f"{name}.json", int) is None:
            picture = run.write(f"{name}.png", f"picture of {run.spec.run_id}".encode())
            run.save(f"{name}.json", run.spec.seed, weights | picture)


def _sleep(run: Run) -> None:
    """Never ends, but can be stopped like a training."""
    while True:
        run.report("training", 0.5)
        time.sleep(0.01)


def _report_resources(run: Run) -> None:
    """Writes which GPUs and how many threads the run's process has."""
    resources = f"{os.environ['CUDA_VISIBLE_DEVICES']}/{torch.get_num_threads()}"
    run.write(RESOURCES, resources.encode())


def _fail(run: Run) -> None:
    raise ValueError(f"broken in {run.folder}/model\nsecond line")


def _fail_after_first_record(run: Run) -> None:
    write_records(run, run.spec.records[:1])
    raise FIFError("half of it is missing")


ACTIONS = {
    "nothing": lambda run: None,
    "nap": lambda run: time.sleep(0.2),
    "sleep": _sleep,
    "report resources": _report_resources,
    "fail": _fail,
    "fail after first record": _fail_after_first_record,
    "exit": lambda run: os._exit(0),
    "exit with 3": lambda run: os._exit(3),
}
"""Name of an action -> its function."""
