"""The scores of samples as types: what `score_samples` returns and what records hold."""

__all__ = ["MeanStd", "Memorisation", "Neighbours", "Scores"]

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter


@dataclass(frozen=True)
class MeanStd:
    """Mean and (population) standard deviation of a score over splits or subsets."""

    mean: float
    std: float

    def __str__(self) -> str:
        return f"{self.mean:.4g}" + f" ± {self.std:.2g}" * (self.std > 0)


@dataclass(frozen=True)
class Neighbours:
    """Scores from nearest neighbours; see :func:`~pythae_fif.evaluation.neighbour_scores`.

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
        seed: Seed of the shuffle before the score is split, and of subsets.
        score: Inception score over ten splits; None without logits.
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
    frechet: dict[str, float]
    kernel: dict[str, MeanStd]
    neighbours: dict[str, Neighbours]
    memorisation: Memorisation | None = None
    frechet_error: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The scores as plain values for JSON, without what was not asked for."""
        values = dataclasses.asdict(self)
        return {
            key: value
            for key, value in values.items()
            if key not in ("frechet_error", "memorisation") or value
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Scores":
        """What :meth:`to_dict` gave.

        Raises:
            pydantic.ValidationError: It is nothing of that kind.
        """
        return TypeAdapter(cls).validate_python(dict(values))

    def __str__(self) -> str:
        """A small table: a row a score, a column a split."""
        import pandas as pd

        errors, nearer = self.frechet_error or {}, self.memorisation and self.memorisation.nearer
        columns = {
            split: {
                self.distance_name: str(MeanStd(of, errors.get(split, 0.0))),
                "kernel distance": str(self.kernel[split]),
                **{k: f"{v:.4f}" for k, v in vars(self.neighbours[split]).items()},
                **({"nearer to training": f"{nearer[split]:.4f}"} if nearer else {}),
            }
            for split, of in self.frechet.items()
        }
        of_all = {"samples": f"{self.num_samples:,}"}
        if self.memorisation is not None:
            of_all["authenticity"] = f"{self.memorisation.authenticity:.4f}"
        if self.score is not None:
            of_all[str(self.score_name)] = str(self.score)
        return f"{pd.DataFrame(columns)}\n{pd.Series(of_all).to_string()}"
