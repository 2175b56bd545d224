"""What a record is: sealed by a checksum of its own content, and whole."""

__all__ = ["SEAL", "is_intact", "is_whole", "seal"]

import hashlib
import json
import math
from typing import Any

from pythae_fif.benchmark.plan import SCHEMA, RunSpec

SEAL = "checksum"
"""The key of a record's checksum; records of earlier versions have none."""

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def seal(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the checksum of all else in it, which no edit by hand survives.

    Example:
        >>> is_intact(seal({"a": 1.5}))
        True
        >>> is_intact(seal({"a": 1.5}) | {"a": 2.5})
        False
    """
    return {**record, SEAL: _checksum(record)}


def is_intact(record: dict[str, Any]) -> bool | None:
    """Whether the content is what was sealed; None for a record without a checksum."""
    return None if SEAL not in record else record[SEAL] == _checksum(record)


def is_whole(record: Any, spec: RunSpec) -> bool:
    """Whether this is the record of a run, with every number that choices and tables need.

    A record that was changed since it was sealed is not; one without a checksum may be.
    """
    try:
        distances = [scores["frechet"] for scores in record["scores"].values()]
        errors = [*distances, record["reconstruction_mse"]]
        numbers = [by_split[split] for by_split in errors for split in ("val", "test")]
        return (
            record["schema"] == SCHEMA
            and record["run_id"] == spec.run_id
            and len(distances) > 0
            and all(map(math.isfinite, [*numbers, record["training"]["seconds"]]))
            and "parameters" in record
            and all(isinstance(record[key], dict) for key in ("data", "provenance"))
            and is_intact(record) is not False
        )
    except (AttributeError, KeyError, TypeError):
        return False


def _checksum(record: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of all but the checksum itself."""
    content = {key: value for key, value in record.items() if key != SEAL}
    return hashlib.sha256(_canonical(content).encode()).hexdigest()
