"""Atomic writes, quarantine of damaged files, locks and checksums."""

import contextlib
import errno
import glob
import hashlib
import json
import logging
import os
import platform
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import filelock

from pythae_fif.errors import ConfigError, StoreError, format_error

logger = logging.getLogger(__name__)

TEMPORARY_SUFFIX = ".tmp"
MAX_BYTES = 2**28
"""Largest file that is read at once, such as a record or a file of packed runs."""


@contextlib.contextmanager
def os_errors_as_store_error(action: str) -> Iterator[None]:
    """Converts an OSError raised in the block to a StoreError `cannot <action>: <reason>`.

    A RuntimeError is converted too, because torch raises it when a file cannot be written.
    """
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"cannot {action}: {error.strerror or error}") from error
    except RuntimeError as error:
        raise StoreError(f"cannot {action}: is the disk full? ({format_error(error)})") from error


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file so that an interruption leaves either the old file or the complete new one.

    Args:
        path: The file. Its folder must exist.
        write: A function that is called with the open binary file and writes its content.

    Raises:
        StoreError: The file cannot be written, for example because the disk is full.
    """
    with _replacement(path) as temporary, open(temporary, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _replacement(path: Path) -> Iterator[Path]:
    """Yields an unused path in the same folder, and renames it to `path` after the block.

    If the block fails, nothing is left of the file or folder: on a full disk it would waste space.
    What killed processes of this machine left of the same file or folder is removed.
    """
    prefix = f"{path.name}.{platform.node()}-"
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*{TEMPORARY_SUFFIX}"):
        pid, _, _ = leftover.name.removeprefix(prefix).partition("-")
        if pid.isdecimal() and not is_alive(int(pid)):
            remove(leftover)

    name = f"{prefix}{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    temporary = path.with_name(name)
    try:
        with os_errors_as_store_error(f"write {path}"):
            yield temporary
            os.replace(temporary, path)
    finally:
        remove(temporary)


def is_alive(pid: int) -> bool:
    """Returns whether a process of this machine exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True


def remove(path: Path) -> None:
    """Removes a file or a folder if it exists and can be removed."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder to fill, and renames it to `path` at the end of the block.

    If the block fails, nothing is left of the folder.

    Raises:
        StoreError: The folder cannot be written, or `path` is taken.
    """
    with _replacement(path) as temporary:
        temporary.mkdir(parents=True)
        yield temporary


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically, unless it has that content already.

    Args:
        path: The file. Its folder is created if it is missing.
        content: The content of the file.

    Raises:
        StoreError: The file cannot be written.
    """
    with os_errors_as_store_error(f"write {path}"):
        if path.is_file() and path.read_bytes() == content:
            return
        path.parent.mkdir(parents=True, exist_ok=True)

    write_atomically(path, lambda file: file.write(content))


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file as :func:`write_bytes` does.

    Args:
        path: The file. Its folder is created if it is missing.
        content: Any value that JSON can represent.

    Raises:
        StoreError: The file cannot be written.
    """
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode())


def check_target(path: Path, *, overwrite: bool, inputs: Collection[Path] = ()) -> None:
    """Checks that a command may write a file.

    Args:
        path: The file.
        overwrite: Whether it may exist.
        inputs: Files that the command reads, which it never overwrites.

    Raises:
        ConfigError: It may not be written.
    """
    if any(path.exists() and source.exists() and path.samefile(source) for source in inputs):
        raise ConfigError(f"{path} is read by this command: choose another file to write")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: choose a file to write")
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} exists: choose another file, or replace it by --overwrite")


def check_regular_file(path: Path) -> None:
    """Checks that reading a file comes to an end: it is no pipe, device or folder.

    Raises:
        OSError: It does not exist, or is not a regular file.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def read_bytes(path: Path) -> bytes:
    """Returns the content of a regular file.

    Raises:
        OSError: The file cannot be read, is not a regular file, or is larger than `MAX_BYTES`.
    """
    check_regular_file(path)
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"larger than {MAX_BYTES >> 10:,} KiB", str(path))
    return content


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file, or None if the file is missing or is not valid JSON."""
    try:
        return json.loads(read_bytes(path))
    except (OSError, ValueError, RecursionError):
        return None


def quarantine(path: Path, reason: Exception | str) -> None:
    """Renames a file or folder that must not be used, and logs a warning.

    Args:
        path: The file or folder. It becomes `<name>.corrupt`, or `<name>.corrupt1` and so on if
            that name is taken.
        reason: Why it must not be used.

    Raises:
        StoreError: It cannot be renamed.
    """
    candidates = (path.with_name(f"{path.name}.corrupt{number or ''}") for number in count())
    new_path = next(candidate for candidate in candidates if not candidate.exists())

    with os_errors_as_store_error(f"set aside {path}, which is damaged"):
        os.replace(path, new_path)

    message = reason if isinstance(reason, str) else format_error(reason)
    logger.warning("%s is not used (%s): set aside as %s", path, message, new_path.name)


def csv_name(name: str) -> str:
    """Returns a name that no spreadsheet takes for a formula: with an apostrophe if it looks so."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@")) else name


def safe_name(name: str) -> str:
    """Replaces characters by `_`, so that the name is safe in a shell and as a part of a path."""
    return re.sub(r"^\.+$|[^\w.=+-]+", "_", name)


def digest(*parts: object) -> str:
    """Returns sixteen hexadecimal digits of a hash of the parts.

    A part is bytes. Any other object is hashed as its `str`.
    """
    sha = hashlib.sha256()

    for part in parts:
        content = part if isinstance(part, bytes) else str(part).encode()
        sha.update(len(content).to_bytes(8, "big") + content)

    return sha.hexdigest()[:16]


def checksum(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits."""
    check_regular_file(path)
    sha = hashlib.sha256()

    with open(path, "rb") as file:
        while block := file.read(2**20):
            sha.update(block)

    return sha.hexdigest()


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Holds the lock of a file during the block. The file need not exist.

    The operating system releases the lock of a process that dies.

    Raises:
        StoreError: The lock file cannot be written.
    """
    lock_file = path.with_name(f".{path.name}.lock")
    with contextlib.ExitStack() as stack:
        with os_errors_as_store_error(f"lock {path}"):
            stack.enter_context(filelock.FileLock(lock_file))
        yield
