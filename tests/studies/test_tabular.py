"""Tabular data sets on files of the archive's form, own tables, their errors, and the W2 score."""

import csv
import dataclasses
import datetime
import hashlib
import io
import json
import os
import pickle
import tarfile
from decimal import Decimal

import numpy as np
import pytest
import scipy.linalg
import torch
from pythae.models import AutoModel

from pythae_fif.data import archive
from pythae_fif.data.archive import download_tabular
from pythae_fif.data.frame_pickle import read_frame_pickle
from pythae_fif.data.splits import shuffled_split
from pythae_fif.data.tables import read_table
from pythae_fif.data.tabular import load_tabular
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.evaluation.wasserstein import squared_wasserstein
from pythae_fif.reports.published import load_published
from pythae_fif.runs.verify import verify
from pythae_fif.studies import StudyOptions, ablation, tabular, tabular_protocol, tabular_runs

ROWS = 400
LATENT = {"power": 3, "gas": 2, "hepmass": 10, "miniboone": 21}
COLUMNS = {"power": 6, "gas": 8, "hepmass": 21, "miniboone": 43}


# ---------------------------------------------------------------- files of the archive's form


def named(name, module="pandas.core.frame"):
    """A class that pickles by that name, its instances by protocol 2 with ``content`` as state."""
    getstate = lambda self: self.content  # noqa: E731
    return type(name, (), {"__module__": module, "__getstate__": getstate})


DataFrame = named("DataFrame")
BlockManager = named("BlockManager", "pandas.core.internals")
Index = named("Index", "pandas.indexes.base")
NewIndex = named("_new_Index", "pandas.indexes.base")


class OldPickler(pickle._Pickler):
    """Writes classes by name without asking whether they can be imported."""

    def save_global(self, obj, name=None):
        if isinstance(obj, type) and obj.__module__.startswith("pandas."):
            self.write(f"c{obj.__module__}\n{obj.__name__}\n".encode())
            self.memoize(obj)
        else:
            super().save_global(obj, name)

    dispatch = dict(pickle._Pickler.dispatch) | {type: save_global}


class Made:
    """Pickles as ``function(*args)``."""

    def __init__(self, function, args):
        self.parts = (function, args)

    def __reduce__(self):
        return self.parts


def old_frame(columns):
    """A data frame as pandas 0.19 of Python 2 wrote it: protocol 2, one block of floats."""
    labels = np.array(list(columns), dtype=object)
    values = np.stack(list(columns.values()))
    axes = [
        Made(NewIndex, (Index, {"data": labels, "name": None})),
        Made(NewIndex, (Index, {"data": np.arange(values.shape[1]), "name": None})),
    ]
    whole = {"axes": axes, "blocks": [{"values": values, "mgr_locs": slice(0, len(labels), 1)}]}
    state = (axes, [values], [axes[0]], {"0.14.1": whole})
    manager, frame = BlockManager(), DataFrame()
    manager.content = state
    frame.content = {"_metadata": [], "_typ": "dataframe", "_data": manager}
    file = io.BytesIO()
    OldPickler(file, protocol=2).dump(frame)
    return file.getvalue()


def gas_columns():
    """Time, two concentrations and 16 sensors, of which 8 are nearly the same as others."""
    rng = np.random.default_rng(0)
    sensors = rng.normal(size=(8, ROWS))
    columns = {name: rng.normal(size=ROWS) for name in ("Time", "Meth", "Eth")}
    for i in range(8):
        columns[f"s{i}a"] = sensors[i]
        columns[f"s{i}b"] = sensors[i] + 0.01 * rng.normal(size=ROWS)
    return columns


