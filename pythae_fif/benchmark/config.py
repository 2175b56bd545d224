"""The configuration of an experiment, with its profiles."""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pythae_fif.benchmark.models import (
    FIF,
    Grid,
    ModelEntry,
    SamplerName,
    read_entry,
)
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
    flag_fields,
    one_of,
    parse_duration,
)

LearningRate = Annotated[float, Field(gt=0, lt=10)]
WeightDecay = Annotated[float, Field(ge=0)]
Seed = Annotated[Integer, Field(ge=0, lt=2**32)]
AtLeastTen = Annotated[Integer, Field(ge=10)]
"""A number of images. Scores of fewer than ten say nothing."""
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


class GridFlag(Flag):
    """A flag with the values of a field of `FIFConfig` that FIF tries, in place of its grid's."""


class DataLocation(DataOptions):
    """Where a run finds its data and its extractor. The result of a run does not depend on it.

    Attributes:
        extractor_weights: File with the extractor's weights; None for the default file.
        Others: See :class:`~pythae_fif.names.DataOptions`.
    """

    extractor_weights: Annotated[str | None, Flag("the extractor's weights", "FILE")] = None


class Settings(StrictModel):
    """How a model trains and is scored. Every field is part of what defines a run's result.

    Attributes:
        epochs: Number of epochs; None if only the clock limits the training.
        wall_clock: Training time in seconds. A training ends when the first limit is reached.
        weight_decay: Weight decay of Adam.
        plateau_factor: Factor applied to the learning rate when the evaluation loss has not
            fallen for ten epochs (appendix E.4); None for a constant learning rate.
        fit_steps: Adam steps, on 100 codes each, that fit a sampler's flow, second VAE or PixelCNN;
            None for the defaults of :func:`~pythae_fif.sampling.samplers.generate`.
        train_size: Number of training images, the first ones; all if None.
        val_size: Number of validation images, the first ones; all if None.
        test_size: Number of test images, the first ones; all if None.
        crop: Side of CelebA's centre crop in pixels, see :func:`~pythae_fif.data.load_images`.
        Others: See the help texts of their flags.
    """

    batch_size: Annotated[AtLeastOne, Flag("override the profile's batch size", "N")]
    learning_rate: Annotated[LearningRate, Flag("override the profile's learning rate", "RATE")]
    num_samples: Annotated[AtLeastTen, Flag("number of samples to score, per sampler", "N")]
    epochs: Annotated[AtLeastOne | None, Flag("override the profile's epochs", "N")] = None
    wall_clock: Annotated[
        Seconds | None,
        Flag("train for this long (5h, 10min), one run per device", "TIME", str),
    ] = None
    weight_decay: WeightDecay | None = None
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] | None = 0.5
    fit_steps: AtLeastOne | None = None
    train_size: Annotated[AtLeastTen | None, Flag("use the first N training images", "N")] = None
    val_size: AtLeastTen | None = None
    test_size: AtLeastTen | None = None
    crop: Annotated[Integer, Field(ge=1, le=178)] | None = None
    precision: Annotated[
        Precision, Flag("training precision: float32, or bfloat16 (for processors with AMX)")
    ] = "float32"

    @property
    def data_subset(self) -> dict[str, Any]:
        """The part of the data in use, as keywords of :func:`~pythae_fif.data.load.load`."""
        return self.model_dump(include={"train_size", "val_size", "test_size", "crop"})


class ModelSettings(StrictModel):
    """Settings of a profile for a single model. None means the profile's value.

    Attributes:
        grid: Replaces the grid and the configurations of the model's entry.
        fixed: Further fixed hyper-parameters, in addition to those in the model's entry.
        Others: See :class:`Settings`.
    """

    grid: Grid | None = None
    fixed: dict[str, Any] = Field(default_factory=dict)
    batch_size: AtLeastOne | None = None
    learning_rate: LearningRate | None = None
    weight_decay: WeightDecay | None = None


class Profile(Settings):
    """Length of training and amount of data for every model.

    Attributes:
        note: One sentence for the tables: what this profile is, and what it is not.
        steps: Number of training steps in place of epochs, rounded up to whole epochs.
        models: Model -> settings that differ for it.
        max_configurations: Number of configurations of a model in use, the first ones; all if None.
        extractor: Replaces the data set's extractor, unless the user names one.
        Others: See :class:`Settings`.
    """

    note: str
    steps: AtLeastOne | None = None
    models: dict[str, ModelSettings] = Field(default_factory=dict)
    max_configurations: Annotated[
        AtLeastOne | None, Flag("try only the first N configurations of a model", "N")
    ] = None
    extractor: ExtractorName | None = None

    @model_validator(mode="after")
    def _check_length(self) -> "Profile":
        lengths = [self.epochs, self.steps].count(None)
        if lengths == 0 or (lengths == 2 and self.wall_clock is None):
            raise ValueError("give epochs or steps, or a wall_clock, or one of each")
        return self


