"""The specification of a run of the benchmark: what defines its result, and the model it builds."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field
from pythae.models import BaseAE

from pythae_fif.benchmark.config import DataLocation, Settings
from pythae_fif.benchmark.models import ModelClasses, format_value
from pythae_fif.benchmark.pythae_patches import patch_slow_ops
from pythae_fif.benchmark.record import Evaluation, Training
from pythae_fif.errors import StoreError, check_choice
from pythae_fif.evaluation.scores import Scores, find_columns
from pythae_fif.names import import_object
from pythae_fif.nn import build_networks
from pythae_fif.runs.store import Record, Spec, Store
from pythae_fif.runs.worker import Run

WEIGHTS = "model/model.pt"
PER_MODEL_SETTINGS = {"batch_size", "epochs", "learning_rate", "weight_decay"}
"""Settings that may differ between the models of a table. The number of epochs is one of them: it
follows from the number of steps and the batch size."""
Name = Annotated[str, Field(pattern=r"^[\w=+@-][\w.=+@-]*$")]
"""One part of a path; it cannot lead out of the store."""


class ImageSpec(Spec):
    """The specification of a run: everything that defines its result, and the requested samplers.

    Attributes:
        dataset: Name of the data set.
        arch: Name of the architecture.
        model: Name of the model.
        classes: The model's classes, from its entry.
        parameters: Hyper-parameters of the model, both varied and fixed.
        varied: Names of the hyper-parameters that the grid varies.
        latent_dim: Latent dimension d.
        image_size: Side that images are resized to, in pixels; None if they are not.
        seed: Random seed.
        extractor: Name of the feature extractor.
        profile: Name of the profile.
        settings: The profile's values for this model.
        data_hash: Hash of the images in use, after the profile's selection.
        labels_hash: Hash of their labels if the model takes labels, None otherwise.
        samplers: Samplers to score; not part of the id.
        scores: The user's own scores, as `module:function`; not part of the id.
        rescore: Whether scores that existing records lack are computed; not part of the id.
        location: Where the data and the extractor are; not part of the id.
    """

    kind: ClassVar[str] = "images"
    fields_outside_id: ClassVar[frozenset[str]] = frozenset(
        {"samplers", "scores", "rescore", "location"}
    )

    dataset: Name
    arch: Name
    model: Name
    classes: ModelClasses
    parameters: dict[str, Any]
    varied: list[str]
    latent_dim: int
    image_size: int | None
    seed: int = 0
    extractor: str
    profile: str
    settings: Settings
    data_hash: str
    labels_hash: str | None = None
    samplers: list[str] = Field(default_factory=list)
    scores: list[str] = Field(default_factory=list)
    rescore: bool = False
    location: DataLocation = Field(default_factory=DataLocation)

    @property
    def folder(self) -> str:
        """`<dataset>/<arch>/<model>`."""
        return f"{self.dataset}/{self.arch}/{self.model}"

    @property
    def configuration(self) -> str:
        """The varied hyper-parameters as `name=value`, or a dash if nothing varies."""
        return ", ".join(f"{n}={format_value(self.parameters[n])}" for n in self.varied) or "–"

    @property
    def title(self) -> str:
        """Model, configuration and seed."""
        return f"{self.model} {self.configuration} seed {self.seed}"

    @property
    def training_id(self) -> str:
        """The id of the training, which does not depend on how samples are drawn and scored."""
        settings = self.settings.model_copy(update={"num_samples": 0, "fit_steps": None})
        training = self.model_copy(update={"settings": settings, "extractor": "", "profile": ""})
        return training.run_id

    @property
    def protocol(self) -> dict[str, Any]:
        """Fields that are equal for two runs if their scores can be compared in one table."""
        shared = {"dataset", "arch", "image_size", "extractor", "profile", "data_hash"}
        settings = self.settings.model_dump(exclude=PER_MODEL_SETTINGS)
        return {**self.model_dump(include=shared), **settings}

    @property
    def outputs(self) -> Mapping[str, type]:
        """Files of the run's records: training, evaluation, and scores of each sampler."""
        scores = {f"scores/{sampler}.json": Scores for sampler in self.samplers}
        return {"training.json": Training, "evaluation.json": Evaluation, **scores}

    def is_complete(self, record: Record[Any] | None, store: Store) -> bool:
        """Returns whether a record exists and, for `rescore`, has every score.

        A sampler is incomplete, too, if its picture was damaged and the model can draw it again.
        """
        if record is None or not isinstance(record.result, Scores):
            return record is not None
        if (store.folder(self) / WEIGHTS).exists():
            try:
                store.check_files(self, record)
            except StoreError:
                return False
        if not self.rescore:
            return True

        scores = record.result
        names = {column.name for column in find_columns(self.scores) if column.function}
        early_fields = (scores.memorisation, scores.frechet_error, scores.tube)
        return names <= scores.extra.keys() and None not in early_fields

    def configure(self, input_dim: tuple[int, ...]) -> Any:
        """Returns the model's configuration for samples of a shape.

        Raises:
            ConfigError: Unknown hyper-parameter; Pythae's classes would ignore it.
            Exception: The configuration's class refuses a value, with an error of its choice.
        """
        config_class = import_object(self.classes.config)
        valid = [field.name for field in dataclasses.fields(config_class) if field.init]
        for key in self.parameters:
            check_choice(key, valid, f"unknown key {key!r}")
        return config_class(input_dim=input_dim, latent_dim=self.latent_dim, **self.parameters)

    def build(self, input_dim: tuple[int, ...]) -> BaseAE:
        """Builds a new model for samples of a shape. Seed torch first.

        Raises:
            ConfigError: The architecture does not work with the data or the model.
            Exception: See :meth:`configure`.
        """
        # The configuration comes first: if parameter and architecture are both wrong, the error
        # about the parameter helps more.
        config = self.configure(input_dim)

        networks: tuple[Any, ...] = ()
        if self.classes.networks is None:
            networks = build_networks(
                self.arch,
                input_dim,
                self.latent_dim,
                variational=self.classes.variational,
                condition_dim=self.parameters.get("condition_dim", 0),
            )
        elif self.classes.networks != "own":
            networks = import_object(self.classes.networks)(self.arch, input_dim, self.latent_dim)
        if self.classes.discriminator is not None:
            networks = (*networks, import_object(self.classes.discriminator)(input_dim))

        parts = dict(zip(("encoder", "decoder", "discriminator"), networks, strict=False))
        model_class = import_object(self.classes.model)
        return patch_slow_ops(model_class(config, **parts))

    def run(self, run: Run) -> None:
        """Trains and scores the model; see :class:`~pythae_fif.benchmark.image_run.ImageRun`."""
        # By its name, because the module of the run imports this one.
        import_object("pythae_fif.benchmark.image_run.ImageRun")(self, run).execute()
