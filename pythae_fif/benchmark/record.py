"""The record of one run of the benchmark: scores, training, data."""

__all__ = ["DataUsed", "ImageRecord", "Training", "TrainingRecord"]

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_serializer, model_validator

from pythae_fif.evaluation.codes import CodeScores
from pythae_fif.evaluation.scores import Scores
from pythae_fif.runs.record import Provenance, Record, marked

SPLITS = ("val", "test")


class Training(BaseModel):
    """How the model of a run was trained.

    Attributes:
        best_epoch, best_eval_loss, epochs, seconds, train_seconds, images, images_per_second: As
            of :class:`~pythae_fif.training.TrainingResult`; some are None in early records.
        surrogate_mode: How FIF's Jacobian products were computed; None for other models.
        git_revision, git_dirty: Of the checkout that trained it.
    """

    model_config = ConfigDict(frozen=True)

    best_epoch: int | None = None
    best_eval_loss: float | None = None
    epochs: int | None = None
    seconds: FiniteFloat
    train_seconds: float | None = None
    images: int | None = None
    images_per_second: float | None = None
    surrogate_mode: str | None = None
    git_revision: str | None = None
    git_dirty: bool | None = None


class TrainingRecord(Record):
    """`training.json`: a trained model, sealed with its files, before it is scored."""

    training: Training


class DataUsed(BaseModel):
    """The data of a run.

    Attributes:
        source: One line on what they are.
        partial: Whether they are fewer than the published data set has.
        sizes: Split -> number of images.
    """

    model_config = ConfigDict(frozen=True)

    source: str
    partial: bool
    sizes: dict[str, int]


class ImageRecord(Record):
    """What a run of the benchmark found.

    Attributes:
        scores: Sampler -> scores of its samples against validation and test images.
        reconstruction_mse: Split -> mean squared error a pixel.
        codes: Of the training images' codes; None where there are none, and in early records.
        training: How the model was trained.
        parameters: Number of the model's weights.
        data: What the model was trained and scored on.
        extractor_accuracy: Of an extractor that is a classifier, on test images.
        later_provenance: Sampler -> how its scores were made, if later than the others.
    """

    SCORES = frozenset({"scores", "reconstruction_mse"})

    schema_version: Literal[2] = Field(2, alias="schema")
    scores: dict[str, Scores] = Field(min_length=1)
    reconstruction_mse: dict[str, FiniteFloat]
    codes: CodeScores | None = None
    training: Training
    parameters: int
    data: DataUsed
    extractor_accuracy: float | None = None
    later_provenance: dict[str, Provenance] = Field(default_factory=dict)

    @property
    def revisions(self) -> list[str]:
        """Of the code that trained the model, that scored it, and that scored later samplers."""
        trained = marked(self.training.git_revision, self.training.git_dirty)
        later = [made.revision for made in self.later_provenance.values()]
        return list(dict.fromkeys([trained, self.provenance.revision, *later]))

    @model_validator(mode="after")
    def _has_every_number(self) -> "ImageRecord":
        """Choices and tables need distances of both splits, and finite ones."""
        for by_split in (*(s.frechet for s in self.scores.values()), self.reconstruction_mse):
            if not all(abs(by_split.get(split, float("nan"))) < float("inf") for split in SPLITS):
                raise ValueError("a distance or error is missing or not finite")
        return self

    @field_serializer("scores")
    def _plain_scores(self, scores: dict[str, Scores]) -> dict[str, dict[str, Any]]:
        return {sampler: found.to_dict() for sampler, found in scores.items()}
