"""The four published tables from files of the archive's form, GAS' pickle, and errors."""

import os
import pickle
import time

import numpy as np
import pytest
from support.tabular_files import LATENT, PickledCall, gas_columns, old_frame

from pythae_fif.data import load_images
from pythae_fif.data.frame_pickle import read_frame_pickle
from pythae_fif.data.sets.papamakarios import load_tabular
from pythae_fif.data.splits import SPLIT_NAMES
from pythae_fif.errors import ConfigError, DataError

COLUMNS = {"power": 6, "gas": 8, "hepmass": 21, "miniboone": 43}


@pytest.mark.parametrize("name", LATENT)
def test_shapes_are_the_published_ones(archive, name):
    splits = load_tabular(name, archive)
    assert splits.input_dim == (COLUMNS[name],)
    # HEPMASS: only the signal class, and a separate test file.
    sizes = (180, 20, 100) if name == "hepmass" else (324, 36, 40)
    assert tuple(len(splits[split]) for split in SPLIT_NAMES) == sizes
    assert splits.partial
    assert f"{'/'.join(map(str, sizes))} of " in splits.source

    train_and_val = np.concatenate([splits.train, splits.val])
    np.testing.assert_allclose(train_and_val.mean(0), 0, atol=0.2 if name == "gas" else 1e-5)
    first, second = (load_images(name, archive) for _ in range(2))  # the second from the cache
    assert first.columns == second.columns
    assert first.content_hash == second.content_hash
    assert (first.train == splits.train).all()


def test_columns_have_names_and_units(archive):
    raw = np.load(archive / "miniboone" / "data.npy")
    splits = load_images("miniboone", archive)
    assert splits.columns.names[::42] == ["c1", "c43"]
    np.testing.assert_allclose(splits.columns.inverse_transform(splits.test), raw[-40:], atol=1e-4)
    assert load_images("power", archive).columns.names[1] == "voltage"


def test_gas_keeps_one_of_each_pair_and_divides_by_the_unbiased_deviation(archive):
    splits = load_tabular("gas", archive)
    rows = np.concatenate([splits[split] for split in SPLIT_NAMES])
    columns = gas_columns()
    sensors = np.stack([columns[f"s{i}b"] for i in range(8)], 1)  # the first of a pair is dropped
    expected = (sensors - sensors.mean(0)) / sensors.std(0, ddof=1)
    np.testing.assert_allclose(rows, expected, atol=1e-5)


def test_hepmass_drops_repeated_columns_of_the_signal_class(archive):
    splits = load_tabular("hepmass", archive)
    raw = np.loadtxt(archive / "hepmass" / "1000_train.csv", delimiter=",", skiprows=1)
    signal = raw[raw[:, 0] == 1, 1:]
    columns = [i for i in range(27) if i not in (3, 8, 12, 16, 20, 24)]
    expected = (signal - signal.mean(0)) / signal.std(0, ddof=1)
    np.testing.assert_allclose(splits.train, expected[:-20, columns], atol=1e-5)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "content_hash"), [("power", "c95a5626a81903da"), ("miniboone", "8c53961365c99375")]
)
def test_hashes_of_the_real_parts_never_change(shared, name, content_hash):
    splits = load_tabular(name, shared / "data")
    assert splits.content_hash == content_hash
    assert splits.partial
    np.testing.assert_allclose(splits.test.mean(0), 0, atol=0.3)


def test_an_unknown_table_is_named():
    with pytest.raises(ConfigError, match="table 'powr' is unknown: did you mean 'power'"):
        load_tabular("powr")


def test_wrong_archive_files_are_refused_in_one_line(tmp_path):
    advice = r": unpack https://zenodo.* or set --data-root"
    for name in LATENT:
        (tmp_path / name).mkdir()
        with pytest.raises(DataError, match=f"no {name} data in .*it is missing.*{advice}"):
            load_images(name, tmp_path)
    with pytest.raises(ConfigError, match=r"'power' does not take columns, .*: it applies to csv"):
        load_images("power", tmp_path, label="x")

    np.save(tmp_path / "power" / "data.npy", np.ones((50, 7)))
    (tmp_path / "miniboone" / "data.npy").write_bytes(b"")
    (tmp_path / "gas" / "ethylene_CO.pickle").write_bytes(b"")
    for part in ("train", "test"):
        (tmp_path / "hepmass" / f"1000_{part}.csv").write_text("label;f0\n1;2\n")

    for name in LATENT:
        with pytest.raises(DataError, match=f"no {name} data in .*{advice}"):
            load_images(name, tmp_path)


FRAME_PICKLE = old_frame({name: np.arange(30.0) for name in ("a", "b", "c")})
BOMBS = {
    "marks": b"(" * 250_000 + b".",
    "exabytes": b"\x8e" + (2**62).to_bytes(8, "little") + b".",
    "digits": b"L" + b"9" * 10**6 + b"L\n.",
    "empty": b"",
    "another": pickle.dumps({"a": [1, 2]}),
    "addresses": FRAME_PICKLE.replace(b"f8", b"O8"),  # NumPy would take the numbers for pointers
    "build": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}U\x06markedK\x01sb.",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_pickle_of_something_else_is_refused_at_once(tmp_path, bomb):
    check_refused(BOMBS[bomb], tmp_path)
    assert not hasattr(np.zeros(0).__reduce__()[0], "marked")


@pytest.mark.parametrize("function", [os.system, eval, __import__])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path, function):
    mark = tmp_path / "mark"
    arguments = {
        os.system: f"touch {mark}",
        eval: f"open({str(mark)!r}, 'w')",
        __import__: "antigravity",
    }
    call = PickledCall(function, (arguments[function],))
    check_refused(pickle.dumps(call, 2), tmp_path)
    assert not mark.exists()


def check_refused(content: bytes, folder) -> None:
    """Checks that a pickle is refused quickly."""
    path = folder / "frame.pickle"
    path.write_bytes(content)
    start = time.process_time()
    with pytest.raises(DataError, match="not a pickled data frame"):
        read_frame_pickle(path)
    assert time.process_time() - start < 2
