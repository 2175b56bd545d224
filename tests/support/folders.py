"""What a folder holds, and damage to what it holds."""

from pathlib import Path


def contents(folder: Path) -> dict[str, bytes]:
    """Name -> content of all files below a folder."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def written(results: Path) -> dict[Path, int]:
    """The scores in a store, with the moments at which they were written."""
    return {path: path.stat().st_mtime_ns for path in results.rglob("scores/*.json")}


def flipped(content: bytes, at: int | None = None) -> bytes:
    """One bit is another, in the middle unless told where."""
    changed = bytearray(content)
    changed[len(content) // 2 if at is None else at] ^= 1
    return bytes(changed)
