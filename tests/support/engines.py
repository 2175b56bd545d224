"""An engine for tests: every run in this process, where a monkeypatch reaches it."""

from collections import deque

from pythae_fif.runs.launch import Ended
from pythae_fif.runs.local import EngineOptions
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import Task, line_of, work


class InProcess(EngineOptions):
    """Runs one after another; `done` are the specifications that it was asked for."""

    done: list = []  # noqa: RUF012 - pydantic copies it

    def check(self, root) -> None:
        """Nothing is needed."""

    def execute(self, waiting: deque[Task]):
        while waiting:
            task = waiting.popleft()
            self.done.append(task.spec)
            try:
                work(task.spec, Store(task.root), task.command)
                yield Ended(task)
            except Exception as error:
                yield Ended(task, line_of(error))