def write_archive(root):
    rng = np.random.default_rng(0)
    for name in LATENT:
        (root / name).mkdir()
    np.save(root / "power" / "data.npy", rng.normal(size=(ROWS, 8)))
    np.save(root / "miniboone" / "data.npy", rng.normal(5, 3, size=(ROWS, 43)))
    (root / "gas" / "ethylene_CO.pickle").write_bytes(old_frame(gas_columns()))
    for part, count in (("train", ROWS), ("test", ROWS // 2)):
        features = rng.normal(size=(count, 27))
        features[:, [3, 8, 12, 16, 20, 24]] = rng.integers(0, 3, size=(count, 6))  # repeated
        label = np.arange(count) % 2
        header = ",".join(["# label", *(f"f{i}" for i in range(27))])
        header += ",mass" if part == "test" else ""  # as in the archive: a name too many
        lines = [",".join(map(repr, map(float, row))) for row in np.c_[label, features]]
        (root / "hepmass" / f"1000_{part}.csv").write_text("\n".join([header, *lines]) + "\n")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    write_archive(folder)
    return folder


@pytest.mark.parametrize("name", LATENT)
def test_shapes_are_the_published_ones(root, name):
    splits = load_tabular(name, root, latent_dim=LATENT[name])
    assert splits.input_dim == (COLUMNS[name],)
    sizes = {
        "hepmass": (180, 20, 100),  # the signal half; a test file of its own
    }.get(name, (324, 36, 40))
    assert (len(splits.train), len(splits.val), len(splits.test)) == sizes
    assert splits.train.dtype == np.float32
    assert splits.partial and "a part of the published" in splits.source
    both = np.concatenate([splits.train, splits.val])
    np.testing.assert_allclose(both.mean(0), 0, atol=0.2 if name == "gas" else 1e-5)
    assert splits.content_hash == load_tabular(name, root, latent_dim=2).content_hash


def test_power_is_shuffled_with_noise_of_each_columns_resolution(root):
    raw = np.load(root / "power" / "data.npy")
    draws = np.random.RandomState(42)
    order = np.arange(ROWS)
    draws.shuffle(order)
    draws.rand(ROWS, 1), draws.rand(ROWS, 1), draws.rand(ROWS, 3)
    splits = load_tabular("power", root, latent_dim=3)
    rows = np.concatenate([splits.train, splits.val, splits.test])
    time = raw[order][:, 7]  # without noise: the last column
    expected = (time - time[:360].mean()) / time[:360].std()
    np.testing.assert_allclose(rows[:, 5], expected, atol=1e-5)
    # the metering columns have noise of a whole unit, the power column next to none
    correlation = [np.corrcoef(rows[:, i], raw[order][:, j])[0, 1] for i, j in ((0, 0), (2, 4))]
    assert correlation[0] > 0.9999 and 0.9 < correlation[1] < 0.99


def test_gas_keeps_one_of_each_pair_and_divides_by_the_unbiased_deviation(root):
    splits = load_tabular("gas", root, latent_dim=2)
    rows = np.concatenate([splits.train, splits.val, splits.test])
    kept = np.stack([gas_columns()[f"s{i}b"] for i in range(8)], 1)  # the first of a pair goes
    np.testing.assert_allclose(rows, (kept - kept.mean(0)) / kept.std(0, ddof=1), atol=1e-5)


def test_hepmass_drops_repeated_columns_of_the_signal_class(root):
    splits = load_tabular("hepmass", root, latent_dim=10)
    raw = np.loadtxt(root / "hepmass" / "1000_train.csv", delimiter=",", skiprows=1)
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


def test_a_frame_of_the_pandas_at_hand_is_read(tmp_path):
    pandas = pytest.importorskip("pandas")
    columns = gas_columns()
    frame = pandas.DataFrame(columns)
    frame.columns = frame.columns.astype(object)  # with pyarrow it has text of its own kind
    frame.to_pickle(tmp_path / "new.pickle")
    ours = read_frame_pickle(tmp_path / "new.pickle")
    assert list(ours) == list(columns)
    for name, values in columns.items():
        np.testing.assert_array_equal(ours[name], values)


@pytest.mark.parametrize("function", [os.system, eval, np.load, __import__])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path, function):
    mark = tmp_path / "mark"
    words = {os.system: f"touch {mark}", eval: f"open({str(mark)!r}, 'w')"}
    path = tmp_path / "frame.pickle"
    path.write_bytes(pickle.dumps(Made(function, (words.get(function, "antigravity"),)), 2))
    with pytest.raises(DataError, match=r"which no table of numbers needs: not read") as caught:
        read_frame_pickle(path)
    assert not mark.exists() and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([1, 2]), pickle.dumps({})])
def test_another_pickle_is_one_line(tmp_path, content):
    (tmp_path / "frame.pickle").write_bytes(content)
    with pytest.raises(DataError, match=r"frame\.pickle: ") as caught:
        read_frame_pickle(tmp_path / "frame.pickle")
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- own tables


def table(rows=60, columns=3):
    return np.random.default_rng(1).normal(3, 2, size=(rows, columns))


