"""The cache of images: mapped, checked once a command, found by the hash that a plan names."""

import dataclasses
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.features import names_in
from support.folders import flipped
from support.image_files import fill_folder, noise

from pythae_fif.data import ImageDataset, Splits, load_images, to_float
from pythae_fif.data.cache import open_splits, remember
from pythae_fif.data.splits import SPLIT_NAMES, content_hash
from pythae_fif.errors import StoreError


@pytest.fixture
def call(tmp_path: Path) -> dict:
    """Labelled images in a file of the user."""
    np.savez(tmp_path / "own.npz", data=noise(200, 3, 8, 8), labels=np.arange(200))
    return {"name": "npz", "data": tmp_path / "own.npz"}


def entry(cache: Path) -> Path:
    (folder,) = (path for path in cache.iterdir() if path.is_dir() and ".corrupt" not in path.name)
    return folder


def is_mapped(array: np.ndarray) -> bool:
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


def test_images_are_those_of_the_file_and_mapped(call, tmp_path):
    data = np.load(call["data"])["data"]
    for _ in range(2):
        splits = load_images(**call)
        for split in SPLIT_NAMES:
            assert is_mapped(splits[split]) and not splits[split].flags.writeable
            assert np.array_equal(splits[split], data[splits.labels[split]])
    computed = content_hash({split: np.array(splits[split]) for split in SPLIT_NAMES})
    assert splits.content_hash == computed


def test_files_of_two_folders_that_look_alike(call, tmp_path, fresh_cache):
    first = load_images(**call).content_hash
    other = tmp_path / "v1" / call["data"].name
    other.parent.mkdir()
    np.savez(other, data=255 - noise(200, 3, 8, 8), labels=np.arange(200))
    time = call["data"].stat().st_mtime_ns
    os.utime(other, ns=(time, time))
    assert other.stat().st_size == call["data"].stat().st_size
    assert load_images(**call | {"data": other}).content_hash != first


def test_a_run_finds_what_its_plan_names_and_hashes_nothing(call, fresh_cache, monkeypatch):
    whole = load_images(**call)
    part = whole.subset(train=50)
    expected = part.content_hash
    assert open_splits(expected) is None
    remember(part, whole)
    call["data"].unlink()
    monkeypatch.setattr("pythae_fif.data.splits.content_hash", None)
    for splits, found in ((whole, open_splits(whole.content_hash)), (part, open_splits(expected))):
        assert (found.source, found.partial, found.name) == (splits.source, splits.partial, "npz")
        assert found.content_hash == splits.content_hash
        for split in SPLIT_NAMES:
            assert is_mapped(found[split]) and np.array_equal(found[split], splits[split])
            assert np.array_equal(found.labels[split], splits.labels[split])


def test_equal_images_with_other_labels_are_not_mixed_up(call, tmp_path, fresh_cache):
    """A run with labels in its plan gets these; one without reads its own files."""
    wholes = [load_images(**call)]
    for name, labels in (("other", {"labels": np.arange(200) % 7}), ("none", {})):
        path = tmp_path / f"{name}.npz"
        np.savez(path, data=np.load(call["data"])["data"], **labels)
        wholes.append(load_images(**call | {"data": path}))
    parts = [whole.subset(train=50) for whole in wholes]
    for part, whole in zip(parts, wholes, strict=True):
        remember(part, whole)
    for of in (wholes, parts):
        assert len({splits.content_hash for splits in of}) == 1
        assert open_splits(of[0].content_hash) is None
        for splits in of[:2]:
            found = open_splits(splits.content_hash, splits.labels_hash)
            assert np.array_equal(found.labels["train"], splits.labels["train"])


def test_what_is_in_no_file_is_not_cached(fresh_cache):
    whole = load_images("digits")
    remember(whole.subset(train=50), whole)
    assert not fresh_cache.exists() and open_splits(whole.content_hash) is None


@pytest.mark.parametrize("name", ["0" * 16, "../../etc/passwd", "", "../" + "0" * 16])
def test_a_hash_that_is_none_opens_nothing(name):
    assert open_splits(name) is None and open_splits("0" * 16, name) is None


def damage(folder: Path, kind: str) -> None:
    file = folder / {"labels": "val-labels.npy", "about": "about.json"}.get(kind, "train.npy")
    content = file.read_bytes()
    if kind == "missing":
        file.unlink()
    elif kind == "truncated":
        file.write_bytes(content[:-200])
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "about":
        file.write_bytes(content[:30])
    elif kind == "other":
        np.save(file, noise(160, 3, 8, 8, seed=1))
    else:
        file.write_bytes(flipped(content, -5))


@pytest.mark.parametrize(
    "kind", ["missing", "truncated", "empty", "about", "other", "flipped", "labels"]
)
def test_a_damaged_entry_is_set_aside_and_rebuilt(kind, call, fresh_cache, caplog):
    before = load_images(**call)
    expected = before.content_hash, before.labels["val"].tolist()
    folder = entry(fresh_cache)
    damage(folder, kind)
    if kind not in ("other", "flipped", "labels"):  # what a run does not look for
        assert open_splits(before.content_hash) is None
    with caplog.at_level(logging.WARNING):
        after = load_images(**call)
    assert (after.content_hash, after.labels["val"].tolist()) == expected
    assert "set aside" in caplog.text and str(folder) in caplog.text
    assert {folder.name, f"{folder.name}.corrupt"} <= set(names_in(fresh_cache))
    caplog.clear()
    assert load_images(**call).content_hash == expected[0]
    assert open_splits(expected[0]).content_hash == expected[0]
    assert not caplog.text


def test_a_cache_that_may_only_be_read_is_used(call, fresh_cache, monkeypatch):
    load_images(**call)

    def refuse(*of: object) -> None:
        raise StoreError("read-only")

    for name in ("require_writable", "locked", "write_json"):
        monkeypatch.setattr(f"pythae_fif.data.cache.{name}", refuse)
    assert is_mapped(load_images(**call).train)


def test_an_edited_hash_is_noticed(call, fresh_cache, caplog):
    expected = load_images(**call).content_hash
    about = entry(fresh_cache) / "about.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "hash": "0" * 16}))
    assert open_splits(expected) is None
    assert load_images(**call).content_hash == expected and "set aside" in caplog.text


@pytest.mark.filterwarnings("error")
def test_read_only_arrays_are_taken_without_a_copy_or_a_warning(call):
    train = load_images(**call).train
    dataset = ImageDataset(train)
    assert dataset.images.data_ptr() == train.ctypes.data
    part = ImageDataset(train[5:20])
    assert part.images.data_ptr() == train[5:].ctypes.data
    batch = part.batch(torch.tensor([3, 0])).data
    batch.zero_()  # a copy
    to_float(train, limit=3).zero_()
    assert torch.equal(part[3].data, torch.from_numpy(np.array(train[8])) / 255)


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


def test_splits_that_are_changed_are_hashed_anew(call):
    splits = load_images(**call)
    other = dataclasses.replace(splits, train=np.zeros_like(splits.train))
    assert other.content_hash != splits.content_hash
    assert isinstance(other, Splits)
