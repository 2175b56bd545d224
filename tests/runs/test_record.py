"""Records: whole, of their run and as they were written, or refused in one line."""

import contextlib
import json
import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pythae_fif.errors import StoreError
from pythae_fif.runs.record import Provenance, Record


@dataclass
class Found:
    values: dict[str, float]
    text: str = ""


def record(**values) -> Record[Found]:
    found = Found(values={"a": 1.5}, **values)
    return Record[Found](run_id="r", result=found, provenance=Provenance(), files={"x": "1"})


@given(st.dictionaries(st.text(max_size=5), st.floats()), st.text(max_size=20))
def test_a_record_is_read_as_it_was_written(values, text):
    found, made = Found(values=values, text=text), Provenance(cores=2)
    written = Record[Any](run_id="r", result=found, provenance=made)  # as a run writes it
    read = Record[Found].parse(written.to_bytes(), "r")
    assert read.provenance == written.provenance and read.result.text == text
    assert read.result.values.keys() == values.keys()
    for name, value in values.items():
        found = read.result.values[name]
        assert found == value or (math.isnan(found) and math.isnan(value))


@given(st.data())
def test_no_bit_can_change_unnoticed(data):
    """But for white space and the spelling of numbers, which change no value."""
    content = record(text="ünïcode").to_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(StoreError):
        assert Record[Found].parse(bytes(changed), "r") == record(text="ünïcode")


HOSTILE = {
    "another's": record().model_copy(update={"run_id": "s"}).to_bytes(),
    "nothing": b"",
    "cut": record().to_bytes()[:-20],
    "no mapping": b"[1]",
    "no seal": json.dumps({"run_id": "r"}).encode(),
    "half a character": b'{"run_id": "\\ud800", "checksum": "0"}',
    "nested": b"[" * 100_000,
    "no text": b"\xff\xfe",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_record_is_one_line(content):
    with pytest.raises(
        StoreError,
        match=r"^the record (is incomplete or damaged|was changed, or belongs to another run)$",
    ):
        Record[Found].parse(content, "r")
