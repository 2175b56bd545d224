"""The scores of samples as types: what `score_samples` returns and what records hold."""

__all__ = ["MeanStd", "Memorisation", "Neighbours", "Scores"]

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pythae_fif.files import write_json


@dataclass(frozen=True)
class MeanStd:
    """Mean and (population) standard deviation of a score over splits or subsets."""

    mean: float
    std: float


@dataclass(frozen=True)
class Neighbours:
    """Scores from nearest neighbours; see :func:`~pythae_fif.evaluation.neighbour_scores`.

    All are fractions in [0, 1] but `density`, which is a mean number over k.
    """

    precision: float
    recall: float
    density: float
    coverage: float


@dataclass(frozen=True)
class Memorisation:
    """How near samples are to the training images; see :func:`~pythae_fif.evaluation.memorisation`.

    Attributes:
        nearer: Split -> probability that a sample is nearer to the training images than an image
            of the split is, in [0, 1]; about 0.5 where samples are as new as those.
        authenticity: Fraction of samples that are no copies, in [0, 1].
    """

    nearer: dict[str, float]
    authenticity: float


@dataclass(frozen=True)
class Scores:
    """All scores of one set of samples against references, by split.

    Attributes:
        num_samples: Number of samples.
        extractor: Name of the extractor.
        extractor_hash: Identifies its weights and preprocessing.
        distance_name: What the Frechet distance is called with this extractor.
        score_name: What the inception score is called with it; None without logits.
        rounded: Whether samples were rounded to multiples of 1/255.
        seed: Of the shuffle before the score is split, and of subsets.
        score: Inception score over ten splits; None without logits.
        frechet: Split -> Frechet distance.
        kernel: Split -> kernel distance (KID) over subsets.
        neighbours: Split -> precision, recall, density, coverage.
        memorisation: Where training images are known; none in early records.
        frechet_error: Split -> standard deviation of `frechet` over draws of the samples; none in
            early records.
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

    def to_dict(self) -> dict[str, Any]:
        """The scores as plain values for JSON."""
        return dataclasses.asdict(self)

    def save_json(self, dir_path: str | Path, filename: str = "evaluation") -> Path:
        """Writes `<filename>.json` into a folder; returns the file."""
        path = Path(dir_path) / f"{filename}.json"
        write_json(path, self.to_dict())
        return path

    def __str__(self) -> str:
        """A small table: a row a score, a column a split."""
        import pandas as pd

        columns = {
            split: {
                self.distance_name: distance,
                "kernel distance": self.kernel[split].mean,
                **vars(self.neighbours[split]),
            }
            for split, distance in self.frechet.items()
        }
        table = pd.DataFrame(columns)
        if self.memorisation is not None:
            table.loc["nearer to training"] = pd.Series(self.memorisation.nearer)
            table.loc["authenticity"] = self.memorisation.authenticity
        if self.score is not None:
            table.loc[str(self.score_name)] = self.score.mean
        return f"{self.num_samples:,} samples\n{table.to_string(float_format='{:.4g}'.format)}"
