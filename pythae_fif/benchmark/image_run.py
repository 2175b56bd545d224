"""One run of the benchmark: its specification, and how it trains, samples and scores."""

import dataclasses
import shutil
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from pythae.models import BaseAE
from pythae.trainers.trainer_utils import set_seed

from pythae_fif.benchmark.config import DataLocation, Settings
from pythae_fif.benchmark.models import ModelClasses, format_value
from pythae_fif.benchmark.pythae_patches import patch_slow_ops
from pythae_fif.benchmark.record import DataUsed, Evaluation, Training, save_scores
from pythae_fif.data import ImageDataset, Splits
from pythae_fif.data.load import ExpectedHashes, load
from pythae_fif.data.splits import SPLIT_NAMES
from pythae_fif.errors import FIFError, StoreError, check_choice, format_error
from pythae_fif.evaluation import Extractor, Features, load_extractor, score_codes, score_samples
from pythae_fif.evaluation.extractors import rounded_images
from pythae_fif.evaluation.likelihood import fit_priors, marginal_likelihoods
from pythae_fif.evaluation.scores import Scores, find_columns
from pythae_fif.files import atomic_folder, checksum, quarantine
from pythae_fif.models.priors import Prior
from pythae_fif.names import import_object
from pythae_fif.nn import build_networks
from pythae_fif.runs.store import Record, Spec, Store
from pythae_fif.runs.worker import Run
from pythae_fif.sampling.samplers import embed, generate, generate_by_class, reconstruction_mse
from pythae_fif.training import FIFTrainer, OnEpoch, keep_freed_memory
from pythae_fif.training.checkpoint import LOG_NAME
from pythae_fif.training.config import network_prefixes

WEIGHTS = "model/model.pt"
PER_MODEL_SETTINGS = {"batch_size", "epochs", "learning_rate", "weight_decay"}
"""Settings that may differ between the models of a table. The number of epochs is one of them: it
follows from the number of steps and the batch size."""
Name = Annotated[str, Field(pattern=r"^[\w=+@-][\w.=+@-]*$")]
"""One part of a path; it cannot lead out of the store."""
Labels = Mapping[str, np.ndarray]
"""Split -> class of each image; empty if the model takes no labels."""


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
        """Trains and scores the model.

        An interrupted training is resumed, and complete records are not computed again.

        Raises:
            FIFError: A sampler failed. The records of the other samplers are written first.
        """
        if not torch.cuda.is_available():
            keep_freed_memory()

        run.report("loading data")
        splits = load(
            self.dataset,
            self.location,
            planned=ExpectedHashes(self.data_hash, self.labels_hash),
            image_size=self.image_size,
            **self.settings.data_subset,
        )
        labels = (splits.labels or {}) if self.labels_hash else {}

        self._copy_same_training(run)
        model = self._train(run, splits, labels)

        run.report("features of the data", 0.9)
        extractor = load_extractor(
            self.extractor,
            splits.input_dim,
            splits.name,
            device=run.device,
            weights=self.location.extractor_weights,
            offline=self.location.offline,
        )
        codes = embed(model, splits.train, labels=labels.get("train"), seed=self.seed)
        evaluation = self._evaluate(run, model, splits, labels, codes)
        val_mse = evaluation.reconstruction_mse["val"]
        self._score_samplers(run, model, splits, labels, codes, extractor, val_mse)

    def _score_samplers(
        self,
        run: Run,
        model: BaseAE,
        splits: Splits,
        labels: Labels,
        codes: torch.Tensor,
        extractor: Extractor,
        val_mse: float,
    ) -> None:
        """Draws and scores samples of the samplers that have no complete record yet."""
        train_labels = labels.get("train")
        references = Features.from_splits(splits, extractor)
        training = references.pop("train")

        records = {name: run.load(f"scores/{name}.json", Scores) for name in self.samplers}
        unscored = [name for name in records if not self.is_complete(records[name], run.store)]
        run.report("likelihood", 0.9)
        priors = fit_priors(
            model, unscored, codes, train_labels, seed=self.seed, steps=self.settings.fit_steps
        )
        likelihoods = marginal_likelihoods(
            model,
            priors,
            splits,
            labels,
            val_mse=val_mse,
            num_samples=self.settings.num_samples,
            seed=self.seed,
        )

        failures = []
        for number, sampler in enumerate(unscored):
            run.report(f"sampler {sampler}", 0.9 + 0.1 * number / len(unscored))
            try:
                samples, classes = self._sample(
                    sampler, model, codes, train_labels, priors.get(sampler)
                )
                scores = score_samples(
                    samples,
                    extractor,
                    references,
                    seed=self.seed,
                    training=training,
                    scores=self.scores,
                )
            except Exception as error:  # other samplers may still work; it is raised below
                traceback.print_exc()
                failures.append(f"sampler {sampler}: {format_error(error)}")
            else:
                likelihood = likelihoods.get(sampler, {})
                save_scores(
                    run,
                    sampler,
                    scores,
                    likelihood,
                    samples,
                    classes,
                    previous=records[sampler],
                    columns=splits.columns,
                )
        if failures:
            raise FIFError("; ".join(failures))

    def _copy_same_training(self, run: Run) -> None:
        """Copies model and record from a run of the same training, if this run has neither.

        Runs that differ only in how samples are drawn and scored train the same model.
        """
        model_folder = run.folder / "model"
        if model_folder.exists() or (run.folder / "training.json").exists():
            return

        for spec in run.store.specs(ImageSpec, self.folder):
            source = run.store.folder(spec) / "model"
            record = run.store.record(spec, "training.json", Training)
            if spec.training_id == self.training_id and record and source.exists():
                if LOG_NAME in record.files:
                    shutil.copy(source.with_name(LOG_NAME), run.folder)
                with atomic_folder(model_folder) as folder:
                    shutil.copytree(source, folder, dirs_exist_ok=True)
                own_record = record.model_copy(update={"run_id": self.run_id})
                run.write("training.json", own_record.to_bytes())
                return

    def _train(self, run: Run, splits: Splits, labels: Labels) -> BaseAE:
        """Trains the model, unless it is trained already, and saves the record of its training."""
        trainer = build_trainer(
            self,
            splits,
            labels,
            run.folder,
            lambda row: run.report("training", 0.9 * row.share_done),
        )
        run.report("training")  # the first epoch may take minutes
        result = trainer.train()
        model = trainer.model
        del trainer  # and the images that it keeps on a GPU

        run.device = str(next(model.parameters()).device)
        self._save_training(run, vars(result))
        return model

    def _save_training(self, run: Run, result: Mapping[str, Any]) -> None:
        """Saves the record of a training if it is new, and sets scores of other weights aside."""
        paths = [*run.folder.glob("model/*"), *run.folder.glob(LOG_NAME)]
        files = {path.relative_to(run.folder).as_posix(): checksum(path) for path in paths}
        previous = run.load("training.json", Training)

        if previous is None or previous.files.get(WEIGHTS) != files[WEIGHTS]:
            for path in [*run.folder.glob("evaluation.json"), *run.folder.glob("scores/*.json")]:
                quarantine(path, "it was made with other weights")
        if previous is None or not previous.files.items() <= files.items():
            run.save("training.json", Training(**result), files)

    def _evaluate(
        self, run: Run, model: BaseAE, splits: Splits, labels: Labels, codes: torch.Tensor
    ) -> Evaluation:
        """Measures reconstruction errors, codes and number of weights, unless the run has them."""
        record = run.load("evaluation.json", Evaluation)
        if record is not None:
            return record.result

        errors = {}
        for split in ("val", "test"):
            set_seed(self.seed)
            errors[split] = reconstruction_mse(model, splits[split], labels.get(split))

        evaluation = Evaluation(
            reconstruction_mse=errors,
            codes=score_codes(codes),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            data=DataUsed(
                source=splits.source,
                partial=splits.partial,
                sizes={split: len(splits[split]) for split in SPLIT_NAMES},
            ),
        )
        run.save("evaluation.json", evaluation)
        return evaluation

    def _sample(
        self,
        sampler: str,
        model: BaseAE,
        codes: torch.Tensor,
        train_labels: np.ndarray | None,
        prior: Prior | None,
    ) -> tuple[torch.Tensor, np.ndarray | None]:
        """Draws samples, and their classes if the model takes labels."""
        options: Any = {
            "num_samples": self.settings.num_samples,
            "seed": self.seed,
            "fit_steps": self.settings.fit_steps,
            "transform": rounded_images,
        }
        if train_labels is not None:
            return generate_by_class(sampler, model, codes, train_labels, **options)
        return generate(sampler, model, codes, prior=prior, **options), None


