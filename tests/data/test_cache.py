"""The cache: whole, mapped, checked once a command, and nothing of it is run."""

import multiprocessing
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.features import names_in
from support.folders import flipped
from support.image_files import fill_folder, noise
from support.networks import Opened

from pythae_fif.data import ImageDataset, cache, load_images
from pythae_fif.data.cache import cached, tensor_hash
from pythae_fif.data.load import ExpectedHashes, load
from pythae_fif.data.splits import SPLIT_NAMES, Splits
from pythae_fif.errors import DataError
from pythae_fif.names import DataOptions


@pytest.fixture
def own(tmp_path: Path) -> DataOptions:
    """Labelled images in a file of the user."""
    np.savez(tmp_path / "own.npz", data=noise(200, 3, 8, 8), labels=np.arange(200))
    return DataOptions(data=str(tmp_path / "own.npz"))


def same(one: Splits, two: Splits) -> bool:
    texts = (one.source, one.notes, one.partial) == (two.source, two.notes, two.partial)
    arrays = all(np.array_equal(one[split], two[split]) for split in SPLIT_NAMES)
    return texts and arrays and one.labels_hash == two.labels_hash


@pytest.mark.filterwarnings("error")
def test_images_are_those_of_the_file_and_mapped(own, fresh_cache):
    data = np.load(own.data)["data"]
    for _ in range(2):
        splits = load("npz", own)
        (name,) = names_in(fresh_cache)
        assert name in Path("/proc/self/maps").read_text()
        for split in SPLIT_NAMES:
            assert np.array_equal(splits[split], data[splits.labels[split]])
    assert ImageDataset(splits.train[5:]).images.data_ptr() == splits.train[5:].ctypes.data
    splits.train[:] = 0
    assert load("npz", own).train.any(), "nobody writes into the cache"


def test_a_run_without_the_cache_loads_what_was_planned_or_fails(own, fresh_cache, monkeypatch):
    command = load("npz", own, train_size=50)
    planned = ExpectedHashes(command.content_hash, command.labels_hash)
    with monkeypatch.context() as patched:
        patched.setattr(cache, "tensor_hash", None)  # a run does not hash what is cached
        assert same(load("npz", own, planned=planned, train_size=50), command)
    fresh_cache.rename(fresh_cache.parent / "elsewhere")
    for hashes in (planned, planned._replace(labels_hash=None)):
        assert same(load("npz", own, planned=hashes, train_size=50), command)
    with pytest.raises(DataError, match="changed since the plan"):
        load("npz", own, planned=planned._replace(labels_hash="0" * 16), train_size=50)
    np.savez(own.data, data=noise(200, 3, 8, 8, seed=1), labels=np.arange(200))
    with pytest.raises(DataError, match="changed since the plan: start the command"):
        load("npz", own, planned=planned, train_size=50)
    digits = load_images("digits")  # in no file, and so in no cache
    assert (
        load("digits", DataOptions(), planned=ExpectedHashes(digits.content_hash, None)).classes
        == 10
    )


def other(path: Path) -> None:
    """Whole, under another's name."""
    cached("other", lambda: {"x": torch.zeros(3)})
    path.write_bytes(path.with_name("other").read_bytes())
    path.with_name("other").unlink()


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("{"),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "flipped": lambda path: path.write_bytes(
        flipped(path.read_bytes(), path.read_bytes().index(noise(200, 3, 8, 8)[1:].tobytes()[:99]))
    ),
    "pickle": lambda path: path.write_bytes(pickle.dumps(print)),
    "hostile": lambda path: torch.save({"digest": Opened(), "tensors": {}}, path),
    "other": other,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_swapped_file_is_not_used(damage, fresh_cache, caplog):
    def built() -> dict:
        return {"x": torch.from_numpy(noise(200, 3, 8, 8)), "note": ("a", 1)}

    cached("mine", built)
    DAMAGES[damage](fresh_cache / "mine")
    values = cached("mine", built)
    assert torch.equal(values["x"], built()["x"]) and values["note"] == ("a", 1)
    assert f"{fresh_cache / 'mine'} is not used" in caplog.text
    assert "set aside as mine.corrupt" in caplog.text
    assert names_in(fresh_cache) == ["mine", "mine.corrupt"]
    assert cached("mine", lambda: 1 / 0)["note"] == ("a", 1)


def test_a_failed_build_leaves_nothing_and_a_full_disk_no_cache(fresh_cache, monkeypatch, caplog):
    with pytest.raises(ZeroDivisionError):
        cached("mine", lambda: 1 / 0)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert cached("mine", lambda: {"x": 1}) == {"x": 1}
    assert "is not cached (cannot write" in caplog.text and names_in(fresh_cache) == []
    monkeypatch.setenv("PYTHAE_FIF_CACHE", "/dev/null/cache")
    assert cached("mine", lambda: {"x": 2}) == {"x": 2}


def build_slowly(value: int, barrier, results) -> None:
    """Body of a process: waits for the others, then asks for the same file."""
    built = []

    def build() -> dict[str, torch.Tensor]:
        built.append(value)
        time.sleep(0.1)
        return {"x": torch.tensor(value)}

    barrier.wait()
    found = cached("value", build)
    results.put((int(found["x"]), len(built)))


def test_processes_at_once_build_one_whole_file(fresh_cache):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=build_slowly, args=(v, barrier, results)) for v in range(4)]
    for process in processes:
        process.start()
    found, built = zip(*(results.get(timeout=20) for _ in processes), strict=True)
    for process in processes:
        process.join(timeout=20)
    assert len(set(found)) == 1 and sum(built) == 1 and names_in(fresh_cache) == ["value"]


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


def test_tensor_hash_is_of_every_number_shape_and_type():
    images = torch.from_numpy(noise(30, 1, 8, 8))
    kinds = [images, images + 1, images[:3], images.reshape(30, 1, 4, 16), images.float()]
    assert len({tensor_hash(kind) for kind in [*kinds, images.clone()]}) == len(kinds)
