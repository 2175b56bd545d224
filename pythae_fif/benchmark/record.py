"""The contents of a run's records, besides the `TrainingResult` of `training.json`."""

from dataclasses import dataclass

from pydantic import BaseModel, FiniteFloat

from pythae_fif.benchmark.scoring import Scoring
from pythae_fif.evaluation.score_types import CodeScores, Scores

TRAINING_FILE = "training.json"
EVALUATION_FILE = "evaluation.json"
WEIGHTS = "model/model.pt"


class DataUsed(BaseModel, frozen=True):
    """The data of a run.

    Attributes:
        source: One line on where the data are from.
        partial: Whether the run used a part of the data.
        sizes: Split -> number of examples.
    """

    source: str
    partial: bool
    sizes: dict[str, int]


class Evaluation(BaseModel, frozen=True):
    """The content of `evaluation.json`: measurements of the trained model that need no samples.

    Attributes:
        reconstruction_mse: Split -> mean squared error per pixel.
        codes: Scores of the codes of the training data; None for models that have no such codes.
        parameters: Number of the model's weights.
        data: What the model was trained and scored on.
    """

    reconstruction_mse: dict[str, FiniteFloat]
    codes: CodeScores | None
    parameters: int
    data: DataUsed


@dataclass(frozen=True)
class ScoringResult:
    """The content of a record in `scores/`.

    Attributes:
        scoring: Its specification.
        scores: The scores of its samples.
    """

    scoring: Scoring
    scores: Scores
