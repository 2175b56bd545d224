"""Published weights of an extractor: where their file is looked for, and its checksum."""

__all__ = ["DINOV2", "INCEPTION", "PUBLISHED", "Weights", "weights_digest"]

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pythae_fif.errors import ConfigError, first_line
from pythae_fif.files import checksum, digest

logger = logging.getLogger(__name__)


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

    @property
    def _target(self) -> Path:
        return Path(torch.hub.get_dir()) / "checkpoints" / self.file

    def here(self, path: str | Path | None = None) -> Path | None:
        """The file, checked by its sha256, or None if it is not on this machine.

        Looked for in this order: `path`; the file that the environment variable names; where
        torch.hub keeps downloads (`checkpoints` of `torch.hub.get_dir()`).

        Args:
            path: The file, such as the flag `--extractor-weights` gives it.

        Raises:
            ConfigError: There is no file that was named, or its content is other.
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
        for name in (self.file, *self.same):
            if (file := self._target.with_name(name)).is_file():
                return self._checked(file, "the cache of torch.hub")
        return None

    def find(self, path: str | Path | None = None, *, download: bool = True) -> Path:
        """The file that is `here`, or else is downloaded to where torch.hub keeps downloads.

        Args:
            path: As of `here`.
            download: Whether the network may be asked.

        Raises:
            ConfigError: As of `here`, and where it cannot be downloaded.
        """
        if (found := self.here(path)) is not None:
            return found
        if not download:
            raise self.absent()
        logger.info("downloading %s to %s", self.url, self._target)
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            # writes to a temporary file, checks the hash, then renames
            torch.hub.download_url_to_file(
                self.url, str(self._target), hash_prefix=self.sha256, progress=False
            )
        except (OSError, RuntimeError) as error:
            raise self.absent(f"the download failed: {first_line(error)}") from error
        return self._target

    def absent(self, reason: str = "downloads are off") -> ConfigError:
        """The error for a file that cannot be had, with where to put it."""
        return ConfigError(
            f"extractor {self.extractor!r} has no weights ({reason}): get {self.url} on a machine "
            f"with network and put it at {self._target}, {self._help}"
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


INCEPTION = Weights(
    "inception",
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    "PYTHAE_FIF_INCEPTION",
    same=("weights-inception-2015-12-05-6726825d.pth",),  # torch-fidelity's name for it
)
DINOV2 = Weights(
    "dinov2",
    "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    "PYTHAE_FIF_DINOV2",
)
PUBLISHED = {
    "dinov2": DINOV2,
    "inception": INCEPTION,
    "inception-clean-fid": INCEPTION,
    "inception-pytorch-fid": INCEPTION,
}
"""Name of an extractor -> the weights that it needs."""


def weights_digest(state: Mapping[str, object]) -> str:
    """Identifies the tensors of a network by their names and bytes, one at a time."""
    return digest(
        *(
            digest(name, value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
            for name, value in sorted(state.items())
            if isinstance(value, Tensor)
        )
    )
