"""The records of a benchmark run: three kinds, and the result that holds all of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, FiniteFloat

from pythae_fif.evaluation.scores import CodeScores, Scores
from pythae_fif.runs.record import Record
from pythae_fif.runs.store import Store
from pythae_fif.training.progress import EpochRow

if TYPE_CHECKING:
    from pythae_fif.benchmark.image_run import ImageSpec


class Training(BaseModel, frozen=True, extra="allow"):
    """The content of `training.json`: how the model of a run was trained.

    The checksums of the model's files are in the same record.

    Attributes:
        seconds: Duration of the training.
        log: One row per epoch.
        images: Number of images that the training used, counting repetitions.
        surrogate: How FIF's Jacobian products were computed; None for other models.
        Others: See :class:`~pythae_fif.training.TrainingResult`; early records lack some.
    """

    seconds: FiniteFloat
    log: list[EpochRow]
    images: int | None = None
    surrogate: str | None = None


class DataUsed(BaseModel, frozen=True):
    """The data of a run.

    Attributes:
        source: One line on where the data are from.
        partial: Whether the run used a part of the data.
        sizes: Split -> number of images.
    """

    source: str
    partial: bool
    sizes: dict[str, int]


class Evaluation(BaseModel, frozen=True):
    """The content of `evaluation.json`: measurements of the trained model that need no samples.

    Attributes:
        reconstruction_mse: Split -> mean squared error per pixel.
        codes: Scores of the codes of the training images; None in early records, and for models
            that have no such codes.
        parameters: Number of the model's weights.
        data: What the model was trained and scored on.
    """

    reconstruction_mse: dict[str, FiniteFloat]
    codes: CodeScores | None = None
    parameters: int
    data: DataUsed


@dataclass(frozen=True)
class ImageResult:
    """A run with its records.

    Attributes:
        spec: The run's specification.
        training: The record of its training.
        evaluation: The record of its evaluation.
        scores: Sampler -> record of its scores; at least one.
    """

    spec: "ImageSpec"
    training: Record[Training]
    evaluation: Record[Evaluation]
    scores: Mapping[str, Record[Scores]]

    @classmethod
    def read(cls, store: Store, spec: "ImageSpec") -> "ImageResult | None":
        """Reads the records of a run.

        Args:
            store: The store that holds the run.
            spec: The run's specification.

        Returns:
            The result, or None if no sampler has been scored yet or another record is missing.
        """
        training = store.record(spec, "training.json", Training)
        evaluation = store.record(spec, "evaluation.json", Evaluation)
        names = store.names(spec, "scores")
        records = {Path(name).stem: store.record(spec, name, Scores) for name in names}
        scores = {sampler: record for sampler, record in records.items() if record is not None}
        if training is None or evaluation is None or not scores:
            return None
        return cls(spec, training, evaluation, scores)
