"""The public archive of Papamakarios et al.'s data sets: where it is, and its download."""

__all__ = [
    "ARCHIVE_FILES",
    "ARCHIVE_LICENCE",
    "ARCHIVE_MD5",
    "ARCHIVE_URL",
    "download_tabular",
]

import shutil
import tarfile
import tempfile
import urllib.request
from pathlib import Path

from pythae_fif.errors import DataError
from pythae_fif.files import checksum

ARCHIVE_URL = "https://zenodo.org/record/1161203/files/data.tar.gz"
ARCHIVE_LICENCE = "CC BY 4.0, doi 10.5281/zenodo.1161203"
ARCHIVE_MD5 = "9b9c9b0375315ad270eba4ce80c093ab"

ARCHIVE_FILES = {
    "power": ("power/data.npy",),
    "gas": ("gas/ethylene_CO.pickle",),
    "hepmass": ("hepmass/1000_train.csv", "hepmass/1000_test.csv"),
    "miniboone": ("miniboone/data.npy",),
}


def download_tabular(
    root: str | Path, *, url: str = ARCHIVE_URL, md5: str = ARCHIVE_MD5
) -> list[Path]:
    """Downloads the public archive and unpacks the four data sets' files; nothing else calls this.

    The archive, of about 820 MB, is at ``ARCHIVE_URL`` under ``ARCHIVE_LICENCE``. It holds, among
    others, the files that :func:`~pythae_fif.data.tabular.load_tabular` reads.

    Args:
        root: Folder to unpack to, made if needed.
        url: Where from.
        md5: The archive's checksum; the published one by default.

    Returns:
        The files written.

    Raises:
        DataError: The download failed, the checksum differs, or a file is not in the archive.
    """
    root = Path(root).expanduser()
    root.mkdir(parents=True, exist_ok=True)
    wanted = [file for files in ARCHIVE_FILES.values() for file in files]
    written: list[Path] = []
    with tempfile.TemporaryDirectory(dir=root) as folder:
        archive = Path(folder) / "data.tar.gz"
        try:
            urllib.request.urlretrieve(url, archive)
        except OSError as error:
            raise DataError(f"cannot download {url}: {error}") from error
        found = checksum(archive, "md5")
        if found != md5:
            raise DataError(f"{url}: MD5 checksum {found}, not {md5}: nothing was unpacked")
        with tarfile.open(archive) as tar:
            # Plain files, read one by one to places of our own choosing.
            members = {member.name.removeprefix("./"): member for member in tar if member.isfile()}
            for name in wanted:
                member = members.get(f"data/{name}") or members.get(name)
                content = tar.extractfile(member) if member else None
                if content is None:
                    raise DataError(f"{url}: {name} is not in the archive")
                path = root / name
                path.parent.mkdir(exist_ok=True)
                with open(path, "wb") as file:
                    shutil.copyfileobj(content, file)
                written.append(path)
    return written
