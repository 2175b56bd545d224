"""What an evaluation found: all its numbers, and JSON of them."""

__all__ = ["EvaluationOutput"]

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pythae_fif.files import write_text


@dataclass(frozen=True)
class EvaluationOutput:
    """What an `EvaluationPipeline` found, with all that the numbers depend on.

    Attributes:
        model: Class of the model.
        sampler: Class of the sampler.
        extractor: Name of the extractor.
        extractor_hash: Identifies its weights, preprocessing and precision.
        distance_name: What `frechet` is called with this extractor: FID of `inception` alone.
        score_name: What `score` is called: IS of `inception` alone; None without logits.
        num_samples: Number of samples.
        num_references: Number of evaluation images.
        reference_hash: Identifies the evaluation images.
        rounded: Whether samples and evaluation images were rounded to uint8.
        seed: Seed of sampling, shuffle, subsets and bootstrap.
        frechet: Frechet distance of samples to evaluation images.
        score: `mean` and `std` over ten splits; None without logits.
        score_with_bias: The same of logits with their bias, where the extractor leaves it out.
        kernel: `mean` and `std` of the kernel distance (KID) over subsets.
        neighbours: `precision`, `recall`, `density`, `coverage`.
        reconstruction_mse: Mean squared error per pixel of the evaluation images.
        frechet_infinity: Frechet distance at infinitely many samples, if asked for.
        intervals: 95% bootstrap intervals (`replicates`, `frechet`, `score`, `kernel`), if asked
            for.
        seconds: What `fit`, `reference`, `sampling`, `scoring`, `reconstruction` took.
    """

    model: str
    sampler: str
    extractor: str
    extractor_hash: str
    distance_name: str
    score_name: str | None
    num_samples: int
    num_references: int
    reference_hash: str
    rounded: bool
    seed: int
    frechet: float
    score: dict[str, float] | None
    score_with_bias: dict[str, float] | None
    kernel: dict[str, float]
    neighbours: dict[str, float]
    reconstruction_mse: float
    frechet_infinity: float | None
    intervals: dict[str, Any] | None
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """All attributes as plain values."""
        return dataclasses.asdict(self)

    def to_json_string(self) -> str:
        """The dictionary as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def save_json(self, dir_path: str | Path, filename: str = "evaluation") -> Path:
        """Writes `<filename>.json` into a folder, whole and renamed into place.

        Returns:
            The file.
        """
        path = Path(dir_path) / f"{filename}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, self.to_json_string() + "\n")
        return path
