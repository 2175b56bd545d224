"""Records are read as they were written; damaged and foreign records are refused in one line."""

import contextlib
import json
import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pythae_fif.errors import StoreError
from pythae_fif.runs.store import Provenance, Record


@dataclass
class Result:
    values: dict[str, float]
    text: str = ""


def make_record(text: str = "") -> Record[Result]:
    result = Result(values={"a": 1.5}, text=text)
    return Record[Result](run_id="r", result=result, provenance=Provenance(), files={"x": "1"})


@given(st.dictionaries(st.text(max_size=5), st.floats()), st.text(max_size=20))
def test_a_record_is_read_as_it_was_written(values, text):
    result = Result(values=values, text=text)
    # A run writes `Record[Any]`.
    original = Record[Any](run_id="r", result=result, provenance=Provenance(cores=2))
    read = Record[Result].parse(original.to_bytes(), "r")
    assert read.provenance == original.provenance
    assert read.result.text == text
    assert read.result.values.keys() == values.keys()
    for name, value in values.items():
        read_value = read.result.values[name]
        both_nan = math.isnan(read_value) and math.isnan(value)
        assert both_nan or read_value == value


@given(st.data())
def test_every_flipped_bit_is_noticed(data):
    """Except in white space and in the spelling of numbers, where it changes no value."""
    content = make_record(text="ünïcode").to_bytes()
    damaged = bytearray(content)
    position = data.draw(st.integers(0, len(content) - 1))
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(StoreError):
        assert Record[Result].parse(bytes(damaged), "r") == make_record(text="ünïcode")


INVALID = {
    "another run's": make_record().model_copy(update={"run_id": "s"}).to_bytes(),
    "nothing": b"",
    "cut off": make_record().to_bytes()[:-20],
    "not a mapping": b"[1]",
    "no checksum": json.dumps({"run_id": "r"}).encode(),
    "half a character": b'{"run_id": "\\ud800", "checksum": "0"}',
    "a file of another folder": make_record()
    .model_copy(update={"files": {"model/../../x": "1"}})
    .to_bytes(),
    "a file of the system": make_record().model_copy(update={"files": {"/etc/x": "1"}}).to_bytes(),
    "nested": b"[" * 100_000,
    "not text": b"\xff\xfe",
}


@pytest.mark.parametrize("content", INVALID.values(), ids=INVALID)
def test_an_invalid_record_is_refused_in_one_line(content):
    message = r"^the record (is incomplete or damaged|was changed, or belongs to another run)$"
    with pytest.raises(StoreError, match=message):
        Record[Result].parse(content, "r")
