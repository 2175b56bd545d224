"""The scores of the benchmark, one column each, and a user's own.

The module does not import torch: the command line reads it at every start.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pythae_fif.errors import ConfigError, format_error
from pythae_fif.names import import_object

if TYPE_CHECKING:
    from torch import Tensor

    from pythae_fif.evaluation.extractors import Features


@dataclass(frozen=True)
class ScoreColumn:
    """A score: how it is computed or read from records, and how tables show it.

    Attributes:
        name: Its name in records, data frames and CSV files.
        heading: Its heading in the table of all scores, with its unit; empty if it is not shown.
            `{distance}` and `{score}` are the names that the extractor gives to its scores.
        better: Which values are better; shown after the heading.
        format: Format of its numbers, such as `.2f`; if empty, one to three decimals.
        scale: Factor of the shown numbers.
        path: Path of the number in the records of a run, from `scores` or `evaluation`; by default
            in `Scores.extra`, for test data.
        spread: Column of the numbers' standard deviation, shown after them; empty if there is none.
        shares_cell: Whether it is shown in the same cell as the score before it.
        is_optional: Whether it is not shown if no row has it.
        function: Function of the features of samples (N, F) and of reference images (M, F) that
            computes the score; None for scores that have a field of
            :class:`~pythae_fif.evaluation.Scores`.
    """

    name: str
    heading: str = ""
    better: Literal["↓", "↑", ""] = ""
    format: str = ""
    scale: float = 1
    path: str = ""
    spread: str = ""
    shares_cell: bool = False
    is_optional: bool = False
    function: "Callable[[Tensor, Tensor], float] | None" = None

    def read(self, records: Mapping[str, Any]) -> float | None:
        """Returns the number of a run and sampler, or None if their records lack it.

        Args:
            records: The results of the records `scores` and `evaluation`.
        """
        value: Any = records
        for key in (self.path or f"scores/extra/{self.name}/test").split("/"):
            value = value.get(key) if isinstance(value, Mapping) else getattr(value, key)
            if value is None:
                return None
        return float(value)

    def compute(self, samples: "Features", reference: "Features") -> float:
        """Computes the score; it must have a function.

        Args:
            samples: Features of samples.
            reference: Features of reference images.
        """
        assert self.function is not None
        return float(self.function(samples.values, reference.values))


SCORE_COLUMNS = [
    ScoreColumn(
        "frechet_test", "{distance} test", "↓", path="scores/frechet/test", spread="spread"
    ),
    ScoreColumn("frechet_val", "validation", "↓", path="scores/frechet/val"),
    ScoreColumn("frechet_error", path="scores/frechet_error/test"),
    ScoreColumn("score", "{score}", "↑", path="scores/score/mean", spread="score_spread"),
    ScoreColumn("kernel", "KD × 10³", "↓", ".2f", scale=1000, path="scores/kernel/test/mean"),
    ScoreColumn("precision", "prec.", "↑", ".2f", path="scores/neighbours/test/precision"),
    ScoreColumn(
        "recall", "recall", "↑", ".2f", path="scores/neighbours/test/recall", shares_cell=True
    ),
    ScoreColumn("density", "dens.", "↑", ".2f", path="scores/neighbours/test/density"),
    ScoreColumn(
        "coverage", "cov.", "↑", ".2f", path="scores/neighbours/test/coverage", shares_cell=True
    ),
    ScoreColumn("nearer", "mem.", format=".2f", path="scores/memorisation/nearer/test"),
    ScoreColumn(
        "authenticity",
        "auth.",
        format=".2f",
        path="scores/memorisation/authenticity",
        shares_cell=True,
    ),
    ScoreColumn("reconstruction_mse", "MSE", "↓", ".4f", path="evaluation/reconstruction_mse/test"),
    ScoreColumn(
        "log_likelihood",
        "log-likelihood, nats",
        "↑",
        ".2f",
        path="scores/tube/test/nats",  # The record's field for the marginal likelihood is `tube`.
        is_optional=True,
    ),
    ScoreColumn(
        "bits_per_dim",  # The same in another unit, so it needs no arrow.
        "bits per dim.",
        format=".2f",
        path="scores/tube/test/bits_per_dim",
        shares_cell=True,
    ),
    ScoreColumn("divergence", "KL, nats", "↓", path="evaluation/codes/divergence"),
]
"""The built-in scores, in the order of the table. A new one needs a record here, with a function
and `is_optional`; `--rescore` computes it for finished runs."""


def find_columns(names: Sequence[str] = ()) -> list[ScoreColumn]:
    """Returns the columns of the built-in scores, followed by a user's own.

    Args:
        names: The user's scores, as `module:function`.
    """
    own_columns = [
        ScoreColumn(name, name.rpartition(":")[2], is_optional=True, function=partial(_call, name))
        for name in names
    ]
    return [*SCORE_COLUMNS, *own_columns]


def _call(name: str, samples: "Tensor", reference: "Tensor") -> float:
    """Calls a user's score; a ConfigError names it if it fails."""
    function = load_score(name)
    try:
        return float(function(samples, reference))
    except Exception as error:  # the user's code may raise any exception
        raise ConfigError(f"score {name!r} fails: {format_error(error)}") from error


def load_score(name: str) -> "Callable[[Tensor, Tensor], float]":
    """Imports a user's score, `module:function`.

    Raises:
        ConfigError: It cannot be imported.
    """
    function: Callable[[Tensor, Tensor], float] = import_object(name.replace(":", "."))
    return function


def check_score_name(name: str) -> str:
    """Returns the name of a user's score unchanged.

    Raises:
        ConfigError: It does not have the form `module:function`.
    """
    if not re.fullmatch(r"[\w.]+:\w+", name):
        raise ConfigError(f"score {name!r}: module:function is needed")
    return name
