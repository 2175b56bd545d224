"""Published weights of an extractor: where their file is looked for, and its checksum."""

__all__ = ["DOWNLOADS_OFF", "Weights", "weights_digest"]

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pythae_fif.errors import ConfigError
from pythae_fif.files import checksum, digest

logger = logging.getLogger(__name__)

DOWNLOADS_OFF = "downloads are off"


@dataclass(frozen=True)
class Weights:
    """A file of weights that somebody has published.

    Attributes:
        extractor: Name of the extractor that needs it.
        url: Where it is published; its last part is the file's name.
        sha256: Of its content.
        variable: Environment variable that may name the file.
        same: Names under which other packages keep the same file.
    """

    extractor: str
    url: str
    sha256: str
    variable: str
    same: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """Name of the file."""
        return self.url.rpartition("/")[2]

    def find(self, path: str | Path | None = None, *, download: bool = True) -> Path:
        """The file, checked by its sha256.

        Looked for in this order: `path`; the file that the environment variable names; where
        torch.hub keeps downloads (`checkpoints` of `torch.hub.get_dir()`); and then its address,
        from which it is downloaded to there.

        Args:
            path: The file, such as the flag `--extractor-weights` gives it.
            download: Whether the network may be asked.

        Raises:
            ConfigError: There is no such file and it cannot be downloaded, or its content is other.
        """
        named = path if path is not None else os.environ.get(self.variable)
        if named:
            origin = "--extractor-weights" if path is not None else self.variable
            file = Path(named).expanduser()
            if not file.is_file():
                raise ConfigError(
                    f"{origin}: no file {file}; it should be {self.file}, {self._help}"
                )
            return self._checked(file, origin)
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        for name in (self.file, *self.same):
            if (folder / name).is_file():
                return self._checked(folder / name, "the cache of torch.hub")
        target = folder / self.file
        reason = DOWNLOADS_OFF
        if download:
            logger.info("downloading %s to %s", self.url, target)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                # writes to a temporary file, checks the hash, then renames
                torch.hub.download_url_to_file(
                    self.url, str(target), hash_prefix=self.sha256, progress=False
                )
                return target
            except (OSError, RuntimeError) as error:
                reason = f"the download failed: {str(error).partition(chr(10))[0]}"
        raise ConfigError(
            f"extractor {self.extractor!r} has no weights ({reason}): get {self.url} on a machine "
            f"with network and put it at {target}, {self._help}"
        )

    def load(self, path: str | Path | None = None, *, download: bool = True) -> dict[str, Tensor]:
        """The weights by name, of the file that `find` finds."""
        file = self.find(path, download=download)
        state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        return state

    @property
    def _help(self) -> str:
        return (
            f"or name it by --extractor-weights or {self.variable}; without network, "
            "efficientnet-lite0 works offline (FD-EfficientNet, no FID)"
        )

    def _checked(self, file: Path, origin: str) -> Path:
        found = checksum(file)
        if found != self.sha256:
            raise ConfigError(
                f"{origin}: {file} has sha256 {found[:16]}..., not {self.sha256[:16]}... of "
                f"{self.file}: it is another or a damaged file; remove it, or get {self.url}"
            )
        return file


def weights_digest(state: Mapping[str, object]) -> str:
    """Identifies the tensors of a network by their names and bytes, one at a time."""
    return digest(
        *(
            digest(name, value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
            for name, value in sorted(state.items())
            if isinstance(value, Tensor)
        )
    )
