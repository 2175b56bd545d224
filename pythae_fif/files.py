"""Files written whole, set aside when damaged, locked and digested: for the whole package."""

import contextlib
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
from typing import Any, BinaryIO

import filelock

from pythae_fif.errors import StoreError, format_error

logger = logging.getLogger(__name__)

TEMPORARY_SUFFIX = ".tmp"


@contextlib.contextmanager
def os_errors_as_store_error(what: str) -> Iterator[None]:
    """The block reads or writes: an OSError becomes the StoreError `cannot <what>: <why>`."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"cannot {what}: {error.strerror or error}") from error
    except RuntimeError as error:  # torch's, which passes on no OSError
        raise StoreError(f"cannot {what}: is the disk full? ({format_error(error)})") from error


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file so that, whenever it is cut off, the old or the new one is there, whole.

    Its folder exists; `write` is given the open file. A StoreError says that the disk does not take
    it.
    """
    temporary = _temporary_path(path)
    try:
        with os_errors_as_store_error(f"write {path}"):
            with open(temporary, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:  # on a full disk it would be in the way
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _temporary_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which is renamed to `path` at the end: that is there whole or not at all. A
    StoreError says that the folder or the disk does not take it."""
    temporary = _temporary_path(path)
    try:
        with os_errors_as_store_error(f"write {path}"):
            temporary.mkdir(parents=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Makes the folder and writes the file whole, unless it holds that content already."""
    with os_errors_as_store_error(f"write {path}"):
        if path.is_file() and path.read_bytes() == content:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(content))


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file as :func:`write_bytes` does."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode())


def read_json(path: Path) -> Any:
    """The content of a JSON file, or None where there is no file or it is not whole JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def quarantine(path: Path, why: Exception | str) -> None:
    """Renames what must not be used to `<name>.corrupt`, or `.corrupt1` and on, with a warning."""
    asides = (path.with_name(f"{path.name}.corrupt{number or ''}") for number in count())
    aside = next(free for free in asides if not free.exists())
    with os_errors_as_store_error(f"set aside {path}, which is damaged"):
        os.replace(path, aside)
    why = why if isinstance(why, str) else format_error(why)
    logger.warning("%s is not used (%s): set aside as %s", path, why, aside.name)


def safe_name(name: str) -> str:
    """A name as one part of a path: what may lead elsewhere, or a shell may read, is _."""
    return re.sub(r"^\.+$|[^\w.=+-]+", "_", name)


def digest(*parts: object) -> str:
    """Sixteen hexadecimal digits that identify the parts: bytes, or others as their `str`."""
    sha = hashlib.sha256()
    for part in parts:
        raw = part if isinstance(part, bytes) else str(part).encode()
        sha.update(len(raw).to_bytes(8, "big") + raw)
    return sha.hexdigest()[:16]


def checksum(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits."""
    state = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            state.update(block)
    return state.hexdigest()


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Holds the lock of a file, which may not exist; the system frees that of a dead process."""
    with contextlib.ExitStack() as held:
        with os_errors_as_store_error(f"lock {path}"):
            held.enter_context(filelock.FileLock(path.with_name(f".{path.name}.lock")))
        yield
