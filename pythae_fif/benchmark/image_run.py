"""The execution of a run of the benchmark: it trains, samples and scores the model."""

import math
import shutil
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pythae.models import BaseAE
from pythae.trainers.trainer_utils import set_seed
from torch import Tensor

from pythae_fif.benchmark.image_spec import WEIGHTS, ImageSpec
from pythae_fif.benchmark.record import DataUsed, Evaluation, Training, save_scores
from pythae_fif.data import ImageDataset, Splits
from pythae_fif.data.load import ExpectedHashes, load
from pythae_fif.data.splits import SPLIT_NAMES
from pythae_fif.errors import FIFError, format_error
from pythae_fif.evaluation import Features, load_extractor, score_codes, score_samples
from pythae_fif.evaluation.extractors import rounded_images
from pythae_fif.evaluation.likelihood import fit_priors, marginal_likelihoods
from pythae_fif.evaluation.scores import Scores
from pythae_fif.files import atomic_folder, checksum, quarantine
from pythae_fif.models.priors import Prior
from pythae_fif.names import import_object
from pythae_fif.runs.worker import Run
from pythae_fif.sampling.samplers import embed, generate, generate_by_class, reconstruction_mse
from pythae_fif.training import FIFTrainer, OnEpoch, TrainerOptions, keep_freed_memory
from pythae_fif.training.checkpoint import LOG_NAME
from pythae_fif.training.config import network_prefixes

Labels = Mapping[str, np.ndarray]
"""Split -> class of each image; empty if the model takes no labels."""

TRAINING_SHARE = 0.9
"""The share of a run's time that its training takes, for progress displays."""


