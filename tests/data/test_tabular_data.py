"""Tabular data sets on files of the archive's form, own tables, and their errors."""

import copy
import dataclasses
import datetime
import gzip
import hashlib
import io
import os
import pickle
import pickletools
import tarfile
import time
from decimal import Decimal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pythae.models import AE, VAMP, AEConfig, VAMPConfig
from support.tabular_files import (
    LATENT,
    ROWS,
    Made,
    gas_columns,
    old_frame,
    table,
    write_csv,
)
from support.web import Page

from pythae_fif.data import load_images, tabular
from pythae_fif.data.columns import Columns
from pythae_fif.data.frame_pickle import read_frame_pickle
from pythae_fif.data.names import TableOptions
from pythae_fif.data.splits import SPLIT_NAMES, shuffled_split
from pythae_fif.data.tables import read_table
from pythae_fif.data.tabular import download_tabular, load_tabular
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.models import FIF, FIFConfig
from pythae_fif.nn import build_networks

COLUMNS = {"power": 6, "gas": 8, "hepmass": 21, "miniboone": 43}


@pytest.mark.parametrize("name", LATENT)
def test_shapes_are_the_published_ones(archive, name):
    splits = load_tabular(name, archive, latent_dim=LATENT[name])
    assert splits.input_dim == (COLUMNS[name],)
    sizes = {
        "hepmass": (180, 20, 100),  # the signal half; a test file of its own
    }.get(name, (324, 36, 40))
    assert (len(splits.train), len(splits.val), len(splits.test)) == sizes
    assert splits.train.dtype == np.float32
    assert splits.partial and "a part of the published" in splits.source
    both = np.concatenate([splits.train, splits.val])
    np.testing.assert_allclose(both.mean(0), 0, atol=0.2 if name == "gas" else 1e-5)
    assert splits.content_hash == load_tabular(name, archive, latent_dim=2).content_hash


def test_power_is_shuffled_with_noise_of_each_columns_resolution(archive):
    raw = np.load(archive / "power" / "data.npy")
    draws = np.random.RandomState(42)
    order = np.arange(ROWS)
    draws.shuffle(order)
    draws.rand(ROWS, 1), draws.rand(ROWS, 1), draws.rand(ROWS, 3)
    splits = load_tabular("power", archive, latent_dim=3)
    rows = np.concatenate([splits.train, splits.val, splits.test])
    time = raw[order][:, 7]  # without noise: the last column
    expected = (time - time[:360].mean()) / time[:360].std()
    np.testing.assert_allclose(rows[:, 5], expected, atol=1e-5)
    # the metering columns have noise of a whole unit, the power column next to none
    correlation = [np.corrcoef(rows[:, i], raw[order][:, j])[0, 1] for i, j in ((0, 0), (2, 4))]
    assert correlation[0] > 0.9999 and 0.9 < correlation[1] < 0.99


def test_gas_keeps_one_of_each_pair_and_divides_by_the_unbiased_deviation(archive):
    splits = load_tabular("gas", archive, latent_dim=2)
    rows = np.concatenate([splits.train, splits.val, splits.test])
    kept = np.stack([gas_columns()[f"s{i}b"] for i in range(8)], 1)  # the first of a pair goes
    np.testing.assert_allclose(rows, (kept - kept.mean(0)) / kept.std(0, ddof=1), atol=1e-5)


def test_hepmass_drops_repeated_columns_of_the_signal_class(archive):
    splits = load_tabular("hepmass", archive, latent_dim=10)
    raw = np.loadtxt(archive / "hepmass" / "1000_train.csv", delimiter=",", skiprows=1)
    signal = raw[raw[:, 0] == 1, 1:]
    kept = [i for i in range(27) if i not in (3, 8, 12, 16, 20, 24)]
    expected = (signal - signal.mean(0)) / signal.std(0, ddof=1)
    np.testing.assert_allclose(splits.train, expected[:-20, kept], atol=1e-5)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["power", "miniboone"])
def test_real_parts(shared, name):
    splits = load_tabular(name, shared / "data", latent_dim=LATENT[name])
    assert splits.input_dim == (COLUMNS[name],) and splits.partial
    np.testing.assert_allclose(splits.test.mean(0), 0, atol=0.3)


# ---------------------------------------------------------------- the pickle


