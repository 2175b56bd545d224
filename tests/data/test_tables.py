"""A user's table: modelled and left-out columns, detected formats, and errors of one line."""

import csv
import gzip
import re

import numpy as np
import pandas as pd
import pytest
from support.tabular_files import table

from pythae_fif.data import Columns, load_images, load_table
from pythae_fif.data.splits import SPLIT_NAMES
from pythae_fif.errors import ConfigError, DataError


def rows_in_original_units(splits) -> np.ndarray:
    """Returns the sorted rows of all splits in original units."""
    parts = [splits.columns.inverse_transform(splits[split]) for split in SPLIT_NAMES]
    rows = np.concatenate(parts)
    return rows[np.lexsort(rows.round(2).T)]


def adult_line(row: int) -> str:
    """Returns a line of UCI's table Adult."""
    work = ("State-gov", "?", "Private")[row % 3]
    pay = ">50K" if row % 4 == 0 else "<=50K"
    numbers = f"{20 + row % 50}, {work}, {77516 + 13 * row}, Bachelors, {row % 16}"
    texts = "Never-married, Adm-clerical, Not-in-family, White, Male"
    return f"{numbers}, {texts}, {2174 * (row % 5 == 0)}, {row % 7}, {40 - row % 9}, Cuba, {pay}"


def hour_line(row: int) -> str:
    """Returns a line of UCI's table Bike Sharing."""
    day = f"2011-{1 + row // 28 % 12:02}-{1 + row % 28:02}"
    temperature = round(0.02 * (row * 7 % 49), 2)
    return f"{row + 1},{day},{1 + row // 90 % 4},0,{row % 24},{temperature},{row * 37 % 900}"


def kegg_line(row: int) -> str:
    """Returns a line of UCI's table KEGG."""
    gap = "?" if row % 50 == 0 else str(row % 11)
    return f"path:hsa{row:05},{row % 7},{gap},{0.001 * (row * 17 % 999):.3f},0"


