"""Users' tables as they come: what is modelled, what is left out, and the lines on wrong ones."""

import gzip

import numpy as np
import pandas as pd
import pytest
from support.tabular_files import table

from pythae_fif.data import Columns, load_images, load_table
from pythae_fif.data.splits import SPLIT_NAMES
from pythae_fif.data.tables import load_tabular
from pythae_fif.errors import ConfigError, DataError


def restored(splits) -> np.ndarray:
    """All rows in original units, in an order of their own."""
    rows = np.concatenate(
        [splits.columns.inverse_transform(splits[split]) for split in SPLIT_NAMES]
    )
    return rows[np.lexsort(rows.round(2).T)]


def adult_line(row: int) -> str:
    work, pay = ("State-gov", "?", "Private")[row % 3], ("<=50K", ">50K")[row % 4 == 0]
    numbers = f"{20 + row % 50}, {work}, {77516 + 13 * row}, Bachelors, {row % 16}"
    texts = "Never-married, Adm-clerical, Not-in-family, White, Male"
    return f"{numbers}, {texts}, {2174 * (row % 5 == 0)}, {row % 7}, {40 - row % 9}, Cuba, {pay}"


def hour_line(row: int) -> str:
    day = f"2011-{1 + row // 28 % 12:02}-{1 + row % 28:02}"
    temperature = round(0.02 * (row * 7 % 49), 2)
    return f"{row + 1},{day},{1 + row // 90 % 4},0,{row % 24},{temperature},{row * 37 % 900}"


def kegg_line(row: int) -> str:
    gap = "?" if row % 50 == 0 else str(row % 11)
    return f"path:hsa{row:05},{row % 7},{gap},{0.001 * (row * 17 % 999):.3f},0"


@pytest.mark.parametrize(
    ("name", "lines", "columns", "left_out", "rows"),
    [
        (
            "adult.data",
            [adult_line(row) for row in range(400)] + ["", ""],
            ["c1", "c3", "c5", "c11", "c12", "c13"],
            {"c2": "text", "c15": "text"},
            400,
        ),
        (
            "hour.csv",
            ["instant,dteday,season,yr,hr,temp,cnt", *map(hour_line, range(400))],
            ["season", "hr", "temp", "cnt"],
            {"instant": "a counter", "dteday": "text", "yr": "constant"},
            400,
        ),
        (
            "Relation Network (Directed).data",
            [kegg_line(row) for row in range(400)],
            ["c2", "c3", "c4"],
            {"c1": "text", "c5": "constant"},
            392,
        ),
    ],
)
def test_tables_of_uci_as_downloaded(name, lines, columns, left_out, rows, tmp_path):
    (tmp_path / name).write_text("\n".join(lines))
    splits = load_images("csv", data=tmp_path / name)
    assert splits.columns.names == columns and len(restored(splits)) == rows
    for column, reason in left_out.items():
        assert f"{column} ({reason})" in splits.notes[0]
    lost = [note for note in splits.notes if "missing" in note]
    assert lost == [f"{400 - rows} of 400 rows with missing values left out"] * (rows < 400)
    whole = splits.content_hash
    assert load_images("csv", data=tmp_path / name).notes == splits.notes
    assert load_images("csv", data=tmp_path / name, drop=columns[:1]).content_hash != whole


def test_a_column_is_the_class(tmp_path):
    (tmp_path / "adult.data").write_text("\n".join(map(adult_line, range(400))))
    splits = load_images("csv", data=tmp_path / "adult.data", label="c15")
    assert splits.classes == 2
    assert "c15" not in splits.columns.names
    weight = splits.columns.inverse_transform(splits.test)[:, 1]  # tells the row
    rows = np.rint((weight - 77516) / 13).astype(int)
    assert np.array_equal(splits.labels["test"], rows % 4 == 0)
    frame = pd.DataFrame(table(180), columns=[*"abc"]).assign(kind=["x", None, "y"] * 60)
    splits = load_table(frame.astype({"kind": "category"}), label="kind")
    assert splits.classes == 2 and sum(len(splits[split]) for split in SPLIT_NAMES) == 120
    assert splits.labels_hash == load_table(frame, label="kind").labels_hash
    assert splits.notes == ("60 of 180 rows with missing values left out",)


def text_of(separator: str, decimal: str = ".", header: str | None = "a b c") -> bytes:
    lines = [] if header is None else [separator.join(header.split())]
    lines += [separator.join(f"{v:.4f}".replace(".", decimal) for v in row) for row in table()]
    return ("\n".join(lines) + "\n").encode()