@pytest.mark.parametrize("function", [os.system, eval, np.load, __import__])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path, function):
    mark = tmp_path / "mark"
    words = {os.system: f"touch {mark}", eval: f"open({str(mark)!r}, 'w')"}
    path = tmp_path / "frame.pickle"
    path.write_bytes(pickle.dumps(Made(function, (words.get(function, "antigravity"),)), 2))
    with pytest.raises(
        DataError, match=r"which the published table does not need: not read"
    ) as caught:
        read_frame_pickle(path)
    assert not mark.exists() and "\n" not in str(caught.value)


DOUBLED = b")q\x00" + b"h\x00h\x00\x86q\x00" * 60
"""A tuple of two of a tuple of two, 60 times."""
BOMBS = {
    "doubled": b"\x80\x02" + DOUBLED + b".",
    "marks": b"(" * 250_000 + b".",
    "exabytes": b"\x8e" + (2**62).to_bytes(8, "little") + b".",
    "digits": b"L" + b"9" * 10**6 + b"L\n.",
    "extension": b"\x82\x01.",
    "buffer": b"\x80\x05\x97.",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_pickle_that_would_never_end_is_refused_at_once(tmp_path, bomb):
    (tmp_path / "frame.pickle").write_bytes(BOMBS[bomb])
    start = time.process_time()
    with pytest.raises(DataError, match=r"frame\.pickle: "):
        read_frame_pickle(tmp_path / "frame.pickle")
    assert time.process_time() - start < 2


def test_pointers_are_not_followed_and_nothing_is_changed(tmp_path):
    """Arrays of objects, whose bytes NumPy takes for addresses, and BUILD on its functions."""
    numbers = old_frame({"a": np.arange(20.0)})
    assert b"f8" in numbers
    path = tmp_path / "frame.pickle"
    path.write_bytes(numbers.replace(b"f8", b"O8"))
    with pytest.raises(DataError, match="something else than a data frame of numbers"):
        read_frame_pickle(path)
    reconstruct = np.zeros(0).__reduce__()[0]
    built = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}U\x06markedK\x01sb."
    path.write_bytes(built)
    with pytest.raises(DataError):
        read_frame_pickle(path)
    assert not hasattr(reconstruct, "marked")


REAL = old_frame({name: np.arange(30.0) for name in ("a", "b", "c")})
FLIPS = st.lists(st.tuples(st.integers(0, len(REAL) - 1), st.integers(0, 255)), max_size=6)
OPERATIONS = st.lists(
    st.sampled_from([op.code.encode("latin1") for op in pickletools.opcodes])
    | st.sampled_from([b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"U\x02f8", b"K\x00", b"q\x00"])
    | st.binary(max_size=3),
    max_size=40,
)


@given(flips=FLIPS)
@settings(max_examples=60, deadline=None)
def test_flipped_bytes_are_the_right_table_or_an_error(flips, tmp_path_factory):
    content = bytearray(REAL)
    for place, value in flips:
        content[place] = value
    _is_a_table_or_an_error(bytes(content), tmp_path_factory)


@given(operations=OPERATIONS)
@settings(max_examples=60, deadline=None)
def test_any_operations_are_a_table_or_an_error(operations, tmp_path_factory):
    _is_a_table_or_an_error(b"\x80\x02" + b"".join(operations) + b".", tmp_path_factory)


def _is_a_table_or_an_error(content: bytes, folders) -> None:
    path = folders.getbasetemp() / "fuzzed.pickle"
    path.write_bytes(content)
    start = time.process_time()
    try:
        table = read_frame_pickle(path)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert all(values.dtype == np.float64 and values.ndim == 1 for values in table.values())
    assert time.process_time() - start < 2


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([1, 2]), pickle.dumps({})])
def test_another_pickle_is_one_line(tmp_path, content):
    (tmp_path / "frame.pickle").write_bytes(content)
    with pytest.raises(DataError, match=r"frame\.pickle: ") as caught:
        read_frame_pickle(tmp_path / "frame.pickle")
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- own tables