def write_csv(path, rows, header="a,b,c"):
    path.write_text("\n".join([header, *(",".join(map(repr, r.tolist())) for r in rows)]) + "\n")


def test_csv_and_npy_give_the_same_splits(tmp_path):
    write_csv(tmp_path / "t.csv", table())
    np.save(tmp_path / "t.npy", table())
    one, two = (
        load_tabular("csv", data=tmp_path / f"t.{suffix}", latent_dim=2)
        for suffix in ("csv", "npy")
    )
    assert one.content_hash == two.content_hash and not one.partial
    assert (len(one.train), len(one.val), len(one.test)) == (48, 6, 6)
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
    np.testing.assert_array_equal(read_table(tmp_path / "t.parquet"), frame.to_numpy())


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
    rows = read_table(tmp_path / "t.parquet")
    assert rows.tolist() == [[1, 1, 1.5], [2.0**60, 2.5, 2.25]]
    for values in ([True, False], ["1", "2"], [day, day], [day - day] * 2, [None, None]):
        parquet.write_table(pyarrow.table({**good, "odd": values}), tmp_path / "t.parquet")
        with pytest.raises(DataError, match=r"t\.parquet: column 'odd' is .*, needs integers"):
            read_table(tmp_path / "t.parquet")
    parquet.write_table(pyarrow.table({"a": [Decimal("1.5"), None]}), tmp_path / "t.parquet")
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
    rows[:, 1] = np.tile(values, 30)
    np.save(tmp_path / "t.npy", rows)
    with pytest.raises(DataError, match=said):
        load_tabular("csv", data=tmp_path / "t.npy", latent_dim=2)


@pytest.mark.filterwarnings("error")
def test_a_value_too_large_outside_the_training_rows_is_found(tmp_path):
    rows = table()
    rows[shuffled_split(60, 0)["test"][1], 2] = 1e200
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


GOOD = "\n".join(f"{i},{i * i},{-i}" for i in range(60))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b,c\n1,2\n" + GOOD, r"line 2: 2 values for 3 columns, column 'c' is missing"),
        ("a,b,c\n1,2,3,4\n" + GOOD, r"line 2: 4 values for 3 columns"),
        ("a,b,c\n1,nan,3\n" + GOOD, r"line 2, column 'b': 'nan' is not a finite number"),
        ("a,b,c\n1,,3\n" + GOOD, r"line 2, column 'b': '' is not a number"),
        ("a;b;c\n1;2;3\n", r"1 columns when separated by ','; it looks separated by ';'"),
        ("a\tb\tc\n1\t2\t3\n", r"it looks separated by '\\t'"),
        (GOOD, r"the first line is numbers"),
        (",a,b\n" + GOOD, r"column 1 has no name: an index that pandas wrote\? .* index=False"),
        ("a,b, \n" + GOOD, r"t\.csv: column 3 has no name$"),
        ("", r"0 columns when separated by ','"),
        ("a,b,c\n" + "\n".join(GOOD.split("\n")[:19]), r"19 rows, too few to split"),
        ("a,b,c\n" + "\n".join(GOOD.split("\n")[:20]), r"too few for latent dimension 2"),
        ("a,b\n" + "\n".join(f"{i},1" for i in range(40)), r"column 2 is constant"),
    ],
)  # fmt: skip
def test_a_wrong_csv_is_one_line(tmp_path, text, said):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        load_tabular("csv", data=tmp_path / "t.csv", latent_dim=2)
    assert "\n" not in str(caught.value) and "t.csv" in str(caught.value)


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


