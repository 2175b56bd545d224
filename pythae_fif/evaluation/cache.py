"""Files computed once: written whole, renamed into place, set aside when they cannot be read."""

__all__ = ["cached", "digest"]

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from pythae_fif.errors import StoreError

logger = logging.getLogger(__name__)

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")


def digest(*parts: object) -> str:
    """Sixteen hexadecimal digits that identify the parts (strings of them, or raw bytes).

    Example:
        >>> digest("mnist", 3) == digest("mnist", 3) != digest("mnist", 4)
        True
    """
    sha = hashlib.sha256()
    for part in parts:
        raw = part if isinstance(part, bytes) else str(part).encode()
        sha.update(len(raw).to_bytes(8, "big") + raw)
    return sha.hexdigest()[:16]


def cached(
    path: Path,
    *,
    read: Callable[[Path], T],
    build: Callable[[], T],
    write: Callable[[T, Path], None],
) -> T:
    """The value in a file, or, where there is none that can be read, a new one stored there.

    Processes may do this at once: each sees a whole file or none, and one builds it while the
    others wait (where the system has file locks; elsewhere each builds it, and the first to finish
    is believed by all). A file that cannot be read is renamed to `<name>.corrupt` and built anew.

    Args:
        path: The file; its folder is made.
        read: Reads a value; any exception but an OSError means that the file is corrupt.
        build: Computes the value.
        write: Writes a value to a path.

    Raises:
        StoreError: the folder or the file cannot be opened, written or renamed.
    """
    with _store_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        found = _read(path, read)
    if found is not None:
        return found
    with _alone(path):
        with _store_errors(path):
            found = _read(path, read)
        if found is not None:
            return found
        value = build()
        with _store_errors(path):
            if _publish(path, lambda temporary: write(value, temporary)):
                return value
            first = _read(path, read)
        return value if first is None else first


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Holds the lock of a file that does not exist yet; the system frees that of a dead process."""
    if fcntl is None:
        yield
        return
    name = path.with_name(f".{path.name}.lock")
    with contextlib.ExitStack() as stack:
        while True:
            with _store_errors(path):
                opened = stack.enter_context(name.open("w"))
                try:
                    fcntl.flock(opened, fcntl.LOCK_EX)
                except OSError:
                    # a file system without locks: build without
                    break
                # whoever held it before has removed it: the lock of a removed file guards nothing
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(opened.fileno()), name.stat()):
                        break
        try:
            yield
        finally:
            name.unlink(missing_ok=True)


@contextlib.contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"cache file {path}: {error}; choose another cache folder") from error


def _read(path: Path, read: Callable[[Path], T]) -> T | None:
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except OSError:
        raise
    except Exception as error:
        aside = path.with_name(f"{path.name}.corrupt")
        logger.warning(
            "cache file %s cannot be read (%s); set aside as %s, building it anew",
            path,
            str(error).partition("\n")[0],
            aside.name,
        )
        # another process may have set it aside first
        with contextlib.suppress(FileNotFoundError):
            os.replace(path, aside)
        return None


def _publish(path: Path, write: Callable[[Path], None]) -> bool:
    """Puts a whole file in place; False where another process was first, whose file then stays."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:
            # a file system without hard links: rename, the last to finish wins
            os.replace(temporary, path)
        return True
    finally:
        temporary.unlink(missing_ok=True)
