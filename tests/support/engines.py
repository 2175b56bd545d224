"""An engine for tests: every run in this process, where a monkeypatch reaches it."""

from pythae_fif.errors import format_error
from pythae_fif.runs.launch import Engine
from pythae_fif.runs.worker import execute_run


class InProcess(Engine):
    """Runs one after another; `done` are the specifications that it was asked for."""

    done: list = []  # noqa: RUF012 - pydantic copies it

    def execute(self, specs, store, command):
        for spec in specs:
            self.done.append(spec)
            try:
                execute_run(spec, store, command)
                yield spec, ""
            except Exception as error:
                yield spec, format_error(error)