def test_arguments_that_do_not_fit_are_named(tmp_path, root):
    write_csv(tmp_path / "t.csv", table())
    for arguments, said in (
        ({"name": "powr"}, "did you mean 'power'"),
        ({"name": "csv"}, "--data"),
        ({"name": "power", "data": "x.csv"}, "is for the data set csv"),
        ({"name": "csv", "data": tmp_path / "t.csv", "latent_dim": 4}, "1 to 3 is needed"),
        ({"name": "csv", "data": tmp_path / "t.csv", "latent_dim": 0}, "1 to 3 is needed"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_tabular(**{"latent_dim": 2, "data_root": root, **arguments})
    for path, said in ((tmp_path / "t.txt", "needs a table as"), (tmp_path / "u.csv", "no such")):
        with pytest.raises(DataError, match=said):
            load_tabular("csv", data=path, latent_dim=2)


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


def test_the_archive_is_checked_and_unpacked(tmp_path, root):
    packed = tmp_path / "data.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(root, arcname="data")
        evil = tarfile.TarInfo("../evil")
        tar.addfile(evil, io.BytesIO())
    url, md5 = packed.as_uri(), hashlib.md5(packed.read_bytes()).hexdigest()
    with pytest.raises(DataError, match="checksum"):
        download_tabular(tmp_path / "to", url=url)
    assert not any((tmp_path / "to").iterdir())
    written = download_tabular(tmp_path / "to", url=url, md5=md5)
    assert len(written) == 5 and not (tmp_path / "evil").exists()
    assert load_tabular("gas", tmp_path / "to", latent_dim=2).input_dim == (8,)
    with pytest.raises(DataError, match="cannot download"):
        download_tabular(tmp_path / "to", url=(tmp_path / "none").as_uri())


def test_nothing_is_downloaded_unasked(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("the network was reached for")

    monkeypatch.setattr(archive.urllib.request, "urlopen", refuse)
    with pytest.raises(DataError, match=r"zenodo\.org/record/1161203.*CC BY 4\.0"):
        load_tabular("power", tmp_path, latent_dim=3)


# ---------------------------------------------------------------- the score


@pytest.mark.parametrize("dim", [1, 4, 20])
def test_squared_wasserstein_is_scipys_on_known_gaussians(dim):
    rng = np.random.default_rng(dim)
    moments = []
    sets = []
    for _ in range(2):
        root = rng.normal(size=(dim, dim)) + np.eye(dim)
        mean, covariance = rng.normal(size=dim), root @ root.T
        whitened = rng.normal(size=(5 * dim + 5, dim))
        whitened -= whitened.mean(0)
        whitened = whitened @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(whitened.T)))).T
        sets.append(torch.from_numpy(mean + whitened @ np.linalg.cholesky(covariance).T))
        moments.append((mean, covariance))
    (m, a), (n, b) = moments
    cross = scipy.linalg.sqrtm(scipy.linalg.sqrtm(a) @ b @ scipy.linalg.sqrtm(a)).real
    expected = np.sum((m - n) ** 2) + np.trace(a + b - 2 * cross)
    assert squared_wasserstein(*sets) == pytest.approx(expected, rel=1e-6)


# ---------------------------------------------------------------- the studies


@pytest.fixture
def options(tmp_path, monkeypatch):
    """A study of a minute table: two seeds, few steps, small nets."""
    small = tabular_protocol.Nets(hidden_dim=8, data_blocks=2, latent_blocks=1, block_dim=8)
    monkeypatch.setattr(tabular_runs, "Nets", lambda: small)
    load = tabular_protocol.load_table

    def load_small(dataset, options):
        loaded = load(dataset, options)
        changes = {"nets": small, "learning_rates": [1e-3, 1e-2], "epochs": 5}
        profile = loaded.profile.model_copy(update=changes)
        return dataclasses.replace(loaded, profile=profile)

    for study in (tabular, ablation):
        monkeypatch.setattr(study, "load_table", load_small)
    monkeypatch.setattr(tabular_runs, "TIMED_BATCH", 16)
    write_csv(tmp_path / "t.csv", table())
    return StudyOptions(
        results=tmp_path / "results",
        dataset="csv",
        data=str(tmp_path / "t.csv"),
        latent_dim=2,
        seeds=[0, 1],
        command="run_benchmark.py --dataset csv",
    )


