"""A run belongs to one process at a time, on whichever machine: it claims the run's folder.

A claim is a file `claim-<random>` in the folder. Whoever wants the run writes one and then looks
for others: of two that come at once at least one sees the other, and steps back. No file is ever
taken over, so none can be taken from a living owner by mistake.

An owner that died leaves its file behind. On the machine where it ran that is known at once, since
it held a lock on the file that ended with it. Elsewhere its file is watched: a living owner changes
it every `BEAT_SECONDS`, and one that is unchanged for `LEASE_SECONDS`, by the clock of whoever
watches, is removed. An owner that stood still for so long and wakes up finds its file gone, and
gives up. Nothing depends on clocks that agree, on names of machines, or on locks across a network.
"""

__all__ = ["Claim", "ClaimPlace", "is_claimed", "machine_word", "unclaimed_first"]

import contextlib
import fcntl
import hashlib
import os
import platform
import random
import secrets
import threading
import time
from pathlib import Path
from typing import BinaryIO, Protocol

from pythae_fif.errors import ClaimLostError, StoreError

BEAT_SECONDS = 10.0
LEASE_SECONDS = 60.0
POLL_SECONDS = 0.5
PREFIX = "claim-"
UNKNOWN = "-"  # begins the machine's name where no lock tells whether the owner lives


class ClaimPlace(Protocol):
    """Where claims lie: a folder, or the prefix of a remote store (`remote.RemoteClaims`)."""

    def names(self) -> list[str]:
        """Names of all claims."""

    def read(self, name: str) -> str | None:
        """What a claim says; None if it is gone."""

    def create(self, name: str, text: str) -> None:
        """Makes this process's own claim."""

    def beat(self, name: str, text: str) -> bool:
        """Changes it; False if it is gone."""

    def release(self, name: str) -> None:
        """Removes this process's own claim, if it is there."""

    def remove(self, name: str) -> None:
        """Removes the claim of another, if it is there."""

    def is_dead(self, name: str, machine: str) -> bool:
        """Whether it is known at once that the owner is dead; `machine` is what its claim says."""

    def holds(self, name: str) -> bool:
        """Whether this process's own claim is still there, at this moment."""


class Claim:
    """The right to work on a run; a context manager that waits until it has it.

    Args:
        place: A run's folder, or another place of claims.

    Raises:
        StoreError: The folder does not take the claim.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, Claim(folder):
        ...     Claim(folder).acquire(wait=False), is_claimed(folder)
        (False, True)
    """

    def __init__(self, place: "str | Path | ClaimPlace") -> None:
        self.place = _LocalClaims(Path(place)) if isinstance(place, str | Path) else place
        self.name = PREFIX + secrets.token_hex(8)
        self._seen: dict[str, tuple[str, float]] = {}  # what others' claims said, and since when
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._lost = False

    def acquire(self, wait: bool = True) -> bool:
        """Claims the run; without `wait` only if nobody else does.

        Returns:
            Whether it is claimed now.
        """
        while True:
            if not self.others():
                self.place.create(self.name, self._text(0))
                if not self.others():
                    self._thread = threading.Thread(target=self._heart, daemon=True)
                    self._thread.start()
                    return True
                self.place.release(self.name)
            if not wait:
                return False
            time.sleep(POLL_SECONDS * random.uniform(0.5, 1.5))

    def release(self) -> None:
        """Gives the run free."""
        self._ended.set()
        if self._thread is not None:  # a last beat must not bring the claim back
            self._thread.join()
        self.place.release(self.name)

    def check(self) -> None:
        """Does nothing while the claim holds: looks for it, whatever time has passed.

        Raises:
            ClaimLostError: It was taken for dead and removed.
        """
        if self._lost or not self.place.holds(self.name):
            self._lost = True
            raise ClaimLostError(
                f"this process stood still for more than {LEASE_SECONDS:.0f} s and lost its claim "
                f"to the run: another may have it now"
            )

    def others(self, clean: bool = True) -> list[str]:
        """The claims of others that are not known to be dead; to `clean` removes those that are."""
        living, now = [], time.monotonic()
        for name in self.place.names():
            text = None if name == self.name else self.place.read(name)
            if text is None:
                continue
            before, since = self._seen.get(name, (None, now))
            self._seen[name] = (text, since if text == before else now)
            expired = text == before and now - since > LEASE_SECONDS
            if not expired and not self.place.is_dead(name, text.partition(" ")[0]):
                living.append(name)
            elif clean:
                self.place.remove(name)
        return living

    def _text(self, beat: int) -> str:
        return (
            f"{machine_word(self.place)} {beat:08d}\n"  # of one length: a full disk takes it, too
        )

    def _heart(self) -> None:
        beat = 0
        while not self._ended.wait(BEAT_SECONDS):
            beat += 1
            try:
                self._lost = not self.place.beat(self.name, self._text(beat))
            except Exception:  # of a network, perhaps: the next may succeed within the lease
                continue
            if self._lost:
                return

    def __enter__(self) -> "Claim":
        try:
            self.acquire()
        except BaseException:
            self.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def is_claimed(run_dir: str | Path) -> bool:
    """Whether a process that is not known to be dead works on a run at the moment."""
    return bool(Claim(run_dir).others(clean=False))


