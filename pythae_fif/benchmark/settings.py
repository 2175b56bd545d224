"""How the models of a profile train and are scored, and where their data are."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pythae_fif.benchmark.models import Grid
from pythae_fif.data.names import DataOptions
from pythae_fif.evaluation import known_extractor
from pythae_fif.validation import AtLeastOne, Checked, Flag, Whole, parse_duration

Precision = Literal["float32", "bfloat16"]
LearningRate = Annotated[float, Field(gt=0, lt=10)]
WeightDecay = Annotated[float, Field(ge=0)]
Seed = Annotated[Whole, Field(ge=0, lt=2**32)]
AtLeastTen = Annotated[Whole, Field(ge=10)]
"""So many images at least: scores of fewer say nothing."""
Seconds = Annotated[
    float, BeforeValidator(lambda v: parse_duration(v) if isinstance(v, str) else v), Field(gt=0)
]
"""A number, or a text that :func:`parse_duration` takes."""
ExtractorName = Annotated[str, AfterValidator(known_extractor)]


class Where(DataOptions):
    """What a run needs but its result does not depend on: data, and the extractor's files.

    Attributes:
        extractor_weights: File of the extractor's published weights.
        Others: As of :class:`~pythae_fif.data.names.DataOptions`.
    """

    extractor_weights: Annotated[str | None, Flag("file of the extractor's weights", "FILE")] = None


class Settings(Checked):
    """How a model trains and is scored: all of it defines the result of a run.

    Attributes:
        epochs, wall_clock: One of the two; the clock in seconds.
        plateau_factor: The learning rate is multiplied by it when the evaluation loss has not
            fallen for ten epochs (appendix E.4); None for a constant learning rate.
        fit_steps: Of Adam, 100 codes each, in which a flow, second VAE or PixelCNN of a sampler is
            fitted; :data:`~pythae_fif.sampling.samplers.FIT_STEPS` if None.
        train_size, val_size, test_size: First images of a split that are used; all if None.
        crop: Of CelebA, see :func:`~pythae_fif.data.load_images`; other data sets have none.
        Others: As their flags say; weights decay by Adam.
    """

    batch_size: Annotated[AtLeastOne, Flag("in place of the profile's", "N")]
    learning_rate: Annotated[LearningRate, Flag("in place of the profile's", "RATE")]
    num_samples: Annotated[AtLeastTen, Flag("samples scored, of each sampler", "N")]
    epochs: Annotated[AtLeastOne | None, Flag("in place of the profile's", "N")] = None
    wall_clock: Annotated[
        Seconds | None,
        Flag("in place of epochs: 5h, 10min; on CPUs one run at a time", "TIME", str),
    ] = None
    weight_decay: WeightDecay | None = None
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] | None = 0.5
    fit_steps: AtLeastOne | None = None
    train_size: Annotated[AtLeastTen | None, Flag("use the first N training images", "N")] = None
    val_size: AtLeastTen | None = None
    test_size: AtLeastTen | None = None
    crop: Annotated[Whole, Field(ge=1, le=178)] | None = None
    precision: Annotated[
        Precision, Flag("of training: float32, or bfloat16 (for processors with AMX)")
    ] = "float32"

    @property
    def cut(self) -> dict[str, Any]:
        """What is taken of the data, as :func:`~pythae_fif.data.load.load` is told."""
        return self.model_dump(include={"train_size", "val_size", "test_size", "crop"})


class ModelSettings(Checked):
    """What a profile says of one model alone; None is the value that the profile has for all.

    Attributes:
        grid: In place of that of the model's entry, and of its configurations.
        fixed: Beside those of the model's entry.
        Others: As of :class:`Settings`.
    """

    grid: Grid | None = None
    fixed: dict[str, Any] = Field(default_factory=dict)
    batch_size: AtLeastOne | None = None
    learning_rate: LearningRate | None = None
    weight_decay: WeightDecay | None = None


class Profile(Settings):
    """How long and on how much data every model trains.

    Attributes:
        note: One sentence that the tables carry: what this is, and is not.
        steps: In place of epochs, of which it makes as many as the size of the data needs.
        models: Model -> what is different for it.
        configurations: Number of configurations of a model's grid that are used, from its start;
            all if None.
        extractor: In place of the data set's, unless the user names one.
        Others: As of :class:`Settings`.
    """

    note: str
    steps: AtLeastOne | None = None
    models: dict[str, ModelSettings] = Field(default_factory=dict)
    configurations: Annotated[AtLeastOne | None, Flag("try the first N of every model", "N")] = None
    extractor: ExtractorName | None = None

    @model_validator(mode="after")
    def _one_budget(self) -> "Profile":
        if [self.epochs, self.wall_clock, self.steps].count(None) != 2:
            raise ValueError("give epochs, or wall_clock, or steps, and only one of them")
        return self