def test_table_one_has_a_row_a_model_and_their_speedup(options):
    options = dataclasses.replace(options, models=["fif", "rectangular_flow"])
    told = []
    markdown, values = tabular.run(options, lambda label, share: told.append(share))
    assert told == sorted(told) and told[-1] == 1
    rows = list(csv.DictReader(io.StringIO(values.read_text())))
    assert [row["Model"] for row in rows] == ["FIF", "RF"]
    for row in rows:
        assert float(row["FID-like ↓"]) > 0 and float(row["recon. ↓"]) > 0
        assert row["published FID-like"] == ""  # the paper has no such data
    ratio = float(rows[1]["ms a step"]) / float(rows[0]["ms a step"])
    assert float(rows[0]["speedup ↑"]) == pytest.approx(ratio)
    assert 0 < float(rows[1]["CG steps"]) <= 2
    text = markdown.read_text()
    for word in ("±", "48/6/6 rows", "not the published protocol", "run_benchmark.py"):
        assert word in text
    records = {path: path.stat().st_mtime_ns for path in options.results.rglob("result.json")}
    check_choice([json.loads(path.read_text()) for path in records], rows)
    for path in records:  # Pythae's own form
        for folder in (path.parent / "model").iterdir():
            assert AutoModel.load_from_folder(str(folder)).sample(3).shape == (3, 3)
    tabular.run(options, lambda label, share: None)  # nothing is trained again
    assert records == {p: p.stat().st_mtime_ns for p in options.results.rglob("result.json")}
    assert {f.kind for f in verify(options.results)} <= {"fine", "dirty tree"}  # sealed
    edited = min(records)
    text = edited.read_text()
    edited.write_text(text.replace('"steps": ', '"steps": 1'))
    tabular.run(options, lambda label, share: None)  # that one alone is
    assert (edited.parent / "result.json.corrupt").exists()
    again, before = json.loads(edited.read_text()), json.loads(text)
    assert all(again[key] == before[key] for key in ("steps", "wasserstein", "specification"))


