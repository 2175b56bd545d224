"""The cache: complete, memory-mapped and checked files; nothing in them is executed."""

import multiprocessing
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.features import names_in
from support.folders import flip_bit
from support.image_files import fill_folder, noise
from support.networks import Opened

from pythae_fif.data import ImageDataset, cache, load_images
from pythae_fif.data.cache import cached, tensor_hash
from pythae_fif.data.load import ExpectedHashes, load
from pythae_fif.data.splits import SPLIT_NAMES, Splits
from pythae_fif.errors import DataError
from pythae_fif.names import DataOptions


@pytest.fixture
def own_images(tmp_path: Path) -> DataOptions:
    """Returns the options for labelled images in a user's file."""
    np.savez(tmp_path / "own.npz", data=noise(200, 3, 8, 8), labels=np.arange(200))
    return DataOptions(data=str(tmp_path / "own.npz"))


def are_equal(splits: Splits, expected: Splits) -> bool:
    """Returns True if all fields of the splits are equal."""
    for field in ("source", "notes", "partial", "labels_hash"):
        if getattr(splits, field) != getattr(expected, field):
            return False
    return all(np.array_equal(splits[split], expected[split]) for split in SPLIT_NAMES)


@pytest.mark.filterwarnings("error")
def test_cached_images_equal_the_file_and_are_memory_mapped(own_images, fresh_cache):
    data = np.load(own_images.data)["data"]
    for _ in range(2):
        splits = load("npz", own_images)
        (name,) = names_in(fresh_cache)
        assert name in Path("/proc/self/maps").read_text()
        for split in SPLIT_NAMES:
            assert np.array_equal(splits[split], data[splits.labels[split]])

    assert ImageDataset(splits.train[5:]).images.data_ptr() == splits.train[5:].ctypes.data
    splits.train[:] = 0
    assert load("npz", own_images).train.any(), "writes do not reach the cache"


def test_a_run_without_the_cache_loads_the_planned_data_or_fails(
    own_images, fresh_cache, monkeypatch
):
    command = load("npz", own_images, train_size=50)
    planned = ExpectedHashes(command.content_hash, command.labels_hash)
    with monkeypatch.context() as patched:
        patched.setattr(cache, "tensor_hash", None)  # a run does not hash cached tensors
        assert are_equal(load("npz", own_images, planned=planned, train_size=50), command)

    fresh_cache.rename(fresh_cache.parent / "elsewhere")
    for hashes in (planned, planned._replace(labels_hash=None)):
        assert are_equal(load("npz", own_images, planned=hashes, train_size=50), command)
    with pytest.raises(DataError, match="changed since the plan"):
        load("npz", own_images, planned=planned._replace(labels_hash="0" * 16), train_size=50)

    np.savez(own_images.data, data=noise(200, 3, 8, 8, seed=1), labels=np.arange(200))
    with pytest.raises(DataError, match="changed since the plan: start the command"):
        load("npz", own_images, planned=planned, train_size=50)

    digits = load_images("digits")  # not in a file, and so not in the cache
    planned_digits = ExpectedHashes(digits.content_hash, None)
    assert load("digits", DataOptions(), planned=planned_digits).classes == 10


def flip_a_bit_of_the_images(path: Path) -> None:
    """Changes one bit of the second image."""
    content = path.read_bytes()
    start = content.index(noise(200, 3, 8, 8)[1:].tobytes()[:99])
    path.write_bytes(flip_bit(content, start))


def replace_by_other_file(path: Path) -> None:
    """Replaces the file by a complete one with another name."""
    cached("other", lambda: {"x": torch.zeros(3)})
    path.write_bytes(path.with_name("other").read_bytes())
    path.with_name("other").unlink()


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("{"),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "flipped": flip_a_bit_of_the_images,
    "pickle": lambda path: path.write_bytes(pickle.dumps(print)),
    "hostile": lambda path: torch.save({"digest": Opened(), "tensors": {}}, path),
    "other": replace_by_other_file,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_swapped_file_is_not_used(damage, fresh_cache, caplog):
    def build() -> dict:
        return {"x": torch.from_numpy(noise(200, 3, 8, 8)), "note": ("a", 1)}

    cached("mine", build)
    DAMAGES[damage](fresh_cache / "mine")

    values = cached("mine", build)
    assert torch.equal(values["x"], build()["x"])
    assert values["note"] == ("a", 1)
    assert f"{fresh_cache / 'mine'} is not used" in caplog.text
    assert "set aside as mine.corrupt" in caplog.text
    assert names_in(fresh_cache) == ["mine", "mine.corrupt"]
    assert cached("mine", lambda: 1 / 0)["note"] == ("a", 1)


def test_a_failed_build_leaves_nothing_and_a_full_disk_no_cache(fresh_cache, monkeypatch, caplog):
    with pytest.raises(ZeroDivisionError):
        cached("mine", lambda: 1 / 0)

    def save_on_full_disk(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", save_on_full_disk)
    assert cached("mine", lambda: {"x": 1}) == {"x": 1}
    assert "is not cached (cannot write" in caplog.text
    assert names_in(fresh_cache) == []

    monkeypatch.setenv("PYTHAE_FIF_CACHE", "/dev/null/cache")
    assert cached("mine", lambda: {"x": 2}) == {"x": 2}


def build_slowly(value: int, barrier, results) -> None:
    """Body of a process: waits for the others, then reads or builds the same file."""
    build_calls = []

    def build() -> dict[str, torch.Tensor]:
        build_calls.append(value)
        time.sleep(0.1)
        return {"x": torch.tensor(value)}

    barrier.wait()
    values = cached("value", build)
    results.put((int(values["x"]), len(build_calls)))


def test_processes_at_the_same_time_build_one_complete_file(fresh_cache):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    results = context.Queue()
    processes = [
        context.Process(target=build_slowly, args=(value, barrier, results)) for value in range(4)
    ]
    for process in processes:
        process.start()
    values_and_builds = [results.get(timeout=20) for _ in processes]
    for process in processes:
        process.join(timeout=20)

    assert len({value for value, _ in values_and_builds}) == 1
    assert sum(build_count for _, build_count in values_and_builds) == 1
    assert names_in(fresh_cache) == ["value"]


def test_unchanged_files_are_decoded_once(tmp_path):
    fill_folder(tmp_path / "mine", 150)
    calls: list[tuple[int, int]] = []

    def read(size: int = 8) -> list[tuple[int, int]]:
        calls.clear()
        mine = DataOptions(data=str(tmp_path / "mine"))
        load("folder", mine, image_size=size, progress=lambda *counts: calls.append(counts))
        return calls

    assert {total for _, total in read()} == {150} and calls[-1] == (150, 150)
    assert not read() and read(9) and not read()

    os.utime(tmp_path / "mine/0003.png", ns=(1, 1))
    assert read(), "a file changed"


def test_tensor_hash_depends_on_every_number_shape_and_type():
    images = torch.from_numpy(noise(30, 1, 8, 8))
    tensors = [images, images + 1, images[:3], images.reshape(30, 1, 4, 16), images.float()]
    hashes = {tensor_hash(tensor) for tensor in [*tensors, images.clone()]}
    assert len(hashes) == len(tensors)
