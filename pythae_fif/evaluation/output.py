"""What an evaluation found: all its numbers, and JSON of them."""

__all__ = ["REFERENCE", "EvaluationOutput"]

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pythae_fif.evaluation.scores import MeanStd, Neighbours, Scores
from pythae_fif.files import write_text

REFERENCE = "eval"
"""Name of the one reference of an evaluation, in `EvaluationOutput.scores`."""


@dataclass(frozen=True)
class EvaluationOutput:
    """What an `EvaluationPipeline` found, with all that the numbers depend on.

    Attributes:
        model: Class of the model.
        sampler: Class of the sampler.
        scores: All scores of the samples; their one reference is called `REFERENCE`.
        num_references: Number of evaluation images.
        reference_hash: Identifies the evaluation images.
        reconstruction_mse: Mean squared error per pixel of the evaluation images.
        seconds: What `fit`, `reference`, `sampling`, `scoring`, `reconstruction` took.
    """

    model: str
    sampler: str
    scores: Scores
    num_references: int
    reference_hash: str
    reconstruction_mse: float
    seconds: dict[str, float]

    @property
    def distance_name(self) -> str:
        """What `frechet` is called with this extractor: FID of `inception` alone."""
        return self.scores.distance_name

    @property
    def frechet(self) -> float:
        """Frechet distance of samples to evaluation images."""
        return self.scores.frechet[REFERENCE]

    @property
    def score(self) -> MeanStd | None:
        """Inception score over ten splits; None without logits."""
        return self.scores.score

    @property
    def kernel(self) -> MeanStd:
        """Kernel distance (KID) over subsets."""
        return self.scores.kernel[REFERENCE]

    @property
    def neighbours(self) -> Neighbours:
        """Precision, recall, density and coverage."""
        return self.scores.neighbours[REFERENCE]

    def to_dict(self) -> dict[str, Any]:
        """All numbers as plain values, the scores not nested by reference."""
        values = dataclasses.asdict(self)
        scores: dict[str, Any] = values.pop("scores")
        for holder in (scores, scores["intervals"] or {}):
            for name in ("frechet", "kernel", "neighbours", "frechet_infinity"):
                if holder.get(name) is not None:
                    holder[name] = holder[name][REFERENCE]
        return values | scores

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