RECORD = {
    **{key: [1.0, 2.0] for key in tabular_runs.SCORES},
    "seconds": 1.0,
    "cg_iterations": None,
    "parameters": 3,
    "provenance": {"device": "cpu"},
}
BROKEN = {
    "a list": lambda record: [1],
    "empty": lambda record: {"specification": {}},
    "another's": lambda record: record | {"specification": record["specification"] | {"data": ""}},
    "a score missing": lambda record: {k: v for k, v in record.items() if k != "code_square"},
    "a score of no number": lambda record: record | {"wasserstein": ["1", 2.0]},
    "too few scores": lambda record: record | {"wasserstein": [1.0]},
    "no device": lambda record: record | {"provenance": {}},
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_what_is_no_record_of_the_training_is_set_aside(options, monkeypatch, change):
    trained = []

    def train(name, rates, table, seeds, folder, on_share):
        folder.mkdir(parents=True, exist_ok=True)
        trained.append(name)
        return RECORD

    monkeypatch.setattr(tabular_runs, "_train", train)
    loaded = tabular_protocol.load_table("csv", options)
    arguments = ("fif", [1e-3] * 2, loaded, [0, 1], options.results, lambda share: None)
    tabular_runs._recorded(*arguments)
    (path,) = options.results.rglob("result.json")
    record = json.loads(path.read_text())
    del record["checksum"]  # as of before there were seals, which is still a record
    path.write_text(json.dumps(record))
    assert tabular_runs._recorded(*arguments).wasserstein == RECORD["wasserstein"]
    assert len(trained) == 1
    path.write_text(json.dumps(change(record)))
    assert tabular_runs._recorded(*arguments).wasserstein == RECORD["wasserstein"]
    assert len(trained) == 2 and json.loads(path.read_text())["checksum"]
    assert json.loads((path.parent / "result.json.corrupt").read_text()) == change(record)


def test_names_of_files_tell_the_table_and_the_latent_dimension(options, root, tmp_path):
    def name(dataset, **changes):
        changed = dataclasses.replace(options, data_root=str(root), **changes)
        return tabular_protocol.load_table(dataset, changed).name

    (tmp_path / "my own, v2.0.csv").write_text((tmp_path / "t.csv").read_text())
    assert name("csv") == "csv-t-d2"
    mine = str(tmp_path / "my own, v2.0.csv")
    assert name("csv", data=mine, latent_dim=1) == "csv-my_own_v2.0-d1"
    named = [name("power", data=None, latent_dim=d) for d in (None, 3, 5)]
    assert named == ["power", "power", "power-d5"]
    for study in (tabular, ablation):
        one = dataclasses.replace(options, models=["fif"])
        assert {path.stem.split("-fif-")[0] for path in study.run(one, lambda *_: None)} == {
            f"{study.__name__.rpartition('.')[2]}-csv-t-d2"
        }


def check_choice(records, rows):
    """Each model has the learning rate at which its first seed is best on validation rows."""
    for row, model in zip(rows, ("fif", "rectangular_flow"), strict=True):
        own = [r for r in records if r["specification"]["configuration"]["model"] == model]
        (tried,) = (r for r in own if r["specification"]["seeds"] == [0, 0])
        (final,) = (r for r in own if r["specification"]["seeds"] == [0, 1])
        assert tried["specification"]["learning_rates"] == [1e-3, 1e-2]
        best = int(np.argmin(tried["validation_wasserstein"]))
        rate = tried["specification"]["learning_rates"][best]
        assert final["specification"]["learning_rates"] == [rate, rate]
        assert float(row["learning rate"]) == rate
        # the first seed trains among others as it trained at another rate's side
        assert final["wasserstein"][0] == pytest.approx(tried["wasserstein"][best], rel=1e-3)


def test_ablation_has_every_row_of_tables_six_and_seven(options):
    paths = ablation.run(options, lambda label, share: None)
    six, seven = (list(csv.DictReader(io.StringIO(p.read_text()))) for p in paths[1::2])
    assert [tuple(row.values())[:3] for row in six] == [
        ("FIF", "free-form", "off manifold"),
        ("FIF", "free-form", "on manifold"),
        ("FIF", "free-form, SiLU", "off manifold"),
        ("FIF", "free-form, SiLU", "on manifold"),
        ("FIF", "coupling", "off manifold"),
        ("RF", "coupling", "off manifold"),
        ("FIF", "coupling", "on manifold"),
        ("RF", "coupling", "on manifold"),
    ]
    assert len(seven) == 6 and seven[2]["reconstruction loss ↓"] == six[0]["recon. ↓"]
    assert seven[5]["Training"] == "Off manifold, SiLU"
    assert seven[5]["reconstruction loss ↓"] == six[2]["recon. ↓"]
    part = dataclasses.replace(options, models=["fif_on"])  # trained already
    markdown, values = ablation.run(part, lambda label, share: None)
    assert markdown.name == "ablation-csv-t-d2-fif_on-quick.md"
    (row,) = csv.DictReader(io.StringIO(values.read_text()))
    assert row["FID-like ↓"] == six[1]["FID-like ↓"]
    unknown = dataclasses.replace(options, models=["fif_of"])
    with pytest.raises(ConfigError, match=r"'fif_of' of the ablation is unknown.*fif_on"):
        ablation.run(unknown, lambda label, share: None)


def test_published_values_stand_in_columns_of_their_own(options, root):
    options = dataclasses.replace(options, dataset="miniboone", data=None, data_root=str(root))
    markdown, _ = tabular.run(dataclasses.replace(options, latent_dim=None), lambda *_: None)
    header, _, row = [line for line in markdown.read_text().splitlines() if line.startswith("|")]
    cells = dict(zip(header.split(" | "), row.split(" | "), strict=True))
    assert cells["published FID-like"] == "0.598 ± 0.024" and cells["FID-like ↓"] != "0.598 ± 0.024"


def test_a_diverged_seed_is_said_and_not_averaged(options):
    record = {"wasserstein": [1.0, float("nan")]}
    assert tabular.spread(record["wasserstein"]).text == "diverged (1 of 2)"
    loaded = tabular_protocol.load_table("csv", options)
    model = tabular_protocol.CONFIGURATIONS["fif"].build((3,), 2, tabular_protocol.Nets())
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    assert np.isnan(list(tabular_runs._scores(model.eval(), loaded, 0).values())).any()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": ["vae"]}, "model 'vae' has no tabular study"),
        ({"dataset": "powr"}, "did you mean 'power'"),
        ({"latent_dim": None}, "needs --latent-dim"),
        ({"latent_dim": 0}, "1 to 3 is needed"),
        ({"profile": "fast"}, "valid: paper, quick"),
    ],
)
def test_wrong_options_are_one_line(options, change, said):
    with pytest.raises(ConfigError, match=said):
        tabular.run(dataclasses.replace(options, **change), lambda *_: None)


@pytest.mark.parametrize("name", LATENT)
def test_protocols_are_those_of_table_five(root, name):
    options = StudyOptions(results=root, data_root=str(root), profile="paper")
    loaded = tabular_protocol.load_table(name, options)
    epochs = {c.at["metric"]: c for c in load_published(5).find(dataset=name) if "metric" in c.at}
    assert loaded.profile.epochs == epochs["epochs"].value
    assert loaded.latent_dim == epochs["latent_dim"].value
    assert loaded.profile.learning_rates == [3e-4 if name == "hepmass" else 1e-4]
