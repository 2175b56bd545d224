"""An engine for tests: every run in this process, where a monkeypatch reaches it."""

from pathlib import Path

from pythae_fif.errors import StoreError
from pythae_fif.runs.engines.common import Batch, OnChange, Outcome, settle
from pythae_fif.runs.execute import execute
from pythae_fif.runs.folder import Status


class InProcess:
    """Runs one after another; `done` are the folders of those that it was asked for."""

    parting = ""

    def __init__(self) -> None:
        self.done: list[Path] = []

    def run_all(self, batch: Batch, on_change: OnChange) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for run_dir in batch.run_dirs:
            if batch.is_lost(outcomes):
                break
            self.done.append(run_dir)
            try:
                batch.prepare(run_dir)
                on_change({run_dir: Status.read(run_dir)}, outcomes)
                execute(run_dir, batch.kind, batch.lent)
            except StoreError:
                raise
            except Exception:
                pass  # it is in the status
            outcomes.append(settle(batch, run_dir, "finished", ""))
            on_change({}, outcomes)
        return outcomes


class Refuses(InProcess):
    """An engine for plans whose runs are all finished: nothing may be asked of it."""

    def run_all(self, batch: Batch, on_change: OnChange) -> list[Outcome]:
        dirs = batch.run_dirs
        raise AssertionError(f"{len(dirs)} runs were to be done again: {dirs[0]}")
