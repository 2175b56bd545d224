"""Atomic writes, quarantine of damaged files, safe names and small pictures."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.features import names_in

from pythae_fif import files
from pythae_fif.benchmark.models import read_yaml
from pythae_fif.data.images import decode_files, read_npz
from pythae_fif.data.table_files import read_table_file
from pythae_fif.errors import StoreError
from pythae_fif.evaluation.networks import weights_file
from pythae_fif.files import quarantine, read_json, safe_name, write_bytes, write_json
from pythae_fif.pictures import DPI, figure_bytes, new_figure, pixel_bytes
from pythae_fif.runs.store import read_file


@pytest.mark.parametrize(
    ("failure", "error_type", "message"),
    [
        (OSError(28, "No space left"), StoreError, "cannot write .*x: No space left"),
        (RuntimeError("unexpected pos"), StoreError, "x: is the disk full.*unexpected pos"),
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
    ],
)
def test_a_failed_write_leaves_the_old_file_or_no_folder(failure, error_type, message, tmp_path):
    path = tmp_path / "x"

    def fail(file) -> None:
        file.write(b"half")
        raise failure

    write_bytes(path, b"old")
    with pytest.raises(error_type, match=message):
        files.write_atomically(path, fail)
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["x"]

    path.unlink()
    with pytest.raises(error_type, match=message), files.atomic_folder(path) as folder:
        (folder / "half").write_text("half")
        raise failure
    assert names_in(tmp_path) == []


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    path = tmp_path / "x"
    program = f"""
import os, pathlib
from pythae_fif import files
with files.atomic_folder(pathlib.Path({str(path)!r})) as folder:
    (folder / "half").write_text("half")
    os.kill(os.getpid(), 9)
"""
    root = Path(files.__file__).parents[1]
    subprocess.run([sys.executable, "-c", program], cwd=root)
    (leftover,) = tmp_path.iterdir()
    assert leftover.name.endswith(".tmp")

    with files.atomic_folder(tmp_path / "y"):
        assert leftover.exists(), "it may belong to a writer of another file"
    with files.atomic_folder(path) as folder:
        assert not leftover.exists()
        write_bytes(path.with_name("z"), b"")
        assert folder.exists(), "its writer is alive"


def test_json_and_checksums(tmp_path):
    path = tmp_path / "new" / "x.json"
    content = {"name": "Poincaré", "value": [1.5, None]}
    assert read_json(path) is None

    write_json(path, content)
    first_write = (path.stat().st_mtime_ns, path.stat().st_ino)
    write_json(path, content)  # the file has this content already
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == first_write
    assert read_json(path) == content

    path.write_text(path.read_text()[:-4])
    assert read_json(path) is None
    write_bytes(path, b"abc")
    assert files.checksum(path).startswith("ba7816bf8f01cfea")


def test_quarantine_overwrites_nothing(tmp_path):
    for _ in range(3):
        (tmp_path / "x").write_text("")
        quarantine(tmp_path / "x", "it is damaged")
    assert names_in(tmp_path) == ["x.corrupt", "x.corrupt1", "x.corrupt2"]


def test_pictures():
    figure = new_figure(2, 1)
    figure.subplots().plot([0, 1])
    for suffix in (".png", ".webp"):
        image = Image.open(io.BytesIO(figure_bytes(figure, suffix)))
        assert image.size == (2 * DPI, DPI)

    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    decoded = np.asarray(Image.open(io.BytesIO(pixel_bytes(pixels))))
    assert (decoded == pixels[..., 0]).all()


@given(st.text())
def test_a_safe_name_is_one_part_of_a_path(name):
    safe = safe_name(name)
    assert safe == name == "" or Path("folder", safe).parent == Path("folder")
    assert safe == safe_name(safe)


READERS = {
    "bytes": files.read_bytes,
    "checksum": files.checksum,
    "record": read_file,
    "YAML": read_yaml,
    "table": read_table_file,
    "npz": read_npz,
    "image": lambda path: decode_files(path.parent, [path.name], 8),
    "weights": weights_file,
}


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_reading_what_has_no_end_is_an_error(read, kind, tmp_path):
    path = tmp_path / "file"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises((OSError, ValueError), match="not a regular file"):
        read(path)
    assert read_json(path) is None


def test_large_files_are_not_read_at_once(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    monkeypatch.setattr(files, "MAX_BYTES", 5)
    assert files.read_bytes(path) == b"12345"
    monkeypatch.setattr(files, "MAX_BYTES", 4)
    with pytest.raises(OSError, match="larger than"):
        files.read_bytes(path)
