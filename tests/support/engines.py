"""An engine for tests, which executes runs in the process of the test."""

from pythae_fif.errors import format_error
from pythae_fif.runs.launch import Engine, run_all
from pythae_fif.runs.worker import execute_run


class InProcess(Engine):
    """Executes runs one after another in this process, where a monkeypatch has an effect.

    Attributes:
        executed: The jobs that were passed to the engine.
    """

    executed: list = []  # noqa: RUF012 - pydantic copies it

    def parallel_runs(self):
        return 1

    def describe(self):
        return "this process, 1 run at once"

    def execute(self, jobs, store, command):
        for job in jobs:
            self.executed.append(job)
            try:
                execute_run(job, store, command)
                yield job, ""
            except Exception as error:
                yield job, format_error(error)


def run_open(jobs, store, engine, on_change=lambda progress: None):
    """Executes the jobs that are not done, as the commands do; returns them with their errors."""
    todo = [job for job in jobs if not job.is_done(store)]
    return run_all(todo, store, engine, on_change, done=len(jobs) - len(todo))
