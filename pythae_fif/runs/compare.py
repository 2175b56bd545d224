"""How far the scores of a run are from those of the same run made elsewhere."""

__all__ = ["Difference", "difference"]

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from pythae_fif.runs.record import Record


class Difference(NamedTuple):
    """The largest relative difference |a - b| / max(|a|, |b|) of two records, and of which score.

    It is NaN where they have no score in common.
    """

    value: float
    score: str = ""


def difference(record: Record, reference: Record, part: str = "") -> Difference:
    """How far the scores that two records of a run have in common are from each other.

    Args:
        record, reference: Of the run, made in two places.
        part: Scores whose names begin with it alone, such as `scores.gmm.`; spreads (`.std`) are
            no scores.
    """
    ours, theirs = (
        dict(_numbers(found.model_dump(include=set(found.SCORES)))) for found in (record, reference)
    )
    common = sorted(name for name in ours.keys() & theirs.keys() if name.startswith(part))
    common = [name for name in common if not name.endswith(".std")]
    found = [Difference(_relative(ours[name], theirs[name]), name) for name in common]
    return max(found, key=lambda of: of.value, default=Difference(math.nan))


def _relative(first: float, second: float) -> float:
    if first == second or (math.isnan(first) and math.isnan(second)):
        return 0.0
    found = abs(first - second) / max(abs(first), abs(second))
    return math.inf if math.isnan(found) else found


def _numbers(content: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in plain values, each with the keys that lead to it, joined by dots."""
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from _numbers(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, int | float):
        yield name, float(content)
