"""Types of scores, which records contain."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pythae_fif.errors import requires_extra
from pythae_fif.files import write_json
from pythae_fif.names import CodeSource

DASH = "–"


def number(value: float, spread: float = math.nan, form: str = "") -> str:
    """Formats a measured number; NaN is a dash.

    Args:
        value: The number.
        spread: Its standard deviation; left out if NaN.
        form: A format specification, such as `.2f`; if empty, one to three decimals, fewer if the
            number is large.

    Example:
        >>> number(150.75, 0.7), number(2.5), number(math.nan)
        ('150.8 ± 0.7', '2.50', '–')
    """
    if math.isnan(value):
        return DASH
    form = form or f".{1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3}f"
    return f"{value:{form}}" + ("" if math.isnan(spread) else f" ± {spread:{form}}")


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
        codes: Codes to which the prior was fitted and from which the noise's scale was computed:
            'mode' for the modes of the posterior, or 'encoder' for f(x), as before version 0.3.
    """

    nats: float
    error: float
    bits_per_dim: float
    scale: float
    points: int
    codes: CodeSource


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
        memorisation: Nearness to the training images; None without them.
        marginal_likelihood: Split -> marginal likelihood with the prior that generated the samples,
            or for a conditional model with another fit of the same kind; empty for models and
            samplers without a density; None outside the benchmark.
        left_out: What was left out because it takes too long, and how long; empty if nothing was.
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
    marginal_likelihood: dict[str, MarginalLikelihoodScore] | None = None
    left_out: str = ""
    extra: dict[str, dict[str, float]] = field(default_factory=dict)

    def save_json(self, folder: str | Path) -> Path:
        """Writes `evaluation.json` into a folder, and returns the file's path."""
        path = Path(folder) / "evaluation.json"
        write_json(path, asdict(self))
        return path

    def __str__(self) -> str:
        """Returns the Frechet distance of each split, and a table with one row per number."""
        with requires_extra("benchmark", "a table of scores"):
            import pandas as pd

        errors = self.extra.get("frechet_error", {})
        lines = []
        for split, distance in self.frechet.items():
            name = self.distance_name if len(self.frechet) == 1 else f"{self.distance_name} {split}"
            error = errors.get(split, math.nan)
            lines.append(f"{name} {number(distance, error)} (lower is better)")
        table = pd.json_normalize(asdict(self)).iloc[0].dropna().to_string()
        return "\n".join([*lines, "", str(table)])