def test_csv_and_npy_give_the_same_splits(tmp_path):
    write_csv(tmp_path / "t.csv", table())
    np.save(tmp_path / "t.npy", table())
    one, two = (
        load_tabular("csv", data=tmp_path / f"t.{suffix}", latent_dim=2)
        for suffix in ("csv", "npy")
    )
    assert one.content_hash == two.content_hash and not one.partial
    assert (len(one.train), len(one.val), len(one.test)) == (96, 12, 12)
    np.testing.assert_allclose(one.train.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(one.train.std(0), 1, atol=1e-6)


def test_parquet_gives_the_same_splits(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = dict(zip("abc", table().T, strict=True))
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    np.save(tmp_path / "t.npy", table())
    one, two = (
        load_tabular("csv", data=tmp_path / f"t.{suffix}", latent_dim=2)
        for suffix in ("parquet", "npy")
    )
    assert one.content_hash == two.content_hash


def test_parquet_of_pandas_is_without_its_index(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    frame = pandas.DataFrame(table(61), columns=list("abc"))[1:].sample(frac=1, random_state=0)
    frame.to_parquet(tmp_path / "t.parquet")
    assert "__index_level_0__" in parquet.read_schema(tmp_path / "t.parquet").names
    names, rows = read_table(tmp_path / "t.parquet")
    assert names == list("abc")
    np.testing.assert_array_equal(rows, frame.to_numpy())


def test_kinds_of_parquet_columns(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    day = datetime.datetime(2024, 1, 1)
    good = {
        "int": pyarrow.array([1, 2**60], pyarrow.int64()),
        "half": pyarrow.array(np.array([1, 2.5], np.float16)),
        "decimal": pyarrow.array([Decimal("1.5"), Decimal("2.25")]),
    }
    parquet.write_table(pyarrow.table(good), tmp_path / "t.parquet")
    names, rows = read_table(tmp_path / "t.parquet")
    assert names == list(good)
    assert rows.tolist() == [[1, 1, 1.5], [2.0**60, 2.5, 2.25]]
    for values in ([True, False], ["1", "2"], [day, day], [day - day] * 2, [None, None]):
        parquet.write_table(pyarrow.table({**good, "odd": values}), tmp_path / "t.parquet")
        with pytest.raises(DataError, match=r"t\.parquet: column 'odd' is .*, needs integers"):
            read_table(tmp_path / "t.parquet")
    holes = {"a": [Decimal("1.5"), None], "b": [1, 2]}
    parquet.write_table(pyarrow.table(holes), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"NaN .*row 2, column 1"):
        read_table(tmp_path / "t.parquet")
    for content in (b"", b"PAR1", (tmp_path / "t.parquet").read_bytes()[:-9]):
        (tmp_path / "u.parquet").write_bytes(content)
        with pytest.raises(DataError, match=r"u\.parquet: not a readable table of numbers"):
            read_table(tmp_path / "u.parquet")


@pytest.mark.parametrize(
    "values, said",
    [
        ([1e200, -1e200], r"t\.npy: column 2 has mean .* and standard deviation inf, needs finite"),
        ([1e-200, -1e-200], r"t\.npy: column 2 has mean .* and standard deviation 0, needs finite"),
        ([1e308, -1e308], r"t\.npy: column 2 has mean"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_columns_that_cannot_be_standardised_are_named(tmp_path, values, said):
    rows = table()
    rows[:, 1] = np.tile(values, 60)
    np.save(tmp_path / "t.npy", rows)
    with pytest.raises(DataError, match=said):
        load_tabular("csv", data=tmp_path / "t.npy", latent_dim=2)


@pytest.mark.filterwarnings("error")
def test_a_value_too_large_outside_the_training_rows_is_found(tmp_path):
    rows = table()
    rows[shuffled_split(120, 0)["test"][1], 2] = 1e200
    np.save(tmp_path / "t.npy", rows)
    with pytest.raises(DataError, match=r"standardised test rows: 1 NaN or .*row 2, column 3"):
        load_tabular("csv", data=tmp_path / "t.npy", latent_dim=2)


def test_a_column_of_the_archive_that_cannot_be_standardised_is_named(tmp_path):
    (tmp_path / "miniboone").mkdir()
    rows = table(50, 43)
    rows[::2, 6] = 1e200
    np.save(tmp_path / "miniboone" / "data.npy", rows)
    with pytest.raises(DataError, match="column 7 has mean"):
        load_tabular("miniboone", tmp_path, latent_dim=2)


GOOD = "\n".join(f"{i},{i * i},{-i}" for i in range(120))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b,c\n1,2\n" + GOOD, r"line 2: 2 values for 3 columns, column 'c' is missing"),
        ("a,b,c\n1,2,3,4\n" + GOOD, r"line 2: 4 values for 3 columns"),
        ("a,b,c\n1,nan,3\n" + GOOD, r"line 2, column 'b': 'nan' is not a number; --missing"),
        ("a,b,c\n1,,3\n" + GOOD, r"line 2, column 'b': '' is not a number; --missing drop of"),
        ("a,b,c\n1,2024_01,3\n" + GOOD, r"line 2, column 'b': '2024_01' is not a number$"),
        ("a,b,c\n1,x,3\n" + GOOD, r"line 2, column 'b': 'x' is not a number$"),
        ("a;b;c\n1;2;3\n", r"1 columns when separated by ','; it looks separated by ';' \("),
        ("a\tb\tc\n1\t2\t3\n", r"it looks separated by '\\t'"),
        (GOOD, r"the first line is numbers, .* or --no-header"),
        ("1.5,?,3\n" + GOOD, r"the first line is numbers, .* or --no-header"),
        (",a,b\n" + GOOD, r"column 1 has no name: an index that pandas wrote\? .* index=False"),
        ("a,b, \n" + GOOD, r"t\.csv: column 3 has no name$"),
        ("a,b, a\n" + GOOD, r"t\.csv: two columns are named 'a'$"),
        ("", r"0 columns when separated by ','"),
        ("a,b,c\n" + "\n".join(GOOD.split("\n")[:99]), r"99 rows, .* at least 100 are needed"),
        ("a,b\n" + "\n".join(f"{i},1" for i in range(120)), r"column 'b' is constant"),
    ],
)  # fmt: skip
def test_a_wrong_csv_is_one_line(tmp_path, text, said):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        load_tabular("csv", data=tmp_path / "t.csv", latent_dim=2)
    assert "\n" not in str(caught.value) and "t.csv" in str(caught.value)


@pytest.mark.parametrize("separator", [";;", '"', "\n"])
def test_a_wrong_separator_is_one_line(tmp_path, separator):
    write_csv(tmp_path / "t.csv", table())
    with pytest.raises(DataError, match=r"--separator .* a single character is needed"):
        read_table(tmp_path / "t.csv", TableOptions(separator=separator))


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.where(np.arange(180).reshape(60, 3) == 4, np.nan, 1.0), "row 2, column 2"),
        (np.zeros(5), "rows x columns"),
        (np.array([["a", "b"]] * 30), "numbers"),
    ],
)
def test_a_wrong_npy_is_one_line(tmp_path, array, said):
    np.save(tmp_path / "t.npy", array)
    with pytest.raises(DataError, match=said):
        load_tabular("csv", data=tmp_path / "t.npy", latent_dim=2)


@pytest.mark.parametrize(
    ("name", "separator", "options"),
    [
        ("t.tsv", "\t", {}),
        ("t.csv", ";", {"separator": ";"}),
        ("t.csv.gz", ",", {}),
        ("t.TSV.gz", "|", {"separator": "|", "no_header": True}),
    ],
)
def test_forms_of_text(tmp_path, name, separator, options):
    lines = [] if "no_header" in options else [["alpha", "beta", "gamma"]]
    lines += [list(map(repr, row)) for row in table().tolist()]
    text = "\n".join(map(separator.join, lines)).encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    names, rows = read_table(tmp_path / name, TableOptions(**options))
    assert names == (["c1", "c2", "c3"] if "no_header" in options else lines[0])
    np.testing.assert_array_equal(rows, table())


@pytest.mark.parametrize("missing", ["drop", "impute"])
def test_missing_values(tmp_path, missing):
    rows = table(120)
    rows[[3, 50], [0, 2]] = np.nan
    write_csv(tmp_path / "t.csv", rows)
    splits = load_images("csv", data=tmp_path / "t.csv", table=TableOptions(missing=missing))
    back = np.concatenate([splits.columns.restored(splits[s]) for s in SPLIT_NAMES])
    if missing == "drop":
        expected = rows[~np.isnan(rows).any(axis=1)]
        assert splits.source.endswith("; 2 rows with missing values left out")
    else:
        train = rows[shuffled_split(120, 0)["train"]]
        expected = np.where(np.isnan(rows), np.nanmean(train, axis=0), rows)
        assert splits.source.endswith("; 2 missing values are their column's mean in training rows")
    order = [np.lexsort(of.round(3).T) for of in (back, expected)]
    np.testing.assert_allclose(back[order[0]], expected[order[1]], atol=1e-5)
    with pytest.raises(DataError, match="--missing drop"):
        load_images("csv", data=tmp_path / "t.csv")


def test_own_table_keeps_its_units_in_the_cache_and_in_its_hash(tmp_path):
    tables = [table(120), table(120) * 10]
    found = []
    for rows in tables:
        write_csv(tmp_path / "t.csv", rows, header=" height,b,c")
        found.append(load_images("csv", data=tmp_path / "t.csv"))
        assert load_images("csv", data=tmp_path / "t.csv").columns == found[-1].columns
    assert found[0].columns.names == ["height", "b", "c"]
    assert found[0].content_hash != found[1].content_hash
    np.testing.assert_allclose(found[0].train, found[1].train, atol=1e-6)
    with pytest.raises(ConfigError, match="are for csv, not for 'digits'"):
        load_images("digits", table=TableOptions(missing="drop"))


def test_model_in_original_units(tmp_path):
    torch.manual_seed(0)
    nets = build_networks("tabular", (3,), 2)
    model = FIF(FIFConfig(input_dim=(3,), latent_dim=2), *nets).double().eval()
    Columns(["a", "b", "c"], [1.0, 50.0, -3.0], [2.0, 0.1, 30.0]).save(tmp_path)
    columns = Columns.load(tmp_path)
    scale, mean = (torch.tensor(of, dtype=torch.float64) for of in (columns.std, columns.mean))
    x = torch.randn(5, 3, dtype=torch.float64)
    original = columns.original_units(model)
    torch.testing.assert_close(original.embed(x * scale + mean), model.embed(x))
    torch.testing.assert_close(
        original.reconstruct(x * scale + mean), model.reconstruct(x) * scale + mean
    )
    for row, found in zip(x, original.log_prob(x * scale + mean), strict=True):
        z = model.embed(row[None])[0]
        decode = lambda z: model.decoder(z[None]).reconstruction[0] * scale  # noqa: E731
        jacobian = torch.autograd.functional.jacobian(decode, z)
        volume = torch.logdet(jacobian.T @ jacobian) / 2
        expected = torch.distributions.Normal(0, 1).log_prob(z).sum() - volume
        torch.testing.assert_close(found, expected)
    with pytest.raises(DataError, match=r"columns\.json"):
        Columns.load(tmp_path / "elsewhere")
    times = Columns(["a", "b", "time"], [1.0, 50.0, 1.7e9], [2.0, 0.1, 3600.0])
    with pytest.warns(RuntimeWarning, match=r"^columns time lie .* model\.double\(\)"):
        times.original_units(copy.deepcopy(model).float())
    shift, scale = (torch.tensor(of, dtype=torch.float64) for of in (times.mean, times.std))
    torch.testing.assert_close(times.original_units(model).embed(x * scale + shift), model.embed(x))
    vamp = VAMP(VAMPConfig(input_dim=(3,), latent_dim=2))
    with pytest.raises(DataError, match="VAMP keeps standardised rows"):
        columns.original_units(vamp)


ABC = Columns(["a", "b", "c"], [1.0, 50.0, -3.0], [2.0, 0.1, 30.0])


@pytest.mark.parametrize("kind", ["AE", "default networks", "tabular", "whitened"])
def test_model_in_original_units_is_saved_whole(kind, tmp_path):
    if kind == "AE":
        model, load = AE(AEConfig(input_dim=(3,), latent_dim=2)), {}
    else:
        networks = build_networks("tabular", (3,), 2) if kind == "tabular" else ()
        config = FIFConfig(input_dim=(3,), latent_dim=2, whiten=kind == "whitened")
        model, load = FIF(config, *networks), {"trust": True}
    if kind == "whitened":
        model.whiten(torch.randn(50, 3))
    original = ABC.original_units(model)
    original.save(str(tmp_path))
    again = type(model).load_from_folder(str(tmp_path), **load).eval()
    x = torch.tensor(ABC.restored(np.random.default_rng(0).normal(size=(4, 3)))).float()
    torch.testing.assert_close(again.embed(x), original.embed(x))
    torch.testing.assert_close(again.reconstruct(x), original.reconstruct(x))


def test_conditional_model_in_original_units():
    """Labels have no units."""
    model = FIF(FIFConfig(input_dim=(3,), latent_dim=2, condition_dim=4)).eval()
    x = torch.randn(5, 3)
    original = ABC.original_units(model)
    raw = torch.tensor(ABC.restored(x.numpy())).float()
    torch.testing.assert_close(original.embed(raw, 1), model.embed(x, 1), rtol=1e-4, atol=1e-4)
    expected = torch.tensor(ABC.restored(model.reconstruct(x, 1).detach().numpy())).float()
    torch.testing.assert_close(original.reconstruct(raw, 1), expected, rtol=1e-4, atol=1e-4)
    assert original.log_prob(raw, 1).isfinite().all()


def test_arguments_that_do_not_fit_are_named(tmp_path, archive):
    write_csv(tmp_path / "t.csv", table())
    for arguments, said in (
        ({"name": "powr"}, "did you mean 'power'"),
        ({"name": "csv"}, "--data"),
        ({"name": "power", "data": "x.csv"}, "is for the data set csv"),
        ({"name": "csv", "data": tmp_path / "t.csv", "latent_dim": 4}, "1 to 3 is needed"),
        ({"name": "csv", "data": tmp_path / "t.csv", "latent_dim": 0}, "1 to 3 is needed"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_tabular(**{"latent_dim": 2, "data_root": archive, **arguments})
    for path, said in ((tmp_path / "t.txt", "needs a table as"), (tmp_path / "u.csv", "no such")):
        with pytest.raises(DataError, match=said):
            load_tabular("csv", data=path, latent_dim=2)


def test_a_split_has_more_rows_than_the_latent_dimension(tmp_path):
    np.save(tmp_path / "t.npy", table(100, 12))
    assert load_tabular("csv", data=tmp_path / "t.npy", latent_dim=9).source.endswith("80/10/10")
    with pytest.raises(DataError, match=r"t\.npy: .* 10 rows, too few for latent dimension 10"):
        load_tabular("csv", data=tmp_path / "t.npy", latent_dim=10)


def test_wrong_archive_files_are_one_line(tmp_path):
    for name in LATENT:
        (tmp_path / name).mkdir()
        with pytest.raises(DataError, match="is missing; set --data-root"):
            load_tabular(name, tmp_path, latent_dim=2)
    np.save(tmp_path / "power" / "data.npy", np.ones((50, 7)))
    np.save(tmp_path / "miniboone" / "data.npy", table(50, 42))
    columns = gas_columns()
    del columns["Eth"]
    (tmp_path / "gas" / "ethylene_CO.pickle").write_bytes(old_frame(columns))
    for part in ("train", "test"):
        (tmp_path / "hepmass" / f"1000_{part}.csv").write_text("label;f0\n1;2\n")
    for name, said in (
        ("power", "7 columns, needs the 8"),
        ("miniboone", "42 columns are left after cleaning, not the 43"),
        ("gas", "column 'Eth' is missing"),
        ("hepmass", "needs a label and 27 numbers a line"),
    ):
        with pytest.raises(DataError, match=said) as caught:
            load_tabular(name, tmp_path, latent_dim=2)
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- the download


def test_the_archive_is_checked_and_unpacked(tmp_path, archive, web, monkeypatch):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(archive, arcname="data")
        evil = tarfile.TarInfo("../evil")
        tar.addfile(evil, io.BytesIO())
    content = packed.getvalue()
    web.pages["zenodo.org/record/1161203/files/data.tar.gz"] = Page(content)
    to = tmp_path / "to"
    with pytest.raises(DataError, match=r"MD5 checksum .* not used: fetch it by hand and unpack"):
        download_tabular(to)
    assert not any(to.iterdir())
    archive = dataclasses.replace(tabular.ARCHIVE, md5=hashlib.md5(content).hexdigest())
    monkeypatch.setattr(tabular, "ARCHIVE", archive)
    written = download_tabular(to)
    assert len(written) == 5 and not (tmp_path / "evil").exists()
    assert load_tabular("gas", to, latent_dim=2).input_dim == (8,)
    web.pages.clear()
    with pytest.raises(DataError, match=r"cannot download data\.tar\.gz .*404"):
        download_tabular(to)


def test_nothing_is_downloaded_unasked(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("the network was reached for")

    monkeypatch.setattr("requests.Session.send", refuse)
    with pytest.raises(DataError, match=r"zenodo\.org/record/1161203.*CC BY 4\.0"):
        load_tabular("power", tmp_path, latent_dim=3)
