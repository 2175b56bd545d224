"""Checked configurations: which values are accepted, and the error lines for the others."""

import math
import os
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, model_validator

import pythae_fif
from pythae_fif.errors import ConfigError
from pythae_fif.validation import (
    AbsolutePath,
    AtLeastOne,
    Flag,
    Integer,
    StrictModel,
    UniqueList,
    one_of,
    read_checked,
)


class Inner(StrictModel):
    size: AtLeastOne
    rate: Annotated[float, Field(gt=0, lt=10)] = 1.0


class Outer(StrictModel):
    name: Annotated[str, one_of(lambda: ["beta", "noise"])] = "beta"
    kind: Literal["near", "far"] = "near"
    fast: bool = False
    latent_dim: Annotated[Integer | None, Flag("d")] = None
    seeds: UniqueList[Annotated[Integer, Field(ge=0)]] = Field(default_factory=lambda: [0])
    grid: dict[str, UniqueList[Any]] = Field(default_factory=dict)
    inner: dict[str, Inner] = Field(default_factory=dict)
    sizes: dict[Annotated[str, one_of(lambda: ["train"])], int] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_fast_is_near(self) -> "Outer":
        if self.fast and self.kind == "far":
            raise ValueError("fast is for near")
        return self


def error_line(values, flags=()) -> str:
    """Returns the message of the error for values that are not valid."""
    with pytest.raises(ConfigError) as error:
        read_checked(Outer, values, "a.yaml", flags)
    return str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nam": 1}, "a.yaml: unknown key 'nam': did you mean 'name'? valid: name, kind"),
        ({1: 2}, "a.yaml: unknown key 1: valid: name"),
        ({"inner": {"x": {}}}, "a.yaml: inner: x: size: field required"),
        ({"inner": {"x": {"siz": 1}}}, "a.yaml: inner: x: unknown key 'siz': did you mean 'size'?"),
        (
            {"inner": {"x": {"size": 0}}},
            "a.yaml: inner: x: size=0: should be greater than or equal to 1",
        ),
        ({"inner": {"x": {"size": 1, "rate": 0}}}, "x: rate=0: should be greater than 0"),
        ({"inner": {"x": {"size": 1, "rate": math.nan}}}, "x: rate=nan: should be a finite number"),
        ({"inner": {"x": 3}}, "a.yaml: inner: x=3: should be a valid dictionary"),
        ({"name": "bata"}, "a.yaml: name='bata': did you mean 'beta'? valid: beta, noise"),
        ({"kind": "nearer"}, "a.yaml: kind='nearer': did you mean 'near'? valid: near, far"),
        ({"fast": 1}, "a.yaml: fast=1: should be a valid boolean"),
        ({"fast": True, "kind": "far"}, "a.yaml: fast is for near"),
        ({"latent_dim": True}, "a.yaml: latent_dim=True: should be a valid integer"),
        ({"latent_dim": 2.5}, "a.yaml: latent_dim=2.5: should be a valid integer"),
        ({"seeds": [0, -3]}, "a.yaml: seeds=-3: should be greater than or equal to 0"),
        ({"seeds": []}, "a.yaml: seeds=[]: give at least one value, and none twice"),
        ({"grid": {"b": [1, 1.0]}}, "a.yaml: grid: b=[1, 1.0]: give at least one value"),
        ({"sizes": {"tran": 1}}, "a.yaml: sizes='tran': did you mean 'train'?"),
    ],
    ids=str,
)
def test_error_says_where_and_what_is_wrong(values, message):
    assert message in error_line(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"latent_dim": "x"}, "--latent-dim 'x': should be a valid integer"),
        ({"seeds": [0, -3]}, "--seeds -3: should be greater than or equal to 0"),
        ({"inner": {"x": {"size": 0}}}, "a.yaml: inner: x: size=0"),
    ],
    ids=str,
)
def test_error_of_a_flag_begins_with_the_flag(values, message):
    assert error_line(values, flags=values).startswith(message)


class Unions(StrictModel):
    number: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    count: AtLeastOne | Literal["auto", "all"] = "auto"
    either: Literal["auto"] | AtLeastOne | None = None
    many: list[AtLeastOne | Literal["auto"]] | AtLeastOne = 1
    named: dict[str, Integer | Literal["auto"]] | str = ""
    model: Inner | AtLeastOne = 1


