"""The contents of the records of a benchmark run's training and evaluation."""

from pydantic import BaseModel, FiniteFloat

from pythae_fif.evaluation.scores import CodeScores
from pythae_fif.training.progress import EpochRow


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