def build_trainer(
    spec: ImageSpec, splits: Splits, labels: Labels, folder: Path, on_epoch: OnEpoch | None = None
) -> FIFTrainer:
    """Builds the model of a run, seeded, in a trainer that trains it or finds it trained.

    Args:
        spec: The run's specification.
        splits: Its data.
        labels: Class of each image of a split; empty if the model takes none.
        folder: The run's folder, for checkpoints and the trained model.
        on_epoch: Called after each epoch.
    """
    set_seed(spec.seed)
    model: Any = spec.build(splits.input_dim)
    model.columns = splits.columns
    model.class_names = splits.class_names if labels else None
    return FIFTrainer(
        model,
        ImageDataset(splits.train, labels.get("train")),
        ImageDataset(splits.val, labels.get("val")),
        training_config(spec),
        run_dir=folder,
        run_id=spec.training_id,
        on_epoch=on_epoch,
        wall_clock=spec.settings.wall_clock,
        keep_last=spec.classes.keep_last,
        precision=spec.settings.precision,
    )


def training_config(spec: ImageSpec) -> Any:
    """Returns Pythae's training configuration of a run: Adam, and the profile's schedule."""
    settings = spec.settings
    config_class = import_object(spec.classes.trainer)

    options: dict[str, Any] = {"learning_rate": settings.learning_rate}
    if settings.weight_decay is not None:
        options["optimizer_params"] = {"weight_decay": settings.weight_decay}
    if settings.plateau_factor is not None:  # appendix E.4
        options |= {
            "scheduler_cls": "ReduceLROnPlateau",
            "scheduler_params": {"factor": settings.plateau_factor, "patience": 10},
        }

    return config_class(
        num_epochs=settings.epochs or 10**9,  # only the wall clock limits the training
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        seed=spec.seed,
        **{
            f"{prefix}{key}": value
            for prefix in network_prefixes(config_class)
            for key, value in options.items()
        },
    )
