"""Types of scores, which records contain, and how tables show them, one column each.

The module does not import torch: the command line reads it at every start.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pythae_fif.errors import ConfigError, format_error, requires_extra
from pythae_fif.files import write_json
from pythae_fif.names import import_object

if TYPE_CHECKING:
    from pythae_fif.evaluation.extractors import Features


@dataclass(frozen=True)
class CodeScores:
    """Kullback-Leibler divergence of codes from the prior.

    Attributes:
        divergence: Divergence of the Gaussian with the codes' mean and covariance from the standard
            normal distribution, in nats.
    """

    divergence: float


@dataclass(frozen=True)
class MeanStd:
    """Mean and (population) standard deviation of a score over splits or subsets."""

    mean: float
    std: float


@dataclass(frozen=True)
class Neighbours:
    """Nearest-neighbour scores; see :mod:`pythae_fif.evaluation.distances`."""

    precision: float
    recall: float
    density: float
    coverage: float


@dataclass(frozen=True)
class Memorisation:
    """Nearness of samples to the training images; see :mod:`pythae_fif.evaluation.distances`.

    Attributes:
        nearer: Split -> how often a sample is nearer to the training images than an image of the
            split is.
        authenticity: Fraction of samples that are not copies.
    """

    nearer: dict[str, float]
    authenticity: float


@dataclass(frozen=True)
class MarginalLikelihoodScore:
    """Mean log-density of data when noise is added to a model's manifold.

    See :meth:`~pythae_fif.models.InjectiveFlow.marginal_log_prob`.

    Attributes:
        nats: Mean log-density, in nats.
        error: Standard error of the mean, in nats.
        bits_per_dim: Negative mean log-density, in bits per dimension.
        scale: Standard deviation of the noise.
        points: Number of data points.
    """

    nats: float
    error: float
    bits_per_dim: float
    scale: float
    points: int


@dataclass(frozen=True)
class Scores:
    """All scores of one set of samples against references, by split.

    Attributes:
        num_samples: Number of samples.
        extractor: Name of the extractor.
        extractor_hash: Hash of the extractor's weights and preprocessing.
        distance_name: Name of the Frechet distance with this extractor.
        score_name: Name of the inception score with this extractor; None without logits.
        rounded: Whether samples were rounded to multiples of 1/255.
        seed: Seed of the samples, their shuffle and the subsets.
        score: Inception score over ten splits; None without logits.
        frechet: Split -> Frechet distance.
        kernel: Split -> kernel distance (KID) over subsets.
        neighbours: Split -> precision, recall, density, coverage.
        memorisation: Nearness to the training images; None without them, and in early records.
        frechet_error: Split -> standard deviation of the Frechet distance over draws of the
            samples; None in early records.
        tube: Split -> marginal likelihood with the prior that generated the samples, or for a
            conditional model with another fit of the same kind; empty for models and samplers
            without a density; None outside the benchmark, and in early records.
        extra: Name of a score -> split -> value, for a user's own scores and those of
            :data:`~pythae_fif.evaluation.scores.SCORE_COLUMNS` that have a function.
    """

    num_samples: int
    extractor: str
    extractor_hash: str
    distance_name: str
    score_name: str | None
    rounded: bool
    seed: int
    score: MeanStd | None
    frechet: dict[str, float]
    kernel: dict[str, MeanStd]
    neighbours: dict[str, Neighbours]
    memorisation: Memorisation | None = None
    frechet_error: dict[str, float] | None = None
    tube: dict[str, MarginalLikelihoodScore] | None = None
    extra: dict[str, dict[str, float]] = field(default_factory=dict)

    def save_json(self, folder: str | Path) -> Path:
        """Writes `evaluation.json` into a folder, and returns the file's path."""
        path = Path(folder) / "evaluation.json"
        write_json(path, asdict(self))
        return path

    def __str__(self) -> str:
        """Returns a table with one row per number."""
        with requires_extra("benchmark", "a table of scores"):
            import pandas as pd

        return str(pd.json_normalize(asdict(self)).iloc[0].dropna().to_string())


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
    """

    name: str
    heading: str = ""
    better: Literal["↓", "↑", ""] = ""
    format: str = ""
    scale: float = 1
    read: Callable[[Scores, Any], float | None] | None = None
    function: "Callable[[Features, Features], float] | None" = None


SCORE_COLUMNS = [
    ScoreColumn(
        "frechet_test",
        "{distance} test",
        "↓",
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
        read=lambda scores, _: scores.tube["test"].nats if scores.tube else None,
    ),
    ScoreColumn(
        "bits_per_dim",
        "log-likelihood, nats ↑ / bits per dim.",
        format=".2f",
        read=lambda scores, _: scores.tube["test"].bits_per_dim if scores.tube else None,
    ),
    ScoreColumn(
        "divergence",
        "KL, nats",
        "↓",
        read=lambda _, evaluation: evaluation.codes.divergence if evaluation.codes else None,
    ),
]
"""The built-in scores, in the order of the table. To add one, add a record with a function.
`--rescore` computes it for finished runs."""


def find_columns(names: Sequence[str] = ()) -> list[ScoreColumn]:
    """Returns the columns of the built-in scores, followed by a user's own.

    Args:
        names: The user's scores, as `module:function`.
    """
    own_columns = [
        ScoreColumn(name, name.rpartition(":")[2], function=partial(_call, name)) for name in names
    ]
    return [*SCORE_COLUMNS, *own_columns]


def _call(name: str, samples: "Features", reference: "Features") -> float:
    """Calls a user's score with the features' values; a ConfigError names the score if it fails."""
    try:
        return float(import_object(name)(samples.values, reference.values))
    except Exception as error:  # the user's code may raise any exception
        raise ConfigError(f"score {name!r} fails: {format_error(error)}") from error
