"""A packed store: the texts of many runs, a line a run, small enough for a repository.

`runs/digits.jsonl` holds the configurations, records, logs and statuses that would be below
`runs/digits/`, of sheets of images the part that figures show, and no models. Names and checksums
of what it leaves out stand in the records. `benchmarks/reference.py` writes it, nothing else does:
a run that is started in a packed store is unpacked into a folder, which counts before its line.
"""

__all__ = ["TEXTS", "PackedRun", "read_packs"]

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Base64UrlBytes, BaseModel, ConfigDict, Field, ValidationError

from pythae_fif.errors import StoreError
from pythae_fif.files import json_text, stored

TEXTS = (".json", ".jsonl", ".yaml")
"""Suffixes of the files that a pack keeps as they are."""

_NAME = r"[\w=+-][\w.=+-]*"  # a part of a path that leads nowhere else
_FileName = Annotated[str, Field(pattern=f"^{_NAME}$")]


class PackedRun(BaseModel):
    """A line of a pack.

    Attributes:
        run: The run's folder below `runs/`.
        files: Name -> text, or what a JSON file holds where :func:`json_text` gives it back.
        pictures: Name -> a sheet as PNG or WebP, black where figures do not show it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: Annotated[str, Field(pattern=f"^{_NAME}(/{_NAME})+$")]
    files: dict[_FileName, str | dict[str, Any]]
    pictures: dict[_FileName, Base64UrlBytes] = {}

    def unpack(self, folder: Path) -> None:
        """Writes the run's files into a folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            text = content if isinstance(content, str) else json_text(content)
            (folder / name).write_text(text, "utf-8")
        for name, picture in self.pictures.items():
            (folder / name).write_bytes(picture)


def read_packs(root: Path) -> Iterator[PackedRun]:
    """The packed runs of a store.

    Raises:
        StoreError: A pack is damaged or cannot be read.
    """
    for path in sorted((root / "runs").glob("*.jsonl")):
        with stored(f"read {path}"):
            lines = path.read_bytes().splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                yield PackedRun.model_validate_json(line)
            except ValidationError as error:
                raise StoreError(f"{path}, line {number} is no run: restore the file") from error
