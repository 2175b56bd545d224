"""The cache: mapped, and checked once a command."""

import itertools
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.features import names_in
from support.folders import flipped
from support.image_files import fill_folder, noise

from pythae_fif.data import DataOptions, ImageDataset, load_images
from pythae_fif.data.load import load, open_splits
from pythae_fif.data.splits import SPLIT_NAMES, Splits, content_hash
from pythae_fif.errors import DataError


@pytest.fixture
def own(tmp_path: Path) -> DataOptions:
    """Labelled images in a file of the user."""
    np.savez(tmp_path / "own.npz", data=noise(200, 3, 8, 8), labels=np.arange(200))
    return DataOptions(data=str(tmp_path / "own.npz"))


def entry(cache: Path) -> Path:
    (folder,) = (path for path in cache.iterdir() if path.is_dir() and ".corrupt" not in path.name)
    return folder


def is_mapped(array: np.ndarray) -> bool:
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


def same(one: Splits, two: Splits) -> bool:
    texts = (one.source, one.notes, one.partial) == (two.source, two.notes, two.partial)
    arrays = all(np.array_equal(one[split], two[split]) for split in SPLIT_NAMES)
    return texts and arrays and one.labels_hash == two.labels_hash


@pytest.mark.filterwarnings("error")
def test_images_are_those_of_the_file_and_mapped(own):
    data = np.load(own.data)["data"]
    for _ in range(2):
        splits = load("npz", own)
        for split in SPLIT_NAMES:
            assert is_mapped(splits[split])
            assert np.array_equal(splits[split], data[splits.labels[split]])
    assert ImageDataset(splits.train[5:]).images.data_ptr() == splits.train[5:].ctypes.data
    splits.train[:] = 0
    assert load("npz", own).train.any(), "nobody writes into the cache"


def test_a_run_maps_what_the_command_checked_and_hashes_no_images(own, monkeypatch):
    planned = load("npz", own)
    hashes = planned.content_hash, planned.labels_hash
    hashed = set()

    def watched(arrays: dict) -> str:
        hashed.add(arrays["train"].ndim)
        return content_hash(arrays)

    monkeypatch.setattr("pythae_fif.data.splits.content_hash", watched)
    found = open_splits(*hashes, "npz", own)
    assert same(found, planned) and is_mapped(found.train)
    assert found.content_hash == hashes[0] and hashed == {1}, "labels alone"


def test_a_run_without_the_cache_loads_what_was_planned_or_fails(own, fresh_cache):
    planned = load("npz", own, train_size=50)
    hashes = planned.content_hash, planned.labels_hash
    fresh_cache.rename(fresh_cache.parent / "elsewhere")
    assert same(open_splits(*hashes, "npz", own, train_size=50), planned)
    np.savez(own.data, data=noise(200, 3, 8, 8, seed=1), labels=np.arange(200))
    fresh_cache.rename(fresh_cache.parent / "again")
    with pytest.raises(DataError, match="changed since the plan: start the command"):
        open_splits(*hashes, "npz", own, train_size=50)
    digits = load_images("digits")  # in no file, and so in no cache
    assert open_splits(digits.content_hash, None, "digits", DataOptions()).classes == 10


def damage(folder: Path, kind: str) -> None:
    file = folder / {"labels": "val-labels.npy", "about": "about.json"}.get(kind, "train.npy")
    content = file.read_bytes()
    if kind == "missing":
        file.unlink()
    elif kind == "other":
        np.save(file, noise(160, 3, 8, 8, seed=1))
    elif kind == "hash":
        about = folder / "about.json"
        about.write_text(json.dumps({**json.loads(about.read_text()), "content_hash": "0" * 16}))
    else:
        cut = {"truncated": content[:-200], "about": content[:30]}
        file.write_bytes(cut.get(kind, flipped(content, -5)))


KINDS = ["missing", "truncated", "about", "other", "flipped", "labels"]


@pytest.mark.parametrize(
    ("kind", "by"), [("hash", "command"), *itertools.product(KINDS, ["command", "run"])]
)
def test_a_damaged_or_swapped_entry_is_not_used(kind, by, own, fresh_cache, caplog):
    before = load("npz", own)
    hashes, labels = (before.content_hash, before.labels_hash), before.labels["val"].tolist()
    folder = entry(fresh_cache)
    damage(folder, kind)
    with caplog.at_level(logging.WARNING):
        after = load("npz", own) if by == "command" else open_splits(*hashes, "npz", own)
    assert (after.content_hash, after.labels["val"].tolist()) == (hashes[0], labels)
    assert "set aside" in caplog.text and str(folder) in caplog.text
    assert {folder.name, f"{folder.name}.corrupt"} <= set(names_in(fresh_cache))
    caplog.clear()
    assert same(load("npz", own), after) and not caplog.text


def test_on_a_full_disk_there_is_no_cache(own, fresh_cache, monkeypatch, caplog):
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pythae_fif.data.load.np.save", full)
    assert len(load("npz", own).train) == 160 and "not cached" in caplog.text
    assert [path for path in fresh_cache.iterdir() if path.suffix != ".lock"] == []


def test_processes_at_once_build_one_entry(tmp_path, fresh_cache):
    fill_folder(tmp_path / "mine", 120)
    code = (
        "import sys; from pythae_fif.data import load_images; "
        "print(load_images('folder', data=sys.argv[1], image_size=8).content_hash)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "mine")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    hashes = {process.communicate()[0].strip() for process in processes}
    assert hashes == {load_images("folder", data=tmp_path / "mine", image_size=8).content_hash}
    assert entry(fresh_cache).is_dir()


def test_decoding_happens_once_for_files_that_stay_the_same(tmp_path):
    fill_folder(tmp_path / "mine", 150)
    calls: list[tuple[int, int]] = []

    def read(size: int = 8) -> list[tuple[int, int]]:
        calls.clear()
        mine = DataOptions(data=str(tmp_path / "mine"))
        load("folder", mine, image_size=size, progress=lambda *of: calls.append(of))
        return calls

    assert {total for _, total in read()} == {120, 15} and calls[-1] == (15, 15)
    assert not read() and read(9) and not read()
    os.utime(tmp_path / "mine/0003.png", ns=(1, 1))
    assert read(), "a file changed"
