"""Runs of another kind than the benchmark's, which take no time and go wrong as asked. Stores,
engines and `verify` are tested with them, which shows that those know of no benchmark."""

import os
import time
from collections.abc import Mapping
from typing import ClassVar

import torch

from pythae_fif.errors import FIFError
from pythae_fif.runs.spec import Spec
from pythae_fif.runs.worker import Run

ONCE = ".once"
"""Name of a file in a run's folder, whose content is what to do at the next start alone."""
SEEN = "seen.txt"
"""Name of the file of the deed `look around`."""


class TaskSpec(Spec):
    """What to do.

    Attributes:
        seed: Tells runs apart.
        deed: A name of `DEEDS`.
        wanted: Names of the records that are wanted.
    """

    kind: ClassVar[str] = "tasks"
    fields_outside_id: ClassVar[frozenset[str]] = frozenset({"wanted"})

    seed: int = 0
    deed: str = "nothing"
    wanted: list[str] = ["a"]  # noqa: RUF012 - pydantic copies it

    @property
    def folder(self) -> str:
        return "tasks"

    @property
    def outputs(self) -> Mapping[str, type]:
        return {f"{name}.json": int for name in self.wanted}

    def run(self, run: Run) -> None:
        """Does the deed, then writes files and the records that are not there."""
        once, deed = run.folder / ONCE, self.deed
        if once.exists():
            deed = once.read_text()
            once.unlink()
        run.report("training")
        DEEDS[deed](run)
        answer(run, self.wanted)


def answer(run: Run, names: list[str]) -> None:
    weights = run.write("model/weights", f"weights of {run.spec.run_id}".encode())
    for name in names:
        if run.load(f"{name}.json", int) is None:
            picture = run.write(f"{name}.png", f"picture of {run.spec.run_id}".encode())
            run.save(f"{name}.json", run.spec.seed, weights | picture)


def _sleep(run: Run) -> None:
    """Goes on until it is stopped, as a training does."""
    while True:
        run.report("training", 0.5)
        time.sleep(0.01)


def _look_around(run: Run) -> None:
    """Writes which GPUs the run's process sees and how many threads it has."""
    seen = f"{os.environ['CUDA_VISIBLE_DEVICES']}/{torch.get_num_threads()}"
    run.write(SEEN, seen.encode())


def _fail(run: Run) -> None:
    raise ValueError(f"broken in {run.folder}/model\nsecond line")


def _partly(run: Run) -> None:
    answer(run, run.spec.wanted[:1])
    raise FIFError("half of it is missing")


DEEDS = {
    "nothing": lambda run: None,
    "nap": lambda run: time.sleep(0.2),
    "sleep": _sleep,
    "look around": _look_around,
    "fail": _fail,
    "partly": _partly,
    "exit": lambda run: os._exit(0),
    "exit by 3": lambda run: os._exit(3),
}
