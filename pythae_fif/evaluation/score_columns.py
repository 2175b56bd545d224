"""The scores of the benchmark, one column each, and a user's own.

The module does not import torch: the command line reads it at every start.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pythae_fif.errors import ConfigError, format_error
from pythae_fif.evaluation.scores import Scores
from pythae_fif.names import import_object

if TYPE_CHECKING:
    from pythae_fif.evaluation.extractors import Features


@dataclass(frozen=True)
class ScoreColumn:
    """A score: how it is computed or read from records, and how tables show it.

    Attributes:
        name: Its name in records, data frames and CSV files.
        heading: Its heading in the table of all scores, with its unit; empty if it is not shown.
            Scores with the same heading share a cell. `{distance}` and `{score}` are the names that
            the extractor gives to its scores.
        better: Which values are better; shown after the heading.
        format: Format of its numbers, such as `.2f`; if empty, one to three decimals.
        scale: Factor of the numbers in the table.
        spread: Column of the standard deviation, for numbers that are shown with it.
        is_optional: Whether the table leaves it out if no row has it.
        read: Reads the number from `Scores` and
            :class:`~pythae_fif.benchmark.record.Evaluation`; None, if they lack it. By default it
            is in `Scores.extra`, for test data.
        function: Computes the score from features of samples and of reference images. Scores
            without a function are fields of the records.
    """

    name: str
    heading: str = ""
    better: Literal["↓", "↑", ""] = ""
    format: str = ""
    scale: float = 1
    spread: str = ""
    is_optional: bool = False
    read: Callable[[Scores, Any], float | None] | None = None
    function: "Callable[[Features, Features], float] | None" = None


SCORE_COLUMNS = [
    ScoreColumn(
        "frechet_test",
        "{distance} test",
        "↓",
        spread="spread",
        read=lambda scores, _: scores.frechet["test"],
    ),
    ScoreColumn("frechet_val", "validation", "↓", read=lambda scores, _: scores.frechet["val"]),
    ScoreColumn(
        "frechet_error",
        read=lambda scores, _: scores.frechet_error["test"] if scores.frechet_error else None,
    ),
    ScoreColumn(
        "score",
        "{score}",
        "↑",
        spread="score_spread",
        read=lambda scores, _: scores.score.mean if scores.score else None,
    ),
    ScoreColumn(
        "kernel",
        "KD × 10³",
        "↓",
        format=".2f",
        scale=1000,
        read=lambda scores, _: scores.kernel["test"].mean,
    ),
    ScoreColumn(
        "precision",
        "prec. / recall",
        "↑",
        format=".2f",
        read=lambda scores, _: scores.neighbours["test"].precision,
    ),
    ScoreColumn(
        "recall",
        "prec. / recall",
        "↑",
        format=".2f",
        read=lambda scores, _: scores.neighbours["test"].recall,
    ),
    ScoreColumn(
        "density",
        "dens. / cov.",
        "↑",
        format=".2f",
        read=lambda scores, _: scores.neighbours["test"].density,
    ),
    ScoreColumn(
        "coverage",
        "dens. / cov.",
        "↑",
        format=".2f",
        read=lambda scores, _: scores.neighbours["test"].coverage,
    ),
    ScoreColumn(
        "nearer",
        "mem. / auth.",
        format=".2f",
        read=lambda scores, _: scores.memorisation.nearer["test"] if scores.memorisation else None,
    ),
    ScoreColumn(
        "authenticity",
        "mem. / auth.",
        format=".2f",
        read=lambda scores, _: scores.memorisation.authenticity if scores.memorisation else None,
    ),
    ScoreColumn(
        "reconstruction_mse",
        "MSE",
        "↓",
        format=".4f",
        read=lambda _, evaluation: evaluation.reconstruction_mse["test"],
    ),
    # The heading has the arrow, because the two numbers are better in opposite directions.
    ScoreColumn(
        "log_likelihood",
        "log-likelihood, nats ↑ / bits per dim.",
        format=".2f",
        is_optional=True,
        read=lambda scores, _: scores.tube["test"].nats if scores.tube else None,
    ),
    ScoreColumn(
        "bits_per_dim",
        "log-likelihood, nats ↑ / bits per dim.",
        format=".2f",
        is_optional=True,
        read=lambda scores, _: scores.tube["test"].bits_per_dim if scores.tube else None,
    ),
    ScoreColumn(
        "divergence",
        "KL, nats",
        "↓",
        read=lambda _, evaluation: evaluation.codes.divergence if evaluation.codes else None,
    ),
]
"""The built-in scores, in the order of the table. To add one, add a record with a function and
`is_optional=True`. `--rescore` computes it for finished runs."""


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


def _call(name: str, samples: "Features", reference: "Features") -> float:
    """Calls a user's score with the features' values; a ConfigError names the score if it fails."""
    try:
        return float(import_object(name)(samples.values, reference.values))
    except Exception as error:  # the user's code may raise any exception
        raise ConfigError(f"score {name!r} fails: {format_error(error)}") from error