def is_at_work_here(run_dir: Path) -> bool:
    """Whether a process that this machine has started since it booted works on a run."""
    claim = Claim(run_dir)
    here = f"{machine_word(claim.place)} "
    return any((claim.place.read(n) or "").startswith(here) for n in claim.others(clean=False))


def unclaimed_first(run_dirs: list[Path]) -> Path:
    """The first run that nobody works on; if there is none, the first of all.

    An engine starts this one next, so that two drivers with one plan share its runs, and either
    waits for what the other has only when nothing else is left.
    """
    return next((run_dir for run_dir in run_dirs if not is_claimed(run_dir)), run_dirs[0])


class _LocalClaims:
    """Claims as files of a folder, each locked by its owner where the system has such locks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._locked: BinaryIO | None = None

    def names(self) -> list[str]:
        try:
            return [n for n in os.listdir(self.folder) if n.startswith(PREFIX) and "." not in n]
        except FileNotFoundError:
            return []

    def read(self, name: str) -> str | None:
        try:
            return (self.folder / name).read_text()
        except OSError:
            return None

    def create(self, name: str, text: str) -> None:
        hidden = self.folder / f"{name}.tmp"  # until it is locked
        try:
            file = open(hidden, "xb", buffering=0)  # noqa: SIM115 - open as long as the claim holds
            locked = _lock(file.fileno())
            file.write((text if locked else UNKNOWN + text[len(UNKNOWN) :]).encode())
            os.fsync(file.fileno())
            if locked:
                self._locked = file
            else:
                file.close()
            os.rename(hidden, self.folder / name)
        except OSError as error:
            with contextlib.suppress(OSError):
                hidden.unlink()
            raise StoreError(f"cannot claim the run in {self.folder}: {error.strerror}") from error

    def beat(self, name: str, text: str) -> bool:
        machine, _, count = text.partition(" ")
        try:
            with open(self.folder / name, "r+b", buffering=0) as file:
                file.seek(len(machine) + 1)
                file.write(count.encode())
                os.fsync(file.fileno())
        except FileNotFoundError:
            return False
        return True

    def release(self, name: str) -> None:
        self.remove(name)
        if self._locked is not None:
            self._locked.close()

    def remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self.folder / name)

    def holds(self, name: str) -> bool:
        if self._locked is None:
            return (self.folder / name).exists()
        return os.fstat(self._locked.fileno()).st_nlink > 0

    def is_dead(self, name: str, machine: str) -> bool:
        if machine != machine_word(self):
            return False
        for mode in ("r+b", "rb"):  # some systems lock what is open for writing alone
            try:
                with open(self.folder / name, mode) as file:
                    return _lock(file.fileno())
            except OSError:
                continue
        return False


def _lock(file: int) -> bool:
    """Locks an open file until it is closed or the process ends; whether that succeeded."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def machine_word(place: object) -> str:
    """A word that all processes of a machine, until it is started again, and no others say.

    It is a hash: no claim tells where it was made.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return secrets.token_hex(8)  # nobody else says it: the lease alone
    said = (boot, platform.node(), getattr(place, "scope", ""))
    return hashlib.sha256(" ".join(said).encode()).hexdigest()[:16]
