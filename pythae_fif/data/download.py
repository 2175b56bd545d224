"""Downloads: a file is checked before it has its name, and an error says what to do by hand."""

__all__ = ["CELEBA", "CELEBA_PAGE", "Download", "fetch", "unpack_images"]

import os
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from pythae_fif.data.images import OnCount
from pythae_fif.errors import DataError
from pythae_fif.files import TEMPORARY, checksum, whole_folder

SECONDS_OF_SILENCE = 60
PROGRESS_FILES = 100

CELEBA_PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"


@dataclass(frozen=True)
class Download:
    """A file of the network.

    Attributes:
        url: Its address; on Google Drive, the one of ``uc?id=``.
        md5: Its checksum.
        size: Its bytes, about.
    """

    url: str
    md5: str
    size: int


CELEBA = {  # as torchvision has them
    "list_eval_partition.txt": Download(
        "https://drive.google.com/uc?id=0B7EVK8r0v71pY0NSMzRuSXJEVkk",
        "d32c9cbf5e040fd4025c592c306e6668",
        3_000_000,
    ),
    "img_align_celeba.zip": Download(
        "https://drive.google.com/uc?id=0B7EVK8r0v71pZjFTYXZWM3FlRnM",
        "00d2c5bc6d35e252742224ab0c1e8fcb",
        1_450_000_000,
    ),
}
"""File below ``<root>/celeba`` -> where it is from, the small one first."""


def fetch(download: Download, path: Path, by_hand: str, progress: OnCount | None = None) -> None:
    """Downloads a file; it is there whole and right, or not at all.

    Args:
        download: From where.
        path: Where to; its folder is made.
        by_hand: What to do where that fails; the end of the error's line.
        progress: Called as ``progress(done, total)`` with bytes.

    Raises:
        DataError: The host does not give the file, cuts it off, or gives another.
    """
    import gdown  # which imports much
    from gdown.exceptions import DownloadError, FileURLRetrievalError

    def watch(done: int, total: int | None) -> None:
        if progress is not None:
            progress(done, total or download.size)

    what = f"{path.name} of {download.url}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, suffix=TEMPORARY) as folder:
            file = Path(folder, path.name)
            gdown.download(
                download.url,
                str(file),
                quiet=True,
                use_cookies=False,
                timeout=SECONDS_OF_SILENCE,
                progress=watch,
            )
            found = checksum(file, "md5")
            if found != download.md5:
                raise DataError(
                    f"{what} came with MD5 checksum {found}, not {download.md5}, and is not used: "
                    f"{by_hand}"
                )
            os.replace(file, path)
    except FileURLRetrievalError as error:
        reason = _line(error).removeprefix("Failed to retrieve file url: ")
        raise DataError(f"Google Drive does not give {what} now ({reason}): {by_hand}") from error
    except (DownloadError, OSError) as error:  # those of requests are OSErrors
        raise DataError(f"cannot download {what} ({_line(error)}): {by_hand}") from error


def unpack_images(archive: Path, folder: Path, progress: OnCount | None = None) -> None:
    """Unpacks the images of a zip file's one folder; `folder` is there whole or not at all.

    Raises:
        DataError: The zip file is damaged.
        StoreError: The disk does not take them.
    """
    try:
        with zipfile.ZipFile(archive) as content, whole_folder(folder) as temporary:
            members = [member for member in content.infolist() if not member.is_dir()]
            for done, member in enumerate(members, 1):
                # By its last name alone: a place of our own choosing.
                (temporary / Path(member.filename).name).write_bytes(content.read(member))
                if progress is not None and done % PROGRESS_FILES == 0:
                    progress(done, len(members))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{archive}: damaged ({_line(error)}): remove it") from error


def _line(error: Exception) -> str:
    """What went wrong, without gdown's advice to people who call it."""
    text = " ".join(str(error).split())
    for advice in (" You may ", " Check FAQ", " The received bytes are kept"):
        text = text.partition(advice)[0]
    return text[:200]
