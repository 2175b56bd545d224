"""A run's folder: its files, its status, and writes that check first whose the run is."""

__all__ = ["STATUS", "RunFolder", "Status", "sealed_files", "stop_writes"]

import contextlib
import dataclasses
import faulthandler
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pythae_fif.files import (
    TEMPORARY,
    checksum,
    json_text,
    read_json,
    stored,
    write_json,
    write_whole,
)
from pythae_fif.runs.claim import PREFIX

STATUS = "status.json"
UNCLAIMED = (STATUS, "environment.json", "config.yaml", "slurm.json")
"""Files that are also written by processes that have not claimed the run."""
LITTER_SECONDS = 600
"""Age from which a temporary file is taken for the rest of a killed process."""
NOT_SEALED = (*UNCLAIMED, "result.json", "output.log")
"""Files that may change while the result stays the same, or that hold the seal. Hidden files are
not sealed either. The names count below `model/`, too: Pythae's `environment.json` there is not
sealed."""


@dataclass(frozen=True)
class Status:
    """What a run does at the moment, for the display and for the next start.

    Attributes:
        state: waiting, running, finished, failed or interrupted; empty if it was never begun.
        stage: What a running run does.
        progress: The share of it that is done, in [0, 1].
        attempt: How often it was started.
        error: One line, if it failed.
        traceback: The same for those who look into it.
    """

    state: str = ""
    stage: str = ""
    progress: float = 0.0
    attempt: int = 0
    error: str = ""
    traceback: str = ""

    @classmethod
    def read(cls, run_dir: Path) -> "Status":
        """That of a run's folder; what is missing or damaged in the file is as if never written."""
        content = read_json(run_dir / STATUS)
        found = content if isinstance(content, dict) else {}
        fields = dataclasses.fields(cls)
        kinds: dict[str, Any] = {field.name: type(field.default) for field in fields}
        kinds["progress"] = (int, float)
        return cls(**{k: v for k, v in found.items() if k in kinds and isinstance(v, kinds[k])})

    def write(self, run_dir: Path) -> None:
        """Writes it into a run's folder, without what is empty.

        Raises:
            StoreError: The folder does not take it.
        """
        content = {k: v for k, v in dataclasses.asdict(self).items() if v or k == "attempt"}
        write_json(run_dir / STATUS, content)


class RunFolder:
    """The folder of a run that this process has claimed.

    Every write checks first that the run is still this process's own, so that one that stood still
    until another took over leaves no trace.

    Args:
        path: The folder.
        check: Raises ClaimLostError once the run is another's.
        timeout: The process ends once it has told nothing for so many seconds, and writes to
            stderr where it stood; None for never.

    Attributes:
        run_id: The folder's name.
        state: As its status says.
        attempt: Number of this start, from 1.
    """

    def __init__(self, path: Path, check: Callable[[], None], timeout: float | None = None) -> None:
        self.path = path
        self.check = check
        self.run_id = path.name
        before = Status.read(path)
        self.state = before.state
        self.attempt = before.attempt + 1
        self._stage, self._told = "", 0.0
        self._timeout = timeout

    def write(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        """Writes a file of the run, whole; see :func:`~pythae_fif.files.write_whole`.

        Raises:
            ClaimLostError: The run is another's; the file stays as it was.
            StoreError: The folder does not take it.
        """
        write_whole(self.path / name, write, self.check)

    def write_json(self, name: str, content: Any) -> None:
        """Writes a JSON file of the run, whole; raises as :meth:`write`."""
        text = json_text(content).encode()
        self.write(name, lambda file: file.write(text))

    def tell(self, state: str, stage: str = "", progress: float = 0.0, **more: str) -> None:
        """Writes the status; while a stage goes on at most twice a second.

        Raises:
            ClaimLostError: The run is another's.
            StoreError: The folder does not take it.
        """
        self.check()
        if self._timeout is not None:  # needs no lock of Python's: a hanging library ends too
            faulthandler.dump_traceback_later(self._timeout, exit=True, file=2)
        now = time.monotonic()
        if (state, stage) == (self.state, self._stage) and now - self._told < 0.5:
            return
        self.state, self._stage, self._told = state, stage, now
        Status(state, stage, round(progress, 4), self.attempt, **more).write(self.path)

    def checksums(self) -> dict[str, str]:
        """Name -> SHA-256 of all files that belong to the run's record.

        Raises:
            StoreError: One cannot be read.
        """
        found = {}
        for name in sealed_files(self.path):
            with stored(f"read {self.path / name}"):
                found[name] = checksum(self.path / name)
        return found


def stop_writes(run_dir: Path) -> None:
    """Removes what those who had the run before were about to rename into place.

    So a process that stood still after its last check, and before it renamed, leaves no trace
    either: it finds nothing to rename. What others may be writing goes once it is old.
    """
    for left in run_dir.glob(f"*{TEMPORARY}"):
        with contextlib.suppress(OSError):
            of_others = left.name.startswith((*UNCLAIMED, PREFIX))
            if not of_others or time.time() - left.stat().st_mtime > LITTER_SECONDS:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def sealed_files(run_dir: Path) -> Iterator[str]:
    """Names below a run's folder of all files that belong to its record."""
    for parent, folders, files in os.walk(run_dir):
        folders[:] = sorted(name for name in folders if _is_sealed(name))
        for name in sorted(filter(_is_sealed, files)):
            yield Path(parent, name).relative_to(run_dir).as_posix()


def _is_sealed(name: str) -> bool:
    """Whether a file or folder of that name belongs to the record."""
    passing = name.startswith((".", PREFIX, "tensorboard")) or name.endswith(TEMPORARY)
    return not (passing or ".corrupt" in name or name in NOT_SEALED or name == "checkpoint.pt")