@pytest.mark.parametrize(
    ("name", "content", "names", "read"),
    [
        ("t.csv", text_of(", "), "abc", ""),
        ("t.csv", b"\xef\xbb\xbf" + text_of(","), "abc", ""),
        ("t.csv", text_of(";", ","), "abc", ""),
        ("t.txt", text_of(";", ",", None), ["c1", "c2", "c3"], "data"),
        ("t.tsv", text_of("\t", ","), "abc", ""),
        ("t.dat", text_of("   ", header=None), ["c1", "c2", "c3"], "data"),
        ("t.csv.gz", gzip.compress(text_of("|")), "abc", ""),
        ("t.csv", pd.DataFrame(table().round(4)).to_csv().encode(), "012", "names"),
        ("t.csv", text_of(",", header="c1 c2 c3"), ["c1", "c2", "c3"], ""),
        ("t.csv", text_of(",", header="0 1 kind"), ["0", "1", "kind"], "names"),
    ],
)
def test_separator_names_and_decimal_sign_are_found(name, content, names, read, tmp_path):
    (tmp_path / name).write_bytes(content)
    splits = load_table(tmp_path / name)
    assert splits.columns.names == [*names]
    told = [note.split()[-1] for note in splits.notes if "first line" in note]
    assert told == ([read] if read else [])
    commas = name != "t.csv.gz" and (b";" in content or b"\t" in content)
    assert ("commas are read as decimal signs" in splits.notes) == commas
    rows = table().round(4)
    np.testing.assert_allclose(restored(splits), rows[np.lexsort(rows.round(2).T)], atol=1e-5)


def test_hashes_stay_for_ever(tmp_path):
    """They are in the ids of runs."""
    rows = np.random.RandomState(0).randn(300, 4) * [1, 20, 0.1, 3] + [0, 5, 1, -7]
    text = "\n".join(",".join(f"{value:.6f}" for value in row) for row in rows)
    (tmp_path / "t.csv").write_text(f"a,b,c,d\n{text}\n")
    assert load_images("csv", data=tmp_path / "t.csv").content_hash == "6c24071537e5497f"
    assert load_table(pd.read_csv(tmp_path / "t.csv")).content_hash == "6c24071537e5497f"
    (tmp_path / "twice.csv").write_text(f"a,b,c,d\n{text}\n{text}\n")
    (note,) = load_images("csv", data=tmp_path / "twice.csv").notes
    assert note.endswith("of 60 test examples are in training, too")
    study = load_tabular("csv", data=tmp_path / "t.csv")
    assert study.content_hash == "46b5e956941407b8"


ODD = pd.DataFrame(table(), columns=[*"abc"]).assign(
    date=pd.date_range("2020", periods=120),
    typo=["x1", *map(str, range(119))],
    gaps=[1.0, 2.0, *[np.nan] * 118],
    same=[np.nan, *[3.0] * 119],
    empty=None,
    flag=[True, False] * 60,
    whole=pd.array([1, 2, 3, 4, 5, 7] * 20, dtype="Int64"),
    count=range(7, 127),
    **{"Unnamed: 0": [*range(1, 120), 0]},
)


def test_what_is_left_out_and_why():
    splits = load_table(ODD)
    assert splits.columns.names == ["a", "b", "c", "flag", "whole"]
    assert splits.notes == (
        "columns left out: date (text), typo (text), "
        "gaps (more than half missing), same (constant), empty (more than half missing), "
        "count (a counter), Unnamed: 0 (a counter)",
    )
    chosen = load_table(ODD, columns=["count", "a"])
    assert chosen.columns.names == ["count", "a"] and not chosen.notes
    assert load_table(ODD, columns=[*"abc"], drop=["b"]).columns.names == ["a", "c"]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        (
            {"columns": ["a", "typo"]},
            DataError,
            r"1 columns can be modelled, not these: typo \(text\)",
        ),
        ({"columns": ["a"]}, DataError, "1 columns can be modelled, .*at least 2 are needed"),
        ({"drop": ["dat"]}, ConfigError, "has no column 'dat': did you mean 'date'"),
        ({"label": "kind"}, ConfigError, "has no column 'kind'"),
    ],
)
def test_a_wrong_option_is_one_line(options, error, said):
    with pytest.raises(error, match=said):
        load_table(ODD, **options)


NUMBERS = "a,b\n" + "\n".join(f"{i * 7 % 31},{i * 3 % 17}" for i in range(120))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", NUMBERS.replace("\n", ",1\n").replace("b,1", "b"), "needs as many values"),
        ("t.csv", NUMBERS + "\n1,inf", "values are NaN or infinite"),
        ("t.csv", NUMBERS[:200], r"the val split has \d examples, needs at least 10"),
        ("t.csv", "a,b\n" + "x,y\n" * 120, r"0 columns can be .*a \(text\), b \(text\)"),
        ("t.csv", NUMBERS.translate({49: "", 51: ""}), "38 of 120 rows .*: 100 are needed"),
        ("t.tsv", "a\tb\n" + "1,234\t1.5\n" * 120, r"not these: a \(text\), b"),
        ("no.csv", None, "No such file"),
        ("t.csv", "", "needs as many values in each line"),
        ("t.csv", NUMBERS.replace("a,b", "a,a "), "t.csv has several columns 'a'"),
        ("t.csv.gz", "no gzip", "not a readable table"),
    ],
)
def test_a_wrong_file_is_one_line(name, content, said, tmp_path):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said):
        load_table(tmp_path / name)


def test_units_and_names_are_in_the_hash(tmp_path):
    frame = pd.DataFrame(table(), columns=[*"abc"])
    others = [frame, frame * 10, frame.rename(columns={"a": "z"})]
    assert len({load_table(of).content_hash for of in others}) == 3
    columns = Columns(["a", "b"], [1.0, 2.0], [3.0, 4.0])
    assert columns.inverse_transform(np.array([[1.0, -1.0]], np.float32)).tolist() == [[4.0, -2.0]]
