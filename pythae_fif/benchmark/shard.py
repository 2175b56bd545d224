"""A part of a plan, for machines that share nothing but the results: array jobs, Kubernetes."""

__all__ = ["Shard"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from pythae_fif.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Every count-th run of a plan from index on: the shards are disjoint, their union the plan.

    Neighbours in a plan are alike, so that taking turns shares out long and short runs.

    Example:
        >>> Shard.parse("1/2").of(["a", "b", "c", "d", "e"])
        ['b', 'd']
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Reads `i/n`, i from 0 to n - 1, as job arrays and indexed jobs count.

        Raises:
            ConfigError: It is not of that form, or i is not below n.
        """
        left, slash, right = text.partition("/")
        if not (slash and left.isdecimal() and right.isdecimal() and int(left) < int(right)):
            last = (
                f"0/{right} to {int(right) - 1}/{right}"
                if right.isdecimal() and int(right)
                else "0/4"
            )
            raise ConfigError(f"--shard {text}: needs i/n with i from 0 to n - 1, such as {last}")
        return cls(int(left), int(right))

    def of(self, plan: Sequence[T]) -> list[T]:
        """Its runs of a plan."""
        return list(plan[self.index :: self.count])
