"""Files: written whole, locked, cached once by many processes, set aside when damaged."""

import io
import json
import multiprocessing
import time
from pathlib import Path

import filelock
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.features import names_in

from pythae_fif import files
from pythae_fif.errors import StoreError
from pythae_fif.files import (
    cached,
    checksum,
    read_json,
    require_writable,
    safe_name,
    set_aside,
    write_json,
    write_text,
    write_whole,
)
from pythae_fif.pictures import DPI, new_figure, pixel_bytes, write_figure


def write_slowly(path: Path, value: int, barrier, results) -> None:
    """Body of a process: waits for the others, then asks for the same cached file."""

    def write(number: int, file) -> None:
        for _ in range(20):
            file.write(f"{number}\n".encode())
            file.flush()
            time.sleep(0.005)

    def read(target: Path) -> int:
        lines = target.read_text().split()
        if len(lines) != 20:
            raise ValueError(f"half a file: {len(lines)} lines")
        return int(lines[0])

    built = []
    barrier.wait()
    found = cached(path, read=read, build=lambda: built.append(value) or value, write=write)
    results.put((found, len(built)))


class TestCached:
    def test_many_processes_build_one_whole_file(self, tmp_path):
        context = multiprocessing.get_context("fork")
        barrier, results = context.Barrier(4), context.Queue()
        path = tmp_path / "value.txt"
        processes = [
            context.Process(target=write_slowly, args=(path, value, barrier, results))
            for value in range(4)
        ]
        for process in processes:
            process.start()
        values = [results.get(timeout=20) for _ in processes]
        for process in processes:
            process.join(timeout=20)
        found, built = zip(*values, strict=True)
        assert len(set(found)) == 1
        assert sum(built) == 1
        assert names_in(tmp_path) == ["value.txt"]
        assert path.read_text().split() == [str(found[0])] * 20

    def test_a_file_system_without_locks(self, tmp_path, monkeypatch):
        def unknown(lock, *arguments, **options):
            raise NotImplementedError

        monkeypatch.setattr(filelock.FileLock, "acquire", unknown)
        arguments = {"read": Path.read_bytes, "write": lambda value, file: file.write(value)}
        path = tmp_path / "value"
        assert cached(path, build=lambda: b"first", **arguments) == b"first"
        assert cached(path, build=lambda: b"second", **arguments) == b"first"

    @pytest.mark.parametrize("error", [ZeroDivisionError, MemoryError])
    def test_a_failed_build_or_read_leaves_all_as_it_was(self, error, tmp_path):
        def fail(*_) -> int:
            raise error

        with pytest.raises(error):
            cached(tmp_path / "x", read=Path.read_text, build=fail, write=print)
        assert names_in(tmp_path) == []
        (tmp_path / "x").write_text("3")
        if error is MemoryError:  # which says nothing of the file
            with pytest.raises(error):
                cached(tmp_path / "x", read=fail, build=fail, write=print)
        assert names_in(tmp_path) == ["x"]

    def test_a_damaged_file_is_set_aside(self, tmp_path, caplog):
        path = tmp_path / "x.json"
        path.write_text("{")
        arguments = {"build": lambda: 3, "write": lambda value, file: file.write(b"3")}
        assert cached(path, read=lambda path: json.loads(path.read_text()), **arguments) == 3
        assert names_in(tmp_path) == ["x.json", "x.json.corrupt"] and path.read_text() == "3"
        assert "set aside as x.json.corrupt" in caplog.text

    def test_a_folder_or_file_that_cannot_be_used(self, tmp_path):
        (tmp_path / "file").write_text("")
        (tmp_path / "folder").mkdir()
        arguments = {"read": Path.read_text, "build": int, "write": print}
        with pytest.raises(StoreError, match=r"cannot make .*file"):
            cached(tmp_path / "file" / "x", **arguments)
        with pytest.raises(StoreError, match="choose another cache folder"):
            cached(tmp_path / "folder", **arguments)


@pytest.mark.parametrize(
    ("failure", "seen", "message"),
    [
        (OSError(28, "No space left"), StoreError, "cannot write .*x: No space left"),
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
    ],
)
def test_a_file_or_folder_is_whole_or_as_before(failure, seen, message, tmp_path):
    def fail(file) -> None:
        file.write(b"half")
        raise failure

    write_text(tmp_path / "x", "old")
    with pytest.raises(seen, match=message):
        write_whole(tmp_path / "x", fail)
    assert (tmp_path / "x").read_text() == "old" and names_in(tmp_path) == ["x"]
    (tmp_path / "x").unlink()
    with pytest.raises(seen, match=message), files.whole_folder(tmp_path / "x") as folder:
        (folder / "half").write_text("half")
        raise failure
    assert names_in(tmp_path) == []


def test_a_folder_removes_what_is_left_of_itself_and_nothing_else(tmp_path):
    """Its parent may be a folder of the user's."""
    for name in ("model.0123.tmp", "work.tmp", "models.45.tmp"):
        (tmp_path / name).mkdir()
    with files.whole_folder(tmp_path / "model") as folder:
        (folder / "x").write_text("")
    assert names_in(tmp_path) == ["model", "models.45.tmp", "work.tmp"]


def test_texts_json_and_checksums(tmp_path):
    path = tmp_path / "new" / "x.json"
    assert read_json(path) is None
    write_json(path, {"name": "Poincaré", "value": [1.5, None]})
    before = path.stat().st_mtime_ns, path.stat().st_ino
    write_json(path, {"name": "Poincaré", "value": [1.5, None]})  # is there already
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert read_json(path) == {"name": "Poincaré", "value": [1.5, None]}
    path.write_text(path.read_text()[:-4])
    assert read_json(path) is None
    write_text(path, "abc")
    assert checksum(path).startswith("ba7816bf8f01cfea")


def test_nothing_set_aside_is_lost(tmp_path):
    for _ in range(3):
        (tmp_path / "x").write_text("")
        set_aside(tmp_path / "x")
    assert names_in(tmp_path) == ["x.corrupt", "x.corrupt1", "x.corrupt2"]


def test_a_figure_is_a_small_picture_that_looks_the_same(tmp_path):
    figure = new_figure(2, 1)
    figure.subplots().plot([0, 1])
    sizes = {}
    for suffix in (".png", ".webp"):
        write_figure(tmp_path / f"x{suffix}", figure)
        sizes[suffix] = Image.open(tmp_path / f"x{suffix}").size
    assert sizes[".png"] == sizes[".webp"] == (2 * DPI, DPI)
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    assert (np.asarray(Image.open(io.BytesIO(pixel_bytes(pixels)))) == pixels[..., 0]).all()


def test_writable(tmp_path):
    require_writable(tmp_path / "a" / "b", "choose another")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be written .*: choose another"):
        require_writable(tmp_path / "file" / "x", "choose another")


@given(st.text())
def test_a_safe_name_is_one_part_of_a_path(name):
    safe = safe_name(name)
    assert safe == name == "" or Path("folder", safe).parent == Path("folder")
    assert safe == safe_name(safe)
