"""The scores of samples as types: what `score_samples` returns and what records hold."""

from dataclasses import asdict, dataclass
from pathlib import Path

from pythae_fif.files import write_json


@dataclass(frozen=True)
class CodeScores:
    """Kullback-Leibler divergence, in nats, from the Gaussian of the codes' mean and covariance to
    the standard normal."""

    divergence: float


@dataclass(frozen=True)
class MeanStd:
    """Mean and (population) standard deviation of a score over splits or subsets."""

    mean: float
    std: float


@dataclass(frozen=True)
class Neighbours:
    """Scores from nearest neighbours; see :mod:`pythae_fif.evaluation.distances`."""

    precision: float
    recall: float
    density: float
    coverage: float


@dataclass(frozen=True)
class Memorisation:
    """Split -> how often a sample is nearer to the training images than an image of the split is,
    and the fraction of samples that are no copies; see :mod:`pythae_fif.evaluation.distances`."""

    nearer: dict[str, float]
    authenticity: float


@dataclass(frozen=True)
class MarginalLikelihoodScore:
    """Of a number of data points the mean log-density in the tube around a model's manifold,
    in nats with its standard error and in bits a dimension with the other sign, and the tube's
    scale; see :meth:`~pythae_fif.models.InjectiveFlow.marginal_log_prob`."""

    nats: float
    error: float
    bits_per_dim: float
    scale: float
    points: int


@dataclass(frozen=True)
class Scores:
    """All scores of one set of samples against references, by split.

    Attributes:
        num_samples, seed: Of the samples, and of their shuffle and subsets.
        extractor, extractor_hash, distance_name, score_name: Those of the extractor.
        rounded: Whether samples were rounded to multiples of 1/255.
        score: Inception score over ten splits; None without logits.
        frechet, frechet_error: Split -> Frechet distance, and its standard deviation over draws of
            the samples, which early records lack.
        tube: Split -> likelihood with the prior whose samples these are, of a conditional model
            another fit of its kind; None for models and samplers without a density, outside the
            benchmark, and in early records.
        kernel: Split -> kernel distance (KID) over subsets.
        neighbours: Split -> precision, recall, density, coverage.
        memorisation: Where training images are known; none in early records.
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

    def save_json(self, folder: str | Path) -> Path:
        """Writes `evaluation.json` into a folder; returns the file."""
        path = Path(folder) / "evaluation.json"
        write_json(path, asdict(self))
        return path

    def __str__(self) -> str:
        """A small table: a row a number."""
        import pandas as pd

        return str(pd.json_normalize(asdict(self)).iloc[0].dropna().to_string())
