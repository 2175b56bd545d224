"""Files written whole, set aside when damaged, built once and digested: for the whole package."""

__all__ = [
    "cached",
    "checksum",
    "digest",
    "json_text",
    "locked",
    "read_json",
    "require_writable",
    "safe_name",
    "set_aside",
    "stored",
    "whole_folder",
    "write_bytes",
    "write_json",
    "write_text",
    "write_whole",
]

import contextlib
import glob
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import filelock

from pythae_fif.errors import StoreError, first_line

logger = logging.getLogger(__name__)

T = TypeVar("T")

TEMPORARY = ".tmp"


@contextlib.contextmanager
def stored(what: str) -> Iterator[None]:
    """The block reads or writes: an OSError becomes the StoreError `cannot <what>: <why>`."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"cannot {what}: {error.strerror or error}") from error


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file so that, whenever it is cut off, the old or the new one is there, whole.

    Args:
        path: The file to make or replace; its folder exists.
        write: Writes the content to the open file that it is given.

    Raises:
        StoreError: The folder or the disk does not take the file.
    """
    temporary = _beside(path)
    try:
        with stored(f"write {path}"):
            with open(temporary, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:  # on a full disk it would be in the way
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """A path that is nobody else's, to be renamed to this one."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY}")


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which is renamed to `path` at the end: that is there whole or not at all.

    One process at a time makes it, and removes what a killed one has left of it. A StoreError says
    that the folder or the disk does not take it.
    """
    temporary = _beside(path)
    try:
        with stored(f"write {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            for left in path.parent.glob(f"{glob.escape(path.name)}.*{TEMPORARY}"):
                shutil.rmtree(left, ignore_errors=True)
            temporary.mkdir()
            yield temporary
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole, after its folder, and not at all if it holds that content already."""
    with stored(f"write {path}"):
        if path.is_file() and path.read_bytes() == content:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    """Writes a text file as :func:`write_bytes` does."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file as :func:`write_bytes` does."""
    write_text(path, json_text(content))


def json_text(content: Any) -> str:
    """JSON as all files of this package have it."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """The content of a JSON file, or None where there is no file or it is not whole JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def require_writable(folder: Path, advice: str) -> None:
    """Makes a folder and writes to it, before anything is computed for it.

    Raises:
        StoreError: It cannot be made or written; the line ends in the advice.
    """
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written ({error.strerror}): {advice}") from error


def set_aside(path: Path) -> Path:
    """Renames a damaged file or folder to `<name>.corrupt`, or `.corrupt1` and on; the new path."""
    asides = (path.with_name(f"{path.name}.corrupt{number or ''}") for number in count())
    aside = next(free for free in asides if not free.exists())
    with stored(f"set aside {path}, which is damaged"):
        os.replace(path, aside)
    return aside


def safe_name(name: str) -> str:
    """A name as one part of a path: what may lead elsewhere, or means something to a shell, is _.

    Example:
        >>> safe_name("mnist-a/../../x"), safe_name(".."), safe_name("FIF β=1.5")
        ('mnist-a_.._.._x', '_', 'FIF_β=1.5')
    """
    return re.sub(r"^\.+$|[^\w.=+-]+", "_", name)


def digest(*parts: object) -> str:
    """Sixteen hexadecimal digits that identify the parts: bytes as they are, others as their `str`.

    Example:
        >>> digest("mnist", 3) == digest("mnist", 3) != digest("mnist", 4)
        True
    """
    sha = hashlib.sha256()
    for part in parts:
        raw = part if isinstance(part, bytes) else str(part).encode()
        sha.update(len(raw).to_bytes(8, "big") + raw)
    return sha.hexdigest()[:16]


def checksum(path: Path, algorithm: str = "sha256") -> str:
    """A checksum of a file in hexadecimal digits, SHA-256 if not told otherwise."""
    state = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(2**20):
            state.update(block)
    return state.hexdigest()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of a file, which may not exist; the system frees that of a dead process.

    On a file system without locks the block runs without one.
    """
    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
    with stored(f"lock {path}"), contextlib.suppress(NotImplementedError):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def cached(
    path: Path,
    *,
    read: Callable[[Path], T],
    build: Callable[[], T],
    write: Callable[[T, BinaryIO], object],
) -> T:
    """The value in a file, or, where there is none that can be read, a new one stored there.

    Processes may do this at once: each sees a whole file or none, and one builds it while the
    others wait. A damaged file is set aside and built anew.

    Args:
        path: The file; its folder is made.
        read: Reads a value into the host's memory. Any exception but an OSError and a MemoryError,
            which are of the machine, means that the file is damaged.
        build: Computes the value.
        write: Writes a value to an open file.

    Raises:
        StoreError: The folder or the file cannot be opened, written or renamed.
    """
    with stored(f"make {path.parent}"):
        path.parent.mkdir(parents=True, exist_ok=True)
    found = _read_cached(path, read, alone=False)
    if found is not None:
        return found
    with locked(path):
        found = _read_cached(path, read, alone=True)  # another process may have built it
        if found is not None:
            return found
        value = build()
        write_whole(path, lambda file: write(value, file))
        return value


def _read_cached(path: Path, read: Callable[[Path], T], *, alone: bool) -> T | None:
    """What the file holds, or None; who is alone with a damaged one sets it aside."""
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"cache file {path}: {error}; choose another cache folder") from error
    except MemoryError:
        raise
    except Exception as error:
        if alone:
            line, aside = first_line(error), set_aside(path)
            logger.warning("%s cannot be read (%s): set aside as %s", path, line, aside.name)
        return None
