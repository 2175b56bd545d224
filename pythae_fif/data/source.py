"""What was asked of `load_images`, and the files that answer it."""

__all__ = ["Request", "Source", "decode"]

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pythae_fif.data.images import BACKGROUND, Decoded, Progress, decode_files
from pythae_fif.data.names import TableOptions
from pythae_fif.data.splits import Splits
from pythae_fif.errors import DataError
from pythae_fif.files import digest

# Part of the cache's keys: raise it whenever reading, decoding, cropping or resizing changes.
_VERSION = 4


@dataclass(frozen=True)
class Request:
    """What was asked of `load_images`; `path` is the data root, or the user's folder or file.

    `crop` is of CelebA alone.
    """

    name: str
    path: Path
    image_size: int
    crop: int
    download: bool
    skip_undecodable: bool
    progress: Progress | None
    seed: int
    table: TableOptions


@dataclass(frozen=True)
class Source:
    """Where the images of a request are.

    Attributes:
        folder: Of the files.
        files: Their paths below it; none for images that are in no file of their own.
        read: Reads them all.
        image_bytes: Size in memory of all images, about.
    """

    folder: Path
    files: Sequence[str]
    read: Callable[[], Splits]
    image_bytes: int

    def key(self, request: Request) -> str:
        """Identifies request and files by name, size and time of change.

        Raises:
            DataError: A file cannot be read.
        """
        stamps = []
        for name in self.files:
            path = os.path.join(self.folder, name)
            try:
                stat = os.stat(path)
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror})") from error
            stamp = f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}"
            stamps.append(stamp.encode("utf-8", "replace"))
        how = request.image_size, request.crop, request.skip_undecodable, request.seed
        how += (*vars(request.table).values(),)
        return digest(_VERSION, request.name, request.path.name, *how, *stamps)


def decode(
    request: Request, folder: Path, names: Sequence[str], crop: float = 1.0
) -> tuple[Decoded, list[str]]:
    """The images of a folder, and notes on those that could not be decoded or are transparent."""
    decoded = decode_files(
        folder, names, image_size=request.image_size, crop=crop, progress=request.progress
    )
    count = len(decoded.failed)
    if count and not request.skip_undecodable:
        raise DataError(
            f"{request.name}: {count} of {len(names)} images cannot be decoded, the first is "
            f"{folder / names[decoded.failed[0]]}; mend or remove them, or skip undecodable images"
        )
    notes = [f"{count} undecodable images left out"] if count else []
    if seen := int(decoded.transparent.sum()):
        notes.append(f"{seen} images with transparency, composed over {BACKGROUND}")
    return decoded, notes
