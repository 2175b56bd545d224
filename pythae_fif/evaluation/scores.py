"""The scores of samples as types: what `score_samples` returns and what records hold."""

__all__ = ["MeanStd", "Memorisation", "Neighbours", "Scores"]

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MeanStd:
    """Mean and (population) standard deviation of a score over splits or subsets."""

    mean: float
    std: float


@dataclass(frozen=True)
class Neighbours:
    """Scores from nearest neighbours; see `neighbour_scores`.

    Attributes:
        precision: Fraction of samples near a reference, in [0, 1].
        recall: Fraction of references near a sample, in [0, 1].
        density: Mean number of references' neighbourhoods that a sample lies in, over k; >= 0.
        coverage: Fraction of references with a sample in their neighbourhood, in [0, 1].
    """

    precision: float
    recall: float
    density: float
    coverage: float


@dataclass(frozen=True)
class Memorisation:
    """How near samples are to the training images; see `memorisation`.

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
        seed: Seed of the shuffle before the score is split, and of subsets.
        score: Inception score over ten splits; None without logits.
        score_with_bias: The same of logits with their bias, where the extractor leaves it out.
        frechet: Split -> Frechet distance.
        frechet_error: Split -> standard deviation of the Frechet distance over draws of the
            samples; none in early records.
        kernel: Split -> kernel distance (KID) over subsets.
        neighbours: Split -> precision, recall, density, coverage.
        memorisation: Nearness to the training images, where these are known; none in early
            records.
    """

    num_samples: int
    extractor: str
    extractor_hash: str
    distance_name: str
    score_name: str | None
    rounded: bool
    seed: int
    score: MeanStd | None
    score_with_bias: MeanStd | None
    frechet: dict[str, float]
    kernel: dict[str, MeanStd]
    neighbours: dict[str, Neighbours]
    memorisation: Memorisation | None = None
    frechet_error: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The scores as plain values for JSON, without what was not asked for."""
        values = dataclasses.asdict(self)
        optional = ("frechet_error", "memorisation")
        return {key: value for key, value in values.items() if key not in optional or value}
