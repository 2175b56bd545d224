"""The record of a run of the benchmark: read only if it has all that choices and tables need."""

import json
import math

import pytest
from support.records import record_of, spec_of
from support.reference import lines

from pythae_fif.benchmark.record import ImageRecord
from pythae_fif.errors import StoreError
from pythae_fif.files import write_json
from pythae_fif.runs.record import SEAL

WHOLE = json.loads(json.dumps(record_of(spec_of()).to_dict()))
del WHOLE[SEAL]  # what is wrong is found in records of the first versions, too


def with_value(*path, value=...):
    """The record with another value in a place, or without it."""
    record = inner = json.loads(json.dumps(WHOLE))
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return record


DAMAGES = {
    "another schema": with_value("schema", value=0),
    "no scores": with_value("scores"),
    "scores of none": with_value("scores", value={}),
    "one sampler more": with_value("scores", "maf", value={}),
    "distance as a word": with_value("scores", "gmm", "frechet", "val", value="low"),
    "distance NaN": with_value("scores", "gmm", "frechet", "test", value=math.nan),
    "distance infinite": with_value("scores", "gmm", "frechet", "val", value=math.inf),
    "distance null": with_value("scores", "normal", "frechet", "test", value=None),
    "no test distance": with_value("scores", "normal", "frechet", "test"),
    "no error": with_value("reconstruction_mse", "test"),
    "error NaN": with_value("reconstruction_mse", "val", value=math.nan),
    "seconds NaN": with_value("training", "seconds", value=math.nan),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_record(damage):
    with pytest.raises(StoreError, match="the record is not whole"):
        ImageRecord.parse(DAMAGES[damage])
    assert ImageRecord.parse(WHOLE).checksum is None


def test_what_was_written_is_read_again(tmp_path):
    record = record_of(spec_of())
    write_json(tmp_path / "result.json", record.to_dict())
    again = ImageRecord.parse(json.loads((tmp_path / "result.json").read_text()))
    assert again.model_copy(update={"checksum": None}) == record


def test_committed_records_lose_nothing_when_they_are_read_and_written():
    """Of what they have, each key and number is there in what is written."""
    records = {run: line.files.get("result.json") for run, line in lines().items()}
    images = {run: content for run, content in records.items() if "scores" in (content or {})}
    assert len(images) > 100
    for run, content in images.items():
        content = dict(content)
        written = json.loads(json.dumps(ImageRecord.parse(content).to_dict()))
        for gone in (SEAL, "sampling_seconds", "seed"):  # the last two nobody read
            content.pop(gone, None)
        content["data"] = {k: v for k, v in content["data"].items() if k != "hash"}
        assert_within(content, written, run)


def assert_within(part, whole, where: str) -> None:
    if isinstance(part, dict):
        for key, value in part.items():
            assert key in whole, f"{where}: {key}"
            assert_within(value, whole[key], f"{where}: {key}")
    else:
        assert part == whole, where
