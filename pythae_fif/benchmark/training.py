"""The specification of a trained model."""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from pythae_fif.benchmark.config import DATA_SELECTION
from pythae_fif.names import Precision
from pythae_fif.runs.store import Spec

Name = Annotated[str, Field(pattern=r"^[\w=+@-][\w.=+@-]*$")]
"""One part of a path; it cannot lead out of the store."""


class Training(Spec):
    """Everything that defines a trained model. Its hash is the id of the run.

    Attributes:
        dataset: Name of the data set.
        arch: Name of the architecture of encoder and decoder.
        model: Name of the model.
        model_class: Import path of its class.
        config_class: Import path of its configuration's class.
        trainer_class: Import path of the class of its training configuration.
        variational: See :class:`~pythae_fif.benchmark.models.ModelEntry`, as for the next three.
        networks: Function that builds the networks.
        discriminator: Import path of a discriminator.
        keep_last: Whether the last weights are kept.
        parameters: All parameters of the model's configuration that differ from its defaults.
        latent_dim: Latent dimension d.
        image_size: Side that images are resized to, in pixels; None if they are not.
        batch_size: See :class:`~pythae_fif.benchmark.config.Profile`, as for the following ones.
        learning_rate: Learning rate.
        epochs: Number of epochs.
        wall_clock: Training time in seconds.
        weight_decay: Weight decay.
        plateau_factor: Factor of the learning rate on a plateau.
        one_cycle: Whether the learning rate follows one cycle.
        precision: Precision of the training.
        train_size: Number of training examples.
        val_size: Number of validation examples.
        test_size: Number of test examples.
        crop: Width of CelebA's centre crop.
        data_hash: Hash of the data in use, after this selection.
        labels_hash: Hash of their labels if the model takes labels, None otherwise.
        seed: Random seed.
    """

    kind: ClassVar[str] = "training"

    dataset: Name
    arch: Name
    model: Name
    model_class: str
    config_class: str
    trainer_class: str = "pythae.trainers.BaseTrainerConfig"
    variational: bool = False
    networks: str | None = None
    discriminator: str | None = None
    keep_last: bool = False
    parameters: dict[str, Any] = Field(default_factory=dict)
    latent_dim: int
    image_size: int | None = None
    batch_size: int
    learning_rate: float
    epochs: int | None = None
    wall_clock: float | None = None
    weight_decay: float | None = None
    plateau_factor: float | None = 0.5
    one_cycle: bool = False
    precision: Precision = "float32"
    train_size: int | None = None
    val_size: int | None = None
    test_size: int | None = None
    crop: int | None = None
    data_hash: str
    labels_hash: str | None = None
    seed: int = 0

    @property
    def folder(self) -> str:
        """`<dataset>/<arch>/<model>`."""
        return f"{self.dataset}/{self.arch}/{self.model}"

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The model's parameters, and the learning rate, which a grid may vary with them."""
        return {**self.parameters, "learning_rate": self.learning_rate}

    @property
    def data_selection(self) -> dict[str, Any]:
        """The part of the data in use, as keywords of :func:`~pythae_fif.data.load.load`."""
        return self.model_dump(include=DATA_SELECTION)
