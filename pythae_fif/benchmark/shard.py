"""A part of a plan, for machines that share nothing but the results: array jobs, Kubernetes."""

__all__ = ["parse_shard", "shard_of"]

from collections.abc import Sequence
from typing import TypeVar

from pythae_fif.errors import ConfigError

T = TypeVar("T")


def parse_shard(text: str) -> tuple[int, int]:
    """`i/n` as two numbers, i from 0 to n - 1, as job arrays and indexed jobs count.

    Raises:
        ConfigError: It is not of that form, or i is not below n.

    Example:
        >>> parse_shard("0/4")
        (0, 4)
    """
    left, slash, right = text.partition("/")
    if not (slash and left.isdecimal() and right.isdecimal() and int(left) < int(right)):
        last = (
            f"0/{right} to {int(right) - 1}/{right}" if right.isdecimal() and int(right) else "0/4"
        )
        raise ConfigError(f"--shard {text}: needs i/n with i from 0 to n - 1, such as {last}")
    return int(left), int(right)


def shard_of(plan: Sequence[T], index: int, count: int) -> list[T]:
    """Every count-th run from index on: the shards are disjoint and their union is the plan.

    Neighbours in a plan are alike, so that taking turns shares out long and short runs.

    Example:
        >>> shard_of(["a", "b", "c", "d", "e"], 1, 2)
        ['b', 'd']
    """
    return list(plan[index::count])
