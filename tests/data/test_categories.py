"""Tables with categories, missing values and heavy tails: their numbers, and rows made of these."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pythae_fif.columns import OTHER
from pythae_fif.data import load_table
from pythae_fif.data.splits import SPLIT_NAMES
from pythae_fif.errors import ConfigError, DataError

SIZE = 400
RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "age": RNG.integers(18, 80, SIZE),
        "work": RNG.choice(["public", "private", "none"], SIZE, p=[0.3, 0.6, 0.1]),
        "height": RNG.normal(170, 10, SIZE).round(1),
        "zip": RNG.choice([1010, 2020, 3030], SIZE),
        "smokes": RNG.choice([True, False], SIZE),
    }
)


def original_rows(frame, splits, split):
    """Returns the rows of a frame that are in a split."""
    return frame.iloc[splits.example_ids[split]].reset_index(drop=True)


@pytest.mark.parametrize("split", SPLIT_NAMES)
def test_rows_become_numbers_and_rows_again(split):
    splits = load_table(FRAME, categories=["zip"])
    assert splits.input_dim == (2 + 3 + 3 + 2,)
    assert splits.columns.categories == {
        "work": ["none", "private", "public"],
        "zip": [1010, 2020, 3030],
        "smokes": [False, True],
    }
    frame = splits.columns.to_frame(splits[split])
    pd.testing.assert_frame_equal(frame, original_rows(FRAME, splits, split), check_dtype=False)
    assert [frame[name].dtype.kind for name in ("age", "height", "zip", "smokes")] == [*"ifib"]


def test_each_category_counts_as_one_standardised_column():
    splits = load_table(FRAME, categories=["zip"])
    numbers = splits.train.astype(np.float64)
    np.testing.assert_allclose(numbers.mean(0), 0, atol=1e-5)
    variances = {name: numbers[:, place].var(0) for name, place in splits.columns.slices.items()}
    assert {name: values.sum() for name, values in variances.items()} == pytest.approx(
        dict.fromkeys(FRAME, 1.0), abs=1e-5
    )
    assert len({*splits.columns.std[splits.columns.slices["work"]]}) == 1


def test_the_most_likely_value_is_given_back():
    columns = load_table(FRAME).columns
    rows = columns.transform(FRAME)
    place = columns.slices["work"]
    rows[:, place] += RNG.uniform(-0.4, 0.4, (SIZE, 3)) / columns.std[place.start]
    assert columns.inverse_transform(rows)[:, 1].tolist() == FRAME["work"].tolist()


def test_rare_values_are_one_value():
    frame = FRAME.assign(work=["rare a", "rare b", *FRAME["work"].iloc[2:]])
    splits = load_table(frame)
    columns = splits.columns
    if len({"rare a", "rare b"} & {*original_rows(frame, splits, "train")["work"]}) < 2:
        pytest.fail("the rare values of this test must be in training rows")
    assert columns.categories["work"] == ["none", "private", "public", OTHER]
    assert any(
        note.startswith("work: 2 rare values are one value 'other': ") for note in splits.notes
    )
    unseen = columns.inverse_transform(columns.transform(FRAME.head(2).assign(work="unseen")))
    assert unseen[:, 1].tolist() == [OTHER, OTHER]


def test_a_value_that_no_training_row_has():
    columns = load_table(FRAME).columns
    encoded = columns.encode(FRAME.head(3).assign(work=["public", "unseen", None]))
    np.testing.assert_array_equal(
        encoded[:, columns.slices["work"]], [[0, 0, 1], [0, 0, 0], [np.nan] * 3]
    )


@pytest.mark.parametrize("column", [[1, 2.0], ["1", " 2"], pd.array([1, 2], dtype="Int64")])
def test_numbers_and_texts_of_a_value_are_the_same(column):
    columns = load_table(FRAME.assign(zip=FRAME["zip"] % 3), categories=["zip"]).columns
    assert columns.categories["zip"] == [0, 1, 2]
    encoded = columns.encode(FRAME.head(2).assign(zip=column))
    assert encoded[:, columns.slices["zip"]].tolist() == [[0, 1, 0], [0, 0, 1]]


def test_texts_of_many_values_are_left_out_unless_they_are_named():
    names = [f"name {number % 60}" for number in range(SIZE)]
    frame = FRAME.assign(name=names)
    assert "columns left out: name (text)" in load_table(frame).notes
    assert len(load_table(frame, categories=["name"]).columns.categories["name"]) >= 2


def test_missing_values_are_imputed_on_request():
    frame = FRAME.astype({"age": float})
    frame.loc[::5, "age"] = np.nan
    frame.loc[::4, "work"] = None
    assert sum(len(load_table(frame)[split]) for split in SPLIT_NAMES) == 240

    splits = load_table(frame, missing="mean")
    columns = splits.columns
    train = original_rows(frame, splits, "train")
    assert columns.imputed == {"age": pytest.approx(train["age"].mean())}
    assert columns.categories["work"] == ["none", "private", "public", None]
    encoded = columns.encode(frame)
    np.testing.assert_array_equal(encoded[:, 1], frame["age"].isna())
    assert np.unique(encoded[encoded[:, 1] == 1, 0]).tolist() == [columns.imputed["age"]]

    test = original_rows(frame, splits, "test")
    rows = columns.to_frame(splits.test)
    pd.testing.assert_frame_equal(rows, test, check_dtype=False)
    assert str(rows["age"].dtype) == "Int64"


def test_values_that_are_missing_in_a_few_rows_do_not_become_large_numbers():
    frame = FRAME.astype({"age": float})
    frame.loc[RNG.permutation(SIZE)[:3], "age"] = np.nan
    splits = load_table(frame, missing="mean")
    assert max(np.abs(splits[split]).max() for split in SPLIT_NAMES) <= 10


def test_the_hash_depends_on_how_columns_are_encoded():
    renamed = FRAME.replace({"work": {"none": "no work"}})
    heavy = load_table(FRAME, quantiles=["height"])
    hashes = {load_table(frame).content_hash for frame in (FRAME, renamed)}
    hashes |= {heavy.content_hash, load_table(FRAME, categories=["zip"]).content_hash}
    assert len(hashes) == 4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"categories": ["zap"]}, ConfigError, "column 'zap' is not modelled: did you mean 'zip'"),
        ({"categories": ["age"], "drop": ["age"]}, ConfigError, "column 'age' is not modelled"),
        ({"quantiles": ["work"]}, DataError, "column 'work' has no numbers, which `quantiles`"),
    ],
)
def test_wrong_options_are_one_line(options, error, message):
    with pytest.raises(error, match=message):
        load_table(FRAME, **options)


def test_notes_on_two_valued_and_linear_columns():
    frame = FRAME.assign(
        flag=FRAME["age"] % 2,
        double=2 * FRAME["age"] + 1,
        minus=-FRAME["height"],
        sum=FRAME["age"] + FRAME["height"],
        near=FRAME["age"] + 0.01 * RNG.normal(size=SIZE),
    )
    notes = "\n".join(load_table(frame).notes)
    assert "column flag has two values, 0 and 1: name it in `categories`" in notes
    assert "column double is age in another unit: leave one of them out" in notes
    assert "column minus is height in another unit" in notes
    assert "column sum is a sum of multiples of age, height" in notes
    assert "near is" not in notes


# ---------------------------------------------------------------- rows that could exist


def test_samples_have_the_range_and_the_decimals_of_the_data():
    columns = load_table(FRAME).columns
    rows = 10 * RNG.normal(size=(50, len(columns.mean)))
    frame = columns.to_frame(torch.from_numpy(rows))
    assert frame["age"].dtype == np.int64
    for name in ("age", "height"):
        assert frame[name].between(FRAME[name].min(), FRAME[name].max()).all()
    np.testing.assert_array_equal(frame["height"], frame["height"].round(1))
    assert {*frame["work"]} <= {*FRAME["work"]}
    assert {*map(type, frame["smokes"])} == {bool}

    raw = columns.to_frame(rows, raw=True)
    assert raw["age"].min() < 0
    np.testing.assert_allclose(raw["height"], columns.inverse_transform(rows)[:, 2].astype(float))


@settings(max_examples=30, deadline=None)
@given(decimals=st.integers(0, 8), scale=st.sampled_from([1e-3, 1, 1e4]), seed=st.integers(0, 99))
def test_decimals_are_found(decimals, scale, seed):
    values = (scale * np.random.default_rng(seed).normal(size=SIZE)).round(decimals)
    frame = FRAME.assign(height=[*values[:-1], 10.0**-decimals])
    splits = load_table(frame)
    found = splits.columns.decimals.get("height")
    is_in_training = SIZE - 1 in splits.example_ids["train"]
    assert found == decimals or (not is_in_training and found < decimals)


def test_classes_have_a_column_with_their_own_type():
    splits = load_table(FRAME, label="zip")
    columns = splits.columns
    assert (columns.label, columns.classes) == ("zip", [1010, 2020, 3030])
    assert columns.class_counts == np.bincount(splits.labels["train"]).tolist()
    frame = columns.to_frame(splits.test, splits.labels["test"])
    assert frame["zip"].tolist() == original_rows(FRAME, splits, "test")["zip"].tolist()


# ---------------------------------------------------------------- heavy tails


@pytest.fixture(scope="module")
def heavy():
    """Splits of a table with a column of heavy tails."""
    values = np.random.default_rng(1).standard_t(1.5, SIZE)
    return load_table(FRAME[["age", "height"]].assign(tail=values), quantiles=["tail"])


def test_heavy_tails_become_normal(heavy):
    tail = heavy.train[:, 2]
    assert np.abs(heavy.train).max() < 6
    assert np.quantile(tail, [0.16, 0.5, 0.84]) == pytest.approx([-1, 0, 1], abs=0.1)
    rows = heavy.columns.inverse_transform(heavy.test.astype(np.float64))
    encoded = heavy.columns.transform(pd.DataFrame(rows, columns=heavy.columns.names))
    np.testing.assert_allclose(encoded, heavy.test, atol=1e-5)


def test_densities_take_the_derivative_of_the_original_units(heavy):
    rows = torch.from_numpy(heavy.test.astype(np.float64)).requires_grad_()
    original = heavy.columns.to_original_units(rows)
    expected = heavy.columns.inverse_transform(heavy.test.astype(np.float64))
    np.testing.assert_allclose(original.detach(), expected, rtol=1e-6)
    (derivatives,) = torch.autograd.grad(original.sum(), rows)
    torch.testing.assert_close(heavy.columns.log_scale(rows), derivatives.log().sum(1))
