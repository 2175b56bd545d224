"""An engine for tests: every run in this process, where a monkeypatch reaches it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pythae_fif.errors import StoreError
from pythae_fif.runs.engines.common import OnChange, Outcome, Prepare, no_preparation, settle
from pythae_fif.runs.execute import execute
from pythae_fif.runs.folder import Status
from pythae_fif.runs.kind import Kind


class InProcess:
    """Runs one after another; `done` are the folders of those that it was asked for."""

    parting = ""

    def __init__(self) -> None:
        self.done: list[Path] = []

    def run_all(
        self,
        kind: Kind[Any, Any],
        run_dirs: Sequence[Path],
        on_change: OnChange,
        *,
        max_failures: int | None = None,
        lent: object = None,
        prepare: Prepare = no_preparation,
    ) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for run_dir in run_dirs:
            self.done.append(run_dir)
            try:
                prepare(run_dir)
                on_change({run_dir: Status.read(run_dir)}, outcomes)
                execute(run_dir, kind, lent)
            except StoreError:
                raise
            except Exception:
                pass  # it is in the status
            outcomes.append(settle(kind, run_dir, "finished", ""))
            on_change({}, outcomes)
        return outcomes


class Refuses(InProcess):
    """An engine for plans whose runs are all finished: nothing may be asked of it."""

    def run_all(self, kind: Kind[Any, Any], run_dirs: Sequence[Path], *_: Any, **__: Any) -> Any:
        raise AssertionError(f"{len(run_dirs)} runs were to be done again: {run_dirs[0]}")
