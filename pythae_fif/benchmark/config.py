"""The configuration of an experiment, with its profiles."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pythae_fif.benchmark.models import LearningRate, ModelEntry, SamplerName, WeightDecay
from pythae_fif.errors import pluralized
from pythae_fif.evaluation.catalog import check_extractor_name
from pythae_fif.names import ARCHITECTURES, USER_OBJECT, DataOptions, Precision
from pythae_fif.validation import (
    MAX_SECONDS,
    AtLeastOne,
    Flag,
    Integer,
    StrictModel,
    UniqueList,
    one_of,
    parse_duration,
)

Seed = Annotated[Integer, Field(ge=0, lt=2**32)]
AtLeastTen = Annotated[Integer, Field(ge=10)]
"""A number of examples. Scores of fewer than ten say nothing."""
Seconds = Annotated[
    float,
    BeforeValidator(lambda v: parse_duration(v) if isinstance(v, str) else v),
    Field(gt=0, le=MAX_SECONDS),
]
"""A number of seconds, or a text that :func:`parse_duration` reads, such as `10min`."""
ExtractorName = Annotated[str, AfterValidator(check_extractor_name)]
OwnScores = Annotated[
    UniqueList[Annotated[str, Field(pattern=f"^{USER_OBJECT}$")]],
    Flag("your own scores, as module:function", "SCORE"),
]
Weight = Annotated[
    float,
    Field(ge=0, strict=False),
    AfterValidator(lambda weight: int(weight) if weight.is_integer() else weight),
]
"""A number as a YAML file has it: 10 and 10.0 are the same value, so a run has one id."""


DATA_SELECTION = {"train_size", "val_size", "test_size", "crop"}
"""Keys that select a part of the data."""


class Profile(StrictModel):
    """Length of training, amount of data and number of samples, for every model.

    Attributes:
        note: One sentence for the tables: what this profile is, and what it is not.
        batch_size: Batch size.
        learning_rate: Learning rate of Adam.
        num_samples: Number of samples that are scored.
        epochs: Number of epochs; None if only the clock limits the training.
        steps: Number of training steps in place of epochs, rounded up to whole epochs.
        wall_clock: Training time in seconds. A training ends when the first limit is reached.
        weight_decay: Weight decay of Adam.
        plateau_factor: Factor applied to the learning rate when the evaluation loss has not
            fallen for ten epochs (appendix E.4); None for a constant learning rate.
        one_cycle: Whether the learning rate rises to `learning_rate` and falls again in one cycle
            that ends with the training (appendix E.2), in place of a plateau's schedule.
        fit_steps: Adam steps, on 100 codes each, that fit a sampler's flow, second VAE or PixelCNN;
            None for the defaults of :func:`~pythae_fif.sampling.samplers.generate`.
        train_size: Number of training examples, the first ones; all if None.
        val_size: Number of validation examples, the first ones; all if None.
        test_size: Number of test examples, the first ones; all if None.
        crop: Width of CelebA's centre crop in pixels, see :func:`~pythae_fif.data.load_images`.
        precision: Precision of the training.
        models: Model -> keys of its YAML file with other values in this profile.
        max_configurations: Number of configurations of a model in use, the first ones; all if None.
        extractor: Replaces the data set's extractor, unless the user names one.
    """

    note: str
    batch_size: Annotated[AtLeastOne, Flag("override the profile's batch size", "N")]
    learning_rate: Annotated[LearningRate, Flag("override the profile's learning rate", "RATE")]
    num_samples: Annotated[AtLeastTen, Flag("number of samples to score, per sampler", "N")]
    epochs: Annotated[AtLeastOne | None, Flag("override the profile's epochs", "N")] = None
    steps: AtLeastOne | None = None
    wall_clock: Annotated[
        Seconds | None,
        Flag("train for this long (5h, 10min), one run per device", "TIME", str),
    ] = None
    weight_decay: WeightDecay | None = None
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] | None = 0.5
    one_cycle: bool = False
    fit_steps: AtLeastOne | None = None
    train_size: Annotated[AtLeastTen | None, Flag("use the first N training images", "N")] = None
    val_size: AtLeastTen | None = None
    test_size: AtLeastTen | None = None
    crop: Annotated[Integer, Field(ge=1, le=178)] | None = None
    precision: Annotated[
        Precision, Flag("training precision: float32, or bfloat16 (for processors with AMX)")
    ] = "float32"
    models: dict[str, dict[str, Any]] = Field(default_factory=dict)
    max_configurations: Annotated[
        AtLeastOne | None, Flag("try only the first N configurations of a model", "N")
    ] = None
    extractor: ExtractorName | None = None

    @model_validator(mode="after")
    def _check_length(self) -> "Profile":
        lengths = [self.epochs, self.steps].count(None)
        if lengths == 0 or (lengths == 2 and self.wall_clock is None):
            raise ValueError("give epochs or steps, or a wall_clock, or one of each")
        if self.one_cycle and self.wall_clock is not None:
            raise ValueError("one_cycle needs epochs or steps, and no wall_clock")
        return self

    @property
    def data_selection(self) -> dict[str, Any]:
        """The part of the data in use, as keywords of :func:`~pythae_fif.data.load.load`."""
        return self.model_dump(include=DATA_SELECTION)


class Experiment(DataOptions):
    """One call of the benchmark: the data set's YAML file overlaid by the user's file and flags.

    The fields of :class:`~pythae_fif.names.DataOptions` say where the data are. Fields that are not
    described here have a flag with a help text.

    Attributes:
        models: Names of the models to run; a model of the user's has the stem of its YAML file.
        samplers: Names of the samplers to run.
        seeds: Random seeds, one run each.
        entries: Name -> entry of every model, also of those that are not run, since the table shows
            their stored runs. The active profile is merged into them.
        latent_dims: Model -> its latent dimension; ignored if the user gives one for all models.
        profiles: Name -> :class:`Profile`. The active one includes the values that the user gave.
        overridden_keys: Keys of the profile that the user set. They also override those of single
            models.
    """

    dataset: str
    description: str
    arch: Annotated[
        str, one_of(lambda: ARCHITECTURES), Flag("architecture (see `pythae-fif list`)")
    ]
    models: Annotated[
        UniqueList[str], Flag("models, a FILE.yaml, or 'all' (see `pythae-fif list`)", "MODEL")
    ]
    entries: dict[str, ModelEntry]
    samplers: Annotated[
        UniqueList[SamplerName], Flag("samplers, or 'all' (see `pythae-fif list`)", "SAMPLER")
    ]
    seeds: Annotated[UniqueList[Seed], Flag("random seeds, one run each", "SEED")] = Field(
        default_factory=lambda: [0]
    )
    beta: Annotated[
        UniqueList[Weight | Literal["auto"]] | None,
        Flag("FIF's reconstruction weights, or auto"),
    ] = None
    hutchinson_samples: Annotated[
        UniqueList[Integer] | None, Flag("number K of Hutchinson vectors, FIF only", "K")
    ] = None
    latent_dim: Annotated[AtLeastOne, Flag("latent dimension", "D")]
    latent_dims: dict[str, AtLeastOne] = Field(default_factory=dict)
    image_size: Annotated[
        AtLeastOne | None, Flag("resize folder and celeba images to this side", "PIXELS")
    ] = None
    extractor: Annotated[
        ExtractorName, Flag("feature extractor (see `pythae-fif list`), or module:function")
    ]
    extractor_weights: Annotated[str | None, Flag("the extractor's weights", "FILE")] = None
    scores: OwnScores = Field(default_factory=list)
    profiles: dict[str, Profile]
    profile: Annotated[
        str, Flag("training length: quick (minutes), medium (overnight), paper (published) or full")
    ]
    overridden_keys: list[str] = Field(default_factory=list)
    name: Annotated[str, Field(max_length=70), Flag("name of the tables, figures and page", "NAME")]

    @property
    def active_profile(self) -> Profile:
        """The profile in use."""
        return self.profiles[self.profile]

    @property
    def profile_summary(self) -> str:
        """The name of the active profile, with the values that the user changed."""
        changes = ", ".join(
            f"{key} {getattr(self.active_profile, key)}" for key in self.overridden_keys
        )
        return f"`{self.profile}`" + (f" with {changes}" if changes else "")


def describe_length(profile: Profile) -> str:
    """Describes how long a model trains, such as `2,000 steps or 10 min`."""
    counts = {"step": profile.steps, "epoch": profile.epochs}
    parts = [pluralized(count, noun) for noun, count in counts.items() if count]
    if profile.wall_clock is not None:
        parts.append(f"{profile.wall_clock / 60:g} min")
    return " or ".join(parts)
