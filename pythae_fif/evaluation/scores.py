"""The scores, one record each: how a score is computed, and how tables show it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from pythae_fif.errors import ConfigError, format_error
from pythae_fif.evaluation.distances import energy_distance, frechet_error
from pythae_fif.evaluation.extractors import Features
from pythae_fif.evaluation.score_types import Scores
from pythae_fif.names import import_object


@dataclass(frozen=True)
class ScoreColumn:
    """A score: how it is computed or read from records, and how tables show it.

    Attributes:
        name: Its name in records, data frames and CSV files.
        heading: Its heading in the table of all scores, with its unit; empty if it is not shown.
            The table leaves out a score that no row has. Scores with the same heading share a cell.
            `{distance}` and `{score}` are the names that the extractor gives to its scores.
        better: Which values are better; shown after the heading.
        format: Format of its numbers, such as `.2f`; if empty, one to three decimals.
        scale: Factor of the numbers in the table.
        read: Reads the number from `Scores` and
            :class:`~pythae_fif.benchmark.record.Evaluation`; None, if they lack it. By default it
            is in `Scores.extra`, for test data.
        function: Computes the score from features of samples and of reference images. Scores
            without a function are fields of the records.
        rows_only: Whether only rows of a table have the score.
    """

    name: str
    heading: str = ""
    better: Literal["↓", "↑", ""] = ""
    format: str = ""
    scale: float = 1
    read: Callable[[Scores, Any], float | None] | None = None
    function: Callable[[Features, Features], float] | None = None
    rows_only: bool = False


def _marginal_likelihood(scores: Scores, name: str) -> float | None:
    """Returns a number of the marginal likelihood of test data; None if there is none."""
    likelihood = scores.marginal_likelihood
    return getattr(likelihood["test"], name) if likelihood else None


SCORE_COLUMNS = [
    ScoreColumn(
        "frechet_test",
        "{distance} test",
        "↓",
        read=lambda scores, _: scores.frechet["test"],
    ),
    ScoreColumn("frechet_val", "validation", "↓", read=lambda scores, _: scores.frechet["val"]),
    ScoreColumn("frechet_error", function=frechet_error),
    ScoreColumn(
        "energy",
        "energy dist. × 10³",
        "↓",
        format=".2f",
        scale=1000,
        function=energy_distance,
        rows_only=True,
    ),
    ScoreColumn(
        "score",
        "{score}",
        "↑",
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
        read=lambda scores, _: _marginal_likelihood(scores, "nats"),
    ),
    ScoreColumn(
        "bits_per_dim",
        "log-likelihood, nats ↑ / bits per dim.",
        format=".2f",
        read=lambda scores, _: _marginal_likelihood(scores, "bits_per_dim"),
    ),
    ScoreColumn(
        "divergence",
        "KL, nats",
        "↓",
        read=lambda _, evaluation: evaluation.codes.divergence if evaluation.codes else None,
    ),
]
"""The built-in scores, in the order of the table. A further one is one more line, such as that of
`frechet_error`: its function gets features of samples and of reference images. The next command
computes it for finished runs."""


def find_columns(names: Sequence[str] = (), *, is_table: bool) -> list[ScoreColumn]:
    """Returns the columns of the built-in scores, followed by a user's own.

    Args:
        names: The user's scores, as `module:function`.
        is_table: Whether rows of a table are scored; otherwise images.
    """
    columns = [column for column in SCORE_COLUMNS if is_table or not column.rows_only]
    own_columns = [
        ScoreColumn(name, name.rpartition(":")[2], function=partial(_call, name)) for name in names
    ]
    return [*columns, *own_columns]


def _call(name: str, samples: Features, reference: Features) -> float:
    """Calls a user's score with the features' values; a ConfigError names the score if it fails."""
    try:
        return float(import_object(name)(samples.values, reference.values))
    except Exception as error:  # the user's code may raise any exception
        raise ConfigError(f"score {name!r} fails: {format_error(error)}") from error


def missing_scores(scores: Scores, names: Sequence[str] = ()) -> set[str]:
    """Returns the names of the scores that a record of the benchmark lacks.

    Args:
        scores: The scores of the record.
        names: The user's scores, as `module:function`.
    """
    columns = find_columns(names, is_table=not scores.rounded)
    functions = {column.name for column in columns if column.function is not None}
    fields = {"memorisation": scores.memorisation, "log_likelihood": scores.marginal_likelihood}
    return {name for name, value in fields.items() if value is None} | functions - {*scores.extra}
