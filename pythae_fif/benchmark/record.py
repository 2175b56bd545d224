"""What a run of the benchmark finds: its three kinds of records, and all of them together."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, FiniteFloat

from pythae_fif.evaluation.scores import CodeScores, Scores
from pythae_fif.runs.record import Record
from pythae_fif.runs.store import Store
from pythae_fif.training.progress import EpochRow

if TYPE_CHECKING:
    from pythae_fif.benchmark.image_run import ImageSpec


class Training(BaseModel):
    """`training.json`: how the model of a run was trained. The model's files belong to it.

    Attributes:
        surrogate: How FIF's Jacobian products were computed; None for other models.
        log: A row an epoch.
        Others: See :class:`~pythae_fif.training.TrainingResult`; early records lack some.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    seconds: FiniteFloat
    log: list[EpochRow]
    images: int | None = None
    surrogate: str | None = None


class DataUsed(BaseModel):
    """A line on the data of a run, whether they are a part, and the number of images of a split."""

    model_config = ConfigDict(frozen=True)

    source: str
    partial: bool
    sizes: dict[str, int]


class Evaluation(BaseModel):
    """`evaluation.json`: what was found of the trained model beside samples.

    Attributes:
        reconstruction_mse: Split -> mean squared error a pixel.
        codes: Of the training images' codes; None where there are none, and in early records.
        parameters: Number of the model's weights.
        data: What the model was trained and scored on.
    """

    model_config = ConfigDict(frozen=True)

    reconstruction_mse: dict[str, FiniteFloat]
    codes: CodeScores | None = None
    parameters: int
    data: DataUsed


@dataclass(frozen=True)
class ImageResult:
    """A run with its records: `scores` are those of each sampler, at least one."""

    spec: "ImageSpec"
    training: Record[Training]
    evaluation: Record[Evaluation]
    scores: Mapping[str, Record[Scores]]

    @classmethod
    def read(cls, store: Store, spec: "ImageSpec") -> "ImageResult | None":
        """The run as a store has it; None before its first sampler has scores."""
        training = store.record(spec, "training.json", Training)
        evaluation = store.record(spec, "evaluation.json", Evaluation)
        found = {name: store.record(spec, name, Scores) for name in store.names(spec, "scores")}
        scores = {Path(name).stem: record for name, record in found.items() if record is not None}
        if training is None or evaluation is None or not scores:
            return None
        return cls(spec, training, evaluation, scores)
