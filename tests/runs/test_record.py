"""Records: sealed by a checksum of their own content, and read only if they are whole."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tasks import TaskRecord

from pythae_fif.errors import StoreError
from pythae_fif.runs.record import SEAL, Provenance, _checksum

RECORD = TaskRecord(
    run_id="0123456789ab",
    answers={"Poincaré": 3, "odd": -1},
    provenance=Provenance(versions={"torch": "2"}, seconds=1 / 3, threads=1),
    files={"log.jsonl": "0" * 64},
)
WHOLE = RECORD.to_dict()


def resealed(**changes) -> dict:
    content = {**WHOLE, **changes}
    return {**content, SEAL: _checksum(content)}


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_one_character_changed_is_not_the_record(data):
    """Whatever JSON an edit leaves: it is no record, or it says the same."""
    text = json.dumps(WHOLE, indent=1)
    place = data.draw(st.integers(0, len(text) - 1))
    changed = text[:place] + data.draw(st.sampled_from("0123456789aef.-,")) + text[place + 1 :]
    try:
        record = TaskRecord.parse(json.loads(changed))
    except (ValueError, StoreError):
        return
    assert record.to_dict() == WHOLE


def test_survives_json_and_the_order_of_keys():
    again = json.loads(json.dumps(dict(reversed(WHOLE.items()))))
    assert TaskRecord.parse(again).to_dict() == WHOLE


def test_a_record_of_the_first_versions_has_no_seal_and_is_whole():
    early = {key: value for key, value in WHOLE.items() if key not in (SEAL, "files")}
    found = TaskRecord.parse(early)
    assert found.files is None and found.checksum is None


def test_a_seal_that_was_deleted_is_noticed():
    for edited in (
        {key: value for key, value in WHOLE.items() if key != SEAL},
        {**WHOLE, SEAL: None},
    ):
        with pytest.raises(StoreError, match=r"^the record was changed$"):
            TaskRecord.parse(edited)


@pytest.mark.parametrize(
    ("content", "damage"),
    [
        (None, "the record is cut off"),
        ("", "the record is cut off"),
        ([1], "the record is cut off"),
        (3, "the record is cut off"),
        ({}, "the record is not whole"),
        ({**WHOLE, "answers": {}}, "the record was changed"),
        (resealed(answers=3), "the record is not whole"),
        (resealed(answers={"a": None}), "the record is not whole"),
        (resealed(schema=0), "the record is not whole"),
        (resealed(provenance=5), "the record is not whole"),
        (resealed(provenance={"versions": []}), "the record is not whole"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_record(content, damage):
    with pytest.raises(StoreError, match=f"^{damage}$"):
        TaskRecord.parse(content)
