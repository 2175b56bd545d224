"""An engine for tests, which executes runs in the process of the test."""

from pythae_fif.errors import format_error
from pythae_fif.runs.launch import Engine
from pythae_fif.runs.worker import execute_run


class InProcess(Engine):
    """Executes runs one after another in this process, where a monkeypatch has an effect.

    Attributes:
        executed: The specifications that were passed to the engine.
    """

    executed: list = []  # noqa: RUF012 - pydantic copies it

    def parallel_runs(self):
        return 1

    def describe(self):
        return "this process, 1 run at once"

    def execute(self, specs, store, command):
        for spec in specs:
            self.executed.append(spec)
            try:
                execute_run(spec, store, command)
                yield spec, ""
            except Exception as error:
                yield spec, format_error(error)