class Experiment(DataLocation):
    """One call of the benchmark: the data set's YAML file overlaid by the user's file and flags.

    Attributes:
        models: Names of the models to run; a model of the user's has the stem of its YAML file.
        samplers: Names of the samplers to run.
        seeds: Random seeds, one run each.
        entries: Name of a model -> its entry.
        latent_dims: Model -> its latent dimension; ignored if the user gives one for all models.
        profiles: Name -> :class:`Profile`. The active one includes the values that the user gave.
        overridden_keys: Keys of the profile that the user set. They also override the profile's
            settings for single models.
        Others: See :class:`DataLocation`, and the help texts of their flags.
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
        GridFlag("FIF's reconstruction weights, or auto"),
    ] = None
    hutchinson_samples: Annotated[
        UniqueList[Integer] | None, GridFlag("number K of Hutchinson vectors, FIF only", "K")
    ] = None
    latent_dim: Annotated[AtLeastOne, Flag("latent dimension", "D")]
    latent_dims: dict[str, AtLeastOne] = Field(default_factory=dict)
    image_size: Annotated[
        AtLeastOne | None, Flag("resize folder and celeba images to this side", "PIXELS")
    ] = None
    extractor: Annotated[
        ExtractorName, Flag("feature extractor (see `pythae-fif list`), or module:function")
    ]
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

    def settings_for(self, model: str, num_train: int = 1) -> Settings:
        """Returns how the runs of a model are trained and scored.

        Args:
            model: Name of the model.
            num_train: Number of training samples; if the profile counts steps, the number of
                epochs depends on it.

        Returns:
            The profile's settings, with those that the profile has for the model.
        """
        profile = self.active_profile
        values = profile.model_dump(include=set(Settings.model_fields))
        model_settings = profile.models.get(model, ModelSettings())
        values |= model_settings.model_dump(
            exclude={"grid", "fixed", *self.overridden_keys}, exclude_none=True
        )

        if profile.steps is not None:
            # As `BatchLoader` counts: a last batch of a single sample joins the batch before it.
            batch_size = values["batch_size"]
            batches_per_epoch = math.ceil(max(1, num_train - (batch_size > 1)) / batch_size)
            values["epochs"] = math.ceil(profile.steps / batches_per_epoch)
        return Settings(**values)

    def entry_for(self, model: str) -> ModelEntry:
        """Returns a model's entry, with what the active profile fixes or varies for the model.

        The entry of a model that is not in the experiment, such as one of the leaderboard, is read
        from its file.
        """
        entry = self.entries.get(model) or read_entry(model)
        model_settings = self.active_profile.models.get(model, ModelSettings())

        changes: dict[str, Any] = {"fixed": {**entry.fixed, **model_settings.fixed}}
        if model_settings.grid is not None:
            changes |= {"grid": model_settings.grid, "configurations": []}
        return entry.model_copy(update=changes)

    def latent_dim_for(self, model: str) -> int:
        """Returns a model's latent dimension d: at most the largest one that the model takes."""
        latent_dim = self.latent_dims.get(model, self.latent_dim)
        return min(latent_dim, self.entry_for(model).max_latent_dim or latent_dim)

    def configurations_for(self, model: str) -> list[dict[str, Any]]:
        """Returns the varied hyper-parameters of a model's runs, one dictionary per configuration.

        These are the model's first configurations, as many as the profile allows. Values of FIF's
        grid that the user gave by flags are all run. Other models ignore these flags, since a
        parameter of the same name means something different there.
        """
        entry = self.entry_for(model)
        flag_values = {key: getattr(self, key) for key in GRID_FLAGS if getattr(self, key)}
        if flag_values and entry.model == FIF:
            return entry.choices(flag_values)
        return entry.choices()[: self.active_profile.max_configurations]


GRID_FLAGS = [name for name, flag in flag_fields(Experiment).items() if isinstance(flag, GridFlag)]
"""Keys of FIF's grid that have a flag each."""


def describe_length(profile: Profile) -> str:
    """Describes how long a model trains, such as `2,000 steps or 10 min`."""
    counts = {"step": profile.steps, "epoch": profile.epochs}
    parts = [pluralized(count, noun) for noun, count in counts.items() if count]
    if profile.wall_clock is not None:
        parts.append(f"{profile.wall_clock / 60:g} min")
    return " or ".join(parts)