class ImageRun:
    """Trains and scores the model of a specification.

    An interrupted training is resumed, and complete records are not computed again.

    Args:
        spec: The specification.
        run: The run that executes it, in its folder.
    """

    def __init__(self, spec: ImageSpec, run: Run) -> None:
        self.spec = spec
        self.run = run

        run.report("loading data")
        self.splits = load(
            spec.dataset,
            spec.location,
            planned=ExpectedHashes(spec.data_hash, spec.labels_hash),
            image_size=spec.image_size,
            **spec.settings.data_subset,
        )
        self.labels: Labels = (self.splits.labels or {}) if spec.labels_hash else {}

    def execute(self) -> None:
        """Trains the model, and makes the records that are missing.

        Raises:
            FIFError: A sampler failed. The records of the other samplers are written first.
        """
        if not torch.cuda.is_available():
            keep_freed_memory()

        self._copy_same_training()
        model = self._train()

        codes = embed(
            model, self.splits.train, labels=self.labels.get("train"), seed=self.spec.seed
        )
        evaluation = self._evaluate(model, codes)
        self._score_samplers(model, codes, evaluation.reconstruction_mse["val"])

    def _copy_same_training(self) -> None:
        """Copies model and record from a run of the same training, if this run has neither.

        Runs that differ only in how samples are drawn and scored train the same model.
        """
        run = self.run
        model_folder = run.folder / "model"
        if model_folder.exists() or (run.folder / "training.json").exists():
            return

        for spec in run.store.specs(ImageSpec, self.spec.folder):
            source = run.store.folder(spec) / "model"
            record = run.store.record(spec, "training.json", Training)
            if spec.training_id == self.spec.training_id and record and source.exists():
                if LOG_NAME in record.files:
                    shutil.copy(source.with_name(LOG_NAME), run.folder)
                with atomic_folder(model_folder) as folder:
                    shutil.copytree(source, folder, dirs_exist_ok=True)
                own_record = record.model_copy(update={"run_id": self.spec.run_id})
                run.write("training.json", own_record.to_bytes())
                return

    def _train(self) -> BaseAE:
        """Trains the model, unless it is trained already, and saves the record of its training."""
        run = self.run
        trainer = build_trainer(
            self.spec,
            self.splits,
            self.labels,
            run.folder,
            lambda row: run.report("training", TRAINING_SHARE * row.share_done),
        )
        run.report("training")  # the first epoch may take minutes
        result = trainer.train()
        model = trainer.model
        del trainer  # and the images that it keeps on a GPU

        run.device = str(next(model.parameters()).device)
        self._save_training(vars(result))
        return model

    def _save_training(self, result: Mapping[str, Any]) -> None:
        """Saves the record of a training if it is new, and sets scores of other weights aside."""
        run = self.run
        paths = [*run.folder.glob("model/*"), *run.folder.glob(LOG_NAME)]
        files = {path.relative_to(run.folder).as_posix(): checksum(path) for path in paths}
        previous = run.load("training.json", Training)

        if previous is None or previous.files.get(WEIGHTS) != files[WEIGHTS]:
            for path in [*run.folder.glob("evaluation.json"), *run.folder.glob("scores/*.json")]:
                quarantine(path, "it was made with other weights")
        if previous is None or not previous.files.items() <= files.items():
            run.save("training.json", Training(**result), files)

    def _evaluate(self, model: BaseAE, codes: Tensor) -> Evaluation:
        """Measures reconstruction errors, codes and number of weights, unless the run has them."""
        record = self.run.load("evaluation.json", Evaluation)
        if record is not None:
            return record.result

        splits = self.splits
        errors = {}
        for split in ("val", "test"):
            set_seed(self.spec.seed)
            errors[split] = reconstruction_mse(model, splits[split], self.labels.get(split))

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
        self.run.save("evaluation.json", evaluation)
        return evaluation

    def _score_samplers(self, model: BaseAE, codes: Tensor, val_mse: float) -> None:
        """Draws and scores samples of the samplers that have no complete record yet."""
        run = self.run
        spec = self.spec
        run.report("features of the data", TRAINING_SHARE)
        extractor = load_extractor(
            spec.extractor,
            self.splits.input_dim,
            self.splits.name,
            device=run.device,
            weights=spec.location.extractor_weights,
            offline=spec.location.offline,
        )
        references = Features.from_splits(self.splits, extractor)
        training = references.pop("train")

        records = {name: run.load(f"scores/{name}.json", Scores) for name in spec.samplers}
        unscored = [name for name in records if not spec.is_complete(records[name], run.store)]
        run.report("likelihood", TRAINING_SHARE)
        priors = fit_priors(
            model,
            unscored,
            codes,
            self.labels.get("train"),
            seed=spec.seed,
            steps=spec.settings.fit_steps,
        )
        likelihoods = marginal_likelihoods(
            model,
            priors,
            self.splits,
            self.labels,
            val_mse=val_mse,
            num_samples=spec.settings.num_samples,
            training_images=(spec.settings.epochs or math.inf) * len(self.splits.train),
            seed=spec.seed,
        )

        failures = []
        for number, sampler in enumerate(unscored):
            share = TRAINING_SHARE + (1 - TRAINING_SHARE) * number / len(unscored)
            run.report(f"sampler {sampler}", share)
            try:
                samples, classes = self._sample(sampler, model, codes, priors.get(sampler))
                scores = score_samples(
                    samples,
                    extractor,
                    references,
                    seed=spec.seed,
                    training=training,
                    scores=spec.scores,
                )
            except Exception as error:  # other samplers may still work; it is raised below
                traceback.print_exc()
                failures.append(f"sampler {sampler}: {format_error(error)}")
            else:
                save_scores(
                    run,
                    sampler,
                    scores,
                    likelihoods.get(sampler, {}),
                    samples,
                    classes,
                    previous=records[sampler],
                    columns=self.splits.columns,
                )
        if failures:
            raise FIFError("; ".join(failures))

    def _sample(
        self, sampler: str, model: BaseAE, codes: Tensor, prior: Prior | None
    ) -> tuple[Tensor, np.ndarray | None]:
        """Draws samples, and their classes if the model takes labels."""
        options: Any = {
            "num_samples": self.spec.settings.num_samples,
            "seed": self.spec.seed,
            "fit_steps": self.spec.settings.fit_steps,
            "transform": rounded_images,
        }
        train_labels = self.labels.get("train")
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
        options=TrainerOptions(precision=spec.settings.precision),
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
