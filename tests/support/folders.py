"""Reads folders, and damages the content of files."""

from pathlib import Path


def read_folder(folder: Path) -> dict[str, bytes]:
    """Returns name -> content of all files below a folder."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def score_times(results: Path) -> dict[Path, int]:
    """Returns the score files in a results folder -> when each was last written."""
    return {path: path.stat().st_mtime_ns for path in results.rglob("scores/*.json")}


def flip_bit(content: bytes, position: int | None = None) -> bytes:
    """Returns the content with one bit flipped.

    Args:
        content: The content of a file.
        position: Index of the changed byte; None for the middle one.
    """
    damaged = bytearray(content)
    damaged[len(content) // 2 if position is None else position] ^= 1
    return bytes(damaged)