UNION_ERRORS = [
    ("number", 0, "number=0: should be greater than 0, or 'auto'"),
    ("number", "x", "number='x': should be a valid number, or 'auto'"),
    ("number", True, "number=True: should be a valid number, or 'auto'"),
    ("number", None, "number=None: should be a valid number, or 'auto'"),
    ("number", math.inf, "number=inf: should be a finite number, or 'auto'"),
    ("number", (1,), "number=(1,): should be a valid number, or 'auto'"),
    ("count", 0, "count=0: should be greater than or equal to 1, or 'auto' or 'all'"),
    ("count", 2.5, "count=2.5: should be a valid integer, or 'auto' or 'all'"),
    ("count", "al", "count='al': should be a valid integer, or 'auto' or 'all'"),
    ("count", True, "count=True: should be a valid integer, or 'auto' or 'all'"),
    ("count", None, "count=None: should be a valid integer, or 'auto' or 'all'"),
    ("count", (), "count=(): should be a valid integer, or 'auto' or 'all'"),
    ("either", 0, "either=0: should be greater than or equal to 1, or 'auto'"),
    ("either", -1.0, "either=-1.0: should be greater than or equal to 1, or 'auto'"),
    ("either", 1.5, "either=1.5: should be a valid integer, or 'auto'"),
    ("either", "aut", "either='aut': should be a valid integer, or 'auto'"),
    ("either", False, "either=False: should be a valid integer, or 'auto'"),
    ("either", b"x", "either=b'x': should be a valid integer, or 'auto'"),
    ("many", 0, "many=0: should be a valid list, or greater than or equal to 1"),
    ("many", "x", "many='x': should be a valid list, or a valid integer"),
    ("many", [0], "many=0: should be greater than or equal to 1, or 'auto'"),
    ("many", [1, "x"], "many='x': should be a valid integer, or 'auto'"),
    ("many", [None], "many=None: should be a valid integer, or 'auto'"),
    ("many", None, "many=None: should be a valid list, or a valid integer"),
    ("named", 1, "named=1: should be a valid dictionary, or a valid string"),
    ("named", None, "named=None: should be a valid dictionary, or a valid string"),
    ("named", True, "named=True: should be a valid dictionary, or a valid string"),
    ("named", {"a": "x"}, "named: a='x': should be a valid integer, or 'auto'"),
    ("named", {"a": None}, "named: a=None: should be a valid integer, or 'auto'"),
    ("named", {"a": 1.5}, "named: a=1.5: should be a valid integer, or 'auto'"),
    (
        "model",
        0,
        "model=0: should be a valid dictionary or instance of Inner, or greater",
    ),
    (
        "model",
        "x",
        "model='x': should be a valid dictionary or instance of Inner, or a valid",
    ),
    ("model", {"size": 0}, "model: size=0: should be greater than or equal to 1"),
    ("model", {"size": "x"}, "model: size='x': should be a valid integer"),
    ("model", {"siz": 1}, "model: unknown key 'siz': did you mean 'size'? valid: size, rate"),
    ("model", {}, "model: size: field required"),
]
"""Field, wrong value, beginning of the error line: six fields with six values each."""


@pytest.mark.parametrize(("field", "value", "message"), UNION_ERRORS)
def test_a_wrong_value_of_a_union_names_all_alternatives_that_fit(field, value, message):
    with pytest.raises(ConfigError) as error:
        read_checked(Unions, {field: value}, "a.yaml")
    assert str(error.value).startswith(f"a.yaml: {message}")


@pytest.mark.parametrize("value", [10**15 + 1, 1e30, 10**400])
def test_integers_are_bounded(value):
    assert error_line({"latent_dim": value}).endswith(
        "should be less than or equal to 1000000000000000"
    )


@given(st.integers(-(10**15), 10**15) | st.floats(-1e15, 1e15))
def test_integral_floats_are_accepted_as_integers(value):
    values = {"latent_dim": value}
    if float(value).is_integer():
        latent_dim = read_checked(Outer, values, "a.yaml").latent_dim
        assert type(latent_dim) is int
        assert latent_dim == value
    else:
        assert f"latent_dim={value!r}" in error_line(values)


def test_public_names_are_imported_on_first_use():
    assert {"FIF", "FIFTrainerConfig"} <= set(dir(pythae_fif))
    assert pythae_fif.FIFTrainer.__module__ == "pythae_fif.training.trainer"
    with pytest.raises(AttributeError, match="'pythae_fif' has no attribute 'nothing'"):
        pythae_fif.nothing  # noqa: B018


def test_a_path_becomes_absolute_and_its_home_folder_is_expanded():
    adapter = TypeAdapter(AbsolutePath)
    assert adapter.validate_python("a/../b") == os.path.abspath("b")
    assert adapter.validate_python("~/a") == os.path.expanduser("~/a")
    assert adapter.validate_python("~nobody-of-this-name/a").endswith("/~nobody-of-this-name/a")