@pytest.mark.parametrize(
    ("name", "lines", "columns", "left_out", "rows"),
    [
        (
            "adult.data",
            [adult_line(row) for row in range(400)] + ["", ""],
            ["c1", "c2", "c3", "c5", "c11", "c12", "c13", "c15"],
            {"c4": "constant", "c14": "constant"},
            267,
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
    assert splits.columns.names == columns
    assert sum(len(splits[split]) for split in SPLIT_NAMES) == rows
    for column, reason in left_out.items():
        assert f"{column} ({reason})" in splits.notes[0]

    row_notes = [note for note in splits.notes if "missing" in note]
    if rows < 400:
        assert row_notes == [f"{400 - rows} of 400 rows with missing values left out"]
    else:
        assert row_notes == []

    assert load_images("csv", data=tmp_path / name).notes == splits.notes
    without_a_column = load_images("csv", data=tmp_path / name, drop=columns[:1])
    assert without_a_column.content_hash != splits.content_hash


def test_a_column_is_the_class(tmp_path):
    (tmp_path / "adult.data").write_text("\n".join(map(adult_line, range(400))))
    splits = load_images("csv", data=tmp_path / "adult.data", label="c15")
    assert splits.classes == 2
    assert "c15" not in splits.columns.names
    weight = splits.columns.to_frame(splits.test)["c3"]
    rows = np.rint((weight - 77516) / 13).astype(int)  # see adult_line
    assert np.array_equal(splits.labels["test"], rows % 4 == 0)


def test_rows_without_a_class_are_left_out():
    frame = pd.DataFrame(table(180), columns=[*"abc"]).assign(kind=["x", None, "y"] * 60)
    splits = load_table(frame.astype({"kind": "category"}), label="kind")
    assert splits.classes == 2
    assert sum(len(splits[split]) for split in SPLIT_NAMES) == 120
    assert splits.labels_hash == load_table(frame, label="kind").labels_hash
    assert splits.notes == ("60 of 180 rows with missing values left out",)


def table_text(separator: str, decimal: str = ".", header: str | None = "a b c") -> bytes:
    """Returns the rows of `table` as the content of a text file."""
    lines = []
    if header is not None:
        lines.append(separator.join(header.split()))
    for row in table():
        lines.append(separator.join(f"{value:.4f}".replace(".", decimal) for value in row))
    return ("\n".join(lines) + "\n").encode()


@pytest.mark.parametrize(
    ("name", "content", "names", "first_line"),
    [
        ("t.csv", table_text(", "), "abc", ""),
        ("t.csv", b"\xef\xbb\xbf" + table_text(","), "abc", ""),
        ("t.csv", table_text(";", ","), "abc", ""),
        ("t.txt", table_text(";", ",", None), ["c1", "c2", "c3"], "data"),
        ("t.tsv", table_text("\t", ","), "abc", ""),
        ("t.dat", table_text("   ", header=None), ["c1", "c2", "c3"], "data"),
        ("t.csv.gz", gzip.compress(table_text("|")), "abc", ""),
        ("t.csv", pd.DataFrame(table().round(4)).to_csv().encode(), "012", "names"),
        ("t.csv", table_text(",", header="c1 c2 c3"), ["c1", "c2", "c3"], ""),
        ("t.csv", table_text(",", header="0 1 kind"), ["0", "1", "kind"], "names"),
        ("t.csv", table_text("\t").decode().encode("utf-16"), "abc", ""),
    ],
)
def test_separator_names_and_decimal_sign_are_detected(name, content, names, first_line, tmp_path):
    (tmp_path / name).write_bytes(content)
    splits = load_table(tmp_path / name)
    assert splits.columns.names == [*names]

    line_notes = [note for note in splits.notes if "first line" in note]
    if first_line:
        assert line_notes == [f"the first line is read as {first_line}"]
    else:
        assert line_notes == []
    has_decimal_commas = name != "t.csv.gz" and (b";" in content or b"\t" in content)
    has_decimal_commas &= not content.startswith(b"\xff\xfe")
    assert ("commas are read as decimal signs" in splits.notes) == has_decimal_commas

    rows = table().round(4)
    expected = rows[np.lexsort(rows.round(2).T)]
    np.testing.assert_allclose(rows_in_original_units(splits), expected, atol=1e-5)


def test_hashes_never_change(tmp_path):
    """The ids of runs contain them."""
    rows = np.random.RandomState(0).randn(300, 4) * [1, 20, 0.1, 3] + [0, 5, 1, -7]
    text = "\n".join(",".join(f"{value:.6f}" for value in row) for row in rows)
    (tmp_path / "t.csv").write_text(f"a,b,c,d\n{text}\n")
    assert load_images("csv", data=tmp_path / "t.csv").content_hash == "6c24071537e5497f"
    assert load_table(pd.read_csv(tmp_path / "t.csv")).content_hash == "6c24071537e5497f"

    (tmp_path / "twice.csv").write_text(f"a,b,c,d\n{text}\n{text}\n")
    (note,) = load_images("csv", data=tmp_path / "twice.csv").notes
    assert note.endswith("of 60 test examples are in training, too")


UNUSUAL_FRAME = pd.DataFrame(table(), columns=[*"abc"]).assign(
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


def test_notes_list_the_left_out_columns_and_the_reasons():
    splits = load_table(UNUSUAL_FRAME)
    assert splits.columns.names == ["a", "b", "c", "flag", "whole"]
    assert splits.notes == (
        "columns left out: date (text), typo (text), "
        "gaps (more than half missing), same (constant), empty (more than half missing), "
        "count (a counter), Unnamed: 0 (a counter)",
    )

    splits = load_table(UNUSUAL_FRAME, columns=["a", "whole"])
    assert splits.columns.names == ["a", "whole"]
    assert not splits.notes
    assert load_table(UNUSUAL_FRAME, columns=["count", "a"]).columns.names == ["count", "a"]
    assert load_table(UNUSUAL_FRAME, columns=[*"abc"], drop=["b"]).columns.names == ["a", "c"]


def test_grouped_numbers_and_percentages_are_read():
    prices = [f"{1000 + 7 * index:,}.50" for index in range(120)]
    shares = [f"{index % 40}.5 %" for index in range(120)]
    frame = pd.DataFrame(table(), columns=[*"abc"]).assign(price=prices, share=shares)
    splits = load_table(frame)
    assert "price: texts such as 1,000.50 are read as numbers" in splits.notes
    assert "share: texts such as 0.5 % are read as numbers" in splits.notes

    original = rows_in_original_units(splits)
    assert original[:, 3].min() == pytest.approx(1000.5, rel=1e-4)
    assert original[:, 4].max() == pytest.approx(0.395, rel=1e-4)


def test_infinite_values_are_missing_values():
    frame = pd.DataFrame(table(), columns=[*"abc"])
    frame.loc[[3, 5], "b"] = [np.inf, -np.inf]
    splits = load_table(frame)
    assert "b: infinite in 2 rows, left out" in splits.notes
    assert "2 of 120 rows with missing values left out" in splits.notes
    assert all(np.isfinite(splits[split]).all() for split in SPLIT_NAMES)


def test_a_line_may_be_longer_than_a_field_of_the_csv_module(tmp_path):
    rows = np.random.RandomState(0).randn(120, 1_200)
    text = "\n".join(",".join(f"{value:.110f}" for value in row) for row in rows)
    (tmp_path / "wide.csv").write_text(text)
    assert len(text.splitlines()[0]) > 131_072
    limit = csv.field_size_limit()
    assert load_table(tmp_path / "wide.csv").input_dim == (1_200,)
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("values", "note"),
    [
        (np.random.RandomState(0).permutation(120), "different whole number in each row"),
        (1_500_000_000 + 60 * np.arange(120) ** 2, "looks like a time in seconds"),
        (1_500_000_000_000 + 1000 * np.arange(120) ** 2, "seconds or milliseconds"),
        ([7.5, *[1.0] * 119], "has one value in 99.2% of the rows"),
        ([1e12, *np.linspace(0, 1, 119)], r"values of up to 1e\+12, far from all others"),
    ],
)
def test_notes_name_columns_that_look_unusual(values, note):
    frame = pd.DataFrame(table(), columns=[*"abc"]).assign(odd=values)
    notes = load_table(frame, columns=[*"abc", "odd"]).notes
    assert any(re.match(f"column odd .*{note}", text) for text in notes)
    assert notes[-1] == "columns kept: a, b, c, odd"


def test_notes_name_copies_of_columns():
    frame = pd.DataFrame(table(), columns=[*"abc"]).assign(again=lambda rows: rows["b"])
    assert "column again is a copy of b: leave one of them out" in load_table(frame).notes


@pytest.mark.parametrize(
    ("options", "error", "message"),
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
def test_a_wrong_option_is_refused_in_one_line(options, error, message):
    with pytest.raises(error, match=message):
        load_table(UNUSUAL_FRAME, **options)


NUMBERS = "a,b\n" + "\n".join(f"{i * 7 % 31},{i * 3 % 17}" for i in range(120))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "t.csv",
            NUMBERS.replace("\n", ",1\n").replace("b,1", "b"),
            "same number of values in each line.*line 2 has 3, the first line has 2",
        ),
        ("t.csv", NUMBERS[:200], r"the val split has \d examples, needs at least 10"),
        ("t.csv", "a,b\n" + "x,y\n" * 120, r"0 columns can be .*a \(constant\), b \(constant\)"),
        ("t.csv", NUMBERS.translate({49: "", 51: ""}), "38 of 120 rows .*: 100 are needed"),
        ("t.tsv", "a\tb\n" + "1,23,4\t1.5\n" * 120, r"not these: a \(constant\), b"),
        ("t.csv", "a,b\n", "a line of names, and no rows"),
        ("t.xlsx", "PK", r"save the sheet as CSV, or pass pandas.read_excel\(...\) to load_table"),
        ("no.csv", None, "No such file"),
        ("t.csv", "", "needs the same number of values in each line"),
        ("t.csv", NUMBERS.replace("a,b", "a,a "), "t.csv: it has several columns 'a'"),
        ("t.csv.gz", "no gzip", "not a readable table"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        load_table(tmp_path / name)


def test_rows_and_classes_keep_their_numbers_and_names():
    frame = pd.DataFrame(table(180), columns=[*"abc"]).assign(kind=["x", None, "y"] * 60)
    splits = load_table(frame, label="kind").subset(train=20)
    assert splits.class_names == ("x", "y")
    for split in SPLIT_NAMES:
        rows = frame.loc[splits.example_ids[split]]
        original = splits.columns.inverse_transform(splits[split])
        np.testing.assert_allclose(original, rows[[*"abc"]], atol=1e-5)
        names = np.array(splits.class_names)[splits.labels[split]]
        assert [*names] == [*rows["kind"]]


def test_the_hash_depends_on_units_and_names():
    frame = pd.DataFrame(table(), columns=[*"abc"])
    frames = [frame, frame * 10, frame.rename(columns={"a": "z"})]
    assert len({load_table(table_frame).content_hash for table_frame in frames}) == 3


def test_inverse_transform_returns_original_units():
    columns = Columns(["a", "b"], [1.0, 2.0], [3.0, 4.0])
    assert columns.inverse_transform(np.array([[1.0, -1.0]], np.float32)).tolist() == [[4.0, -2.0]]
