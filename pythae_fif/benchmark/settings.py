"""How the models of a profile train and are scored, and one run of it."""

__all__ = ["AtLeastTen", "LearningRate", "Precision", "RunSettings", "Settings", "WeightDecay"]

from typing import Annotated, Any, Literal

from pydantic import Field

from pythae_fif.validation import AtLeastOne, Checked, Whole

Precision = Literal["float32", "bfloat16"]
LearningRate = Annotated[float, Field(gt=0, lt=10)]
WeightDecay = Annotated[float, Field(ge=0)]
AtLeastTen = Annotated[Whole, Field(ge=10)]
"""So many images at least: scores of fewer say nothing."""

TRAINER = ("precision", "cudnn_benchmark")
"""Those of :class:`~pythae_fif.training.FIFTrainerConfig`, with its defaults."""
OPTIONAL = ("epochs", "wall_clock", "weight_decay", "fit_steps", "crop", "compile", *TRAINER)
"""Left out of a specification at their defaults: the keys came later, and the ids of earlier runs
must not change."""


class Settings(Checked):
    """What defines the result of a run: values that a profile has for all models.

    Attributes:
        batch_size, learning_rate, weight_decay: Of Adam.
        num_samples: Generated for each sampler's score.
        epochs: None under a wall clock.
        plateau_patience, plateau_factor: The learning rate is multiplied by the factor when the
            evaluation loss has not fallen for that many epochs (appendix E.4); the factor None for
            a constant learning rate.
        fit_steps: Of Adam, 100 codes each, in which a flow, second VAE or PixelCNN of a sampler is
            fitted; :data:`~pythae_fif.sampling.samplers.FIT_STEPS` if None.
        train_size, val_size, test_size: First images of a split that are used; all if None.
        crop: Of CelebA, see :func:`~pythae_fif.data.load_images`; other data sets have none.
        precision, cudnn_benchmark: As of :class:`~pythae_fif.training.FIFTrainerConfig`, for every
            model; bfloat16 with images in the channels-last layout, in which it is fastest.
        compile: Of earlier runs; nothing is compiled now.
    """

    batch_size: AtLeastOne
    learning_rate: LearningRate
    num_samples: AtLeastTen
    epochs: AtLeastOne | None = None
    weight_decay: WeightDecay | None = None
    plateau_patience: Annotated[Whole, Field(ge=0)] = 10
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] | None = 0.5
    fit_steps: AtLeastOne | None = None
    train_size: AtLeastTen | None = None
    val_size: AtLeastTen | None = None
    test_size: AtLeastTen | None = None
    crop: Annotated[Whole, Field(ge=1, le=178)] | None = None
    precision: Precision = "float32"
    compile: bool = False
    cudnn_benchmark: bool = False


class RunSettings(Settings):
    """A profile's values for one model.

    Attributes:
        wall_clock: In seconds; None for a number of epochs.
    """

    wall_clock: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the optional ones that are not used."""
        # Not by `model_dump`, whose checks would cost a plan of 10,000 runs a part of a second.
        fields = type(self).model_fields
        return {
            key: value
            for key, value in vars(self).items()
            if key not in OPTIONAL or value != fields[key].default
        }
