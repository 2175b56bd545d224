"""One run of the benchmark: training, samples, scores, pictures."""

__all__ = [
    "IMAGES",
    "labels_of",
    "trainer_of",
    "training_config",
]

import dataclasses
import logging
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pythae.models import BaseAE
from pythae.trainers.trainer_utils import set_seed

from pythae_fif.benchmark.inputs import load_extractor, load_splits, reference_of
from pythae_fif.benchmark.model_entry import model_hash, read_model_entry
from pythae_fif.benchmark.plan import SCHEMA, RunSpec, build_model, check_classes, rebuild_model
from pythae_fif.benchmark.record import SPLITS, DataUsed, ImageRecord, Training, TrainingRecord
from pythae_fif.benchmark.sheets import classes_name, samples_name, write_samples, write_sheets
from pythae_fif.benchmark.yaml_files import import_class
from pythae_fif.data import ImageDataset, Splits
from pythae_fif.data.cache import mapped_splits
from pythae_fif.device import default_device
from pythae_fif.errors import ConfigError, FIFError, StoreError
from pythae_fif.evaluation import score_codes, score_samples
from pythae_fif.evaluation.scores import Scores
from pythae_fif.files import checksum, set_aside, write_json
from pythae_fif.runs.execute import interrupted_here, line_of
from pythae_fif.runs.kind import Job, Kind, require_planned
from pythae_fif.runs.provenance import git_state, provenance
from pythae_fif.runs.store import config_text, json_content
from pythae_fif.sampling import FIT_STEPS
from pythae_fif.sampling.models import embed, reconstruction_mse
from pythae_fif.sampling.samplers import generate, generate_by_class
from pythae_fif.training import EpochRow, FIFTrainer, OnEpoch, TrainingResult

logger = logging.getLogger(__name__)

ImageJob = Job[RunSpec, ImageRecord]


def work(job: ImageJob) -> None:
    """Trains and scores a run, and writes its pictures and its record.

    A training that was cut off is resumed, a trained model is not trained again, and samplers
    that were scored before keep their scores; if the model is gone, all of them are scored anew
    with the one that is trained in its place.

    Raises:
        FIFError: Of a sampler that failed; the record holds the scores of the others.
    """
    spec, folder = job.spec, job.folder
    check_classes([spec.model])
    own = f"models/{spec.model}.yaml, or code that it names,"
    require_planned(own, model_hash(spec.model), spec.model_hash)
    folder.tell("running", "loading data")
    splits = _splits_of(job)
    model, training = trained_model(job, splits)
    before = job.before
    wanted = dict.fromkeys((*spec.samplers, *(before.scores if before else ())))
    if before is not None and before.training != training:  # scores of a model that is gone
        # All are asked anew, so that the run is not done before it has them all.
        asked = config_text(IMAGES, dataclasses.replace(spec, samplers=tuple(wanted)))
        folder.write("config.yaml", lambda file: file.write(asked.encode()))
        for name in (name_of(of) for of in wanted for name_of in (samples_name, classes_name)):
            (folder.path / name).unlink(missing_ok=True)
        before = None

    folder.tell("running", "features of the data", 0.9)
    device = str(next(model.parameters()).device)
    extractor = load_extractor(spec.extractor, splits, job.environment, device)
    references = {split: reference_of(splits, split, extractor) for split in SPLITS}
    known = reference_of(splits, "train", extractor)
    labels = labels_of(spec, splits)
    codes = embed(model, splits.train, labels=labels.get("train"), seed=spec.seed)
    errors = {}
    for split in SPLITS:
        set_seed(spec.seed)
        errors[split] = reconstruction_mse(model, splits[split], labels.get(split))
    folder.check()
    write_sheets(folder.path, model, splits, codes)
    how: dict[str, Any] = {
        "num_samples": spec.settings.num_samples,
        "seed": spec.seed,
        "fit_steps": spec.settings.fit_steps or FIT_STEPS,
    }
    scores: dict[str, Scores] = dict(before.scores) if before else {}
    later = dict(before.later_provenance) if before else {}

    def keep() -> None:
        made = provenance(device, job.started, folder.attempt)
        if before:
            later.update(dict.fromkeys(scores.keys() - before.scores.keys(), made))
        job.write_record(
            ImageRecord(
                run_id=spec.run_id,
                scores=scores,
                reconstruction_mse=errors,
                codes=score_codes(codes),
                training=training,
                parameters=sum(p.numel() for p in model.parameters()),
                data=DataUsed(
                    source="; ".join([splits.source, *splits.notes]),
                    partial=splits.partial,
                    sizes={split: len(splits[split]) for split in ("train", "val", "test")},
                ),
                extractor_accuracy=extractor.accuracy,
                provenance=before.provenance if before else made,
                later_provenance=later,
            )
        )

    failures: dict[str, Exception] = {}
    for number, sampler in enumerate(wanted):
        folder.tell("running", f"sampler {sampler}", 0.9 + 0.1 * number / len(wanted))
        pictures = [samples_name(sampler), *([classes_name(sampler)] if labels else [])]
        if sampler in scores and all((folder.path / name).exists() for name in pictures):
            continue
        classes = None
        try:
            if labels:
                drawn, classes = generate_by_class(sampler, model, codes, labels["train"], **how)
            else:
                drawn = generate(sampler, model, codes, **how)
            if sampler not in scores:
                scores[sampler] = score_samples(
                    drawn, extractor, references, seed=spec.seed, training=known
                )
        except Exception as error:  # of this sampler alone; it is raised below
            _let_go(error)
            failures[sampler] = error
            continue
        folder.check()
        write_samples(folder.path, splits, sampler, drawn, classes)
        keep()  # what is scored is not lost if the next sampler takes too long
    if before:
        keep()  # a picture that is no sampler's may have been gone
    for sampler, cause in failures.items():
        raise FIFError(f"sampler {sampler}: {line_of(cause)}") from cause


def _let_go(error: BaseException | None) -> None:
    """Clears the frames of an error and of those before it: they hold tensors, perhaps a GPU's."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _splits_of(job: ImageJob) -> Splits:
    """The images of a run: lent by an engine, mapped from the cache as planned, or loaded."""
    spec, lent = job.spec, job.lent
    if isinstance(lent, Splits) and lent.content_hash == spec.data_hash:
        return lent
    planned = mapped_splits(spec.data_hash, spec.labels_hash)
    if planned is not None and planned.name == spec.dataset:
        return planned
    splits = load_splits(spec.dataset, spec.image_size, spec.settings, job.environment)
    require_planned(f"the data of {spec.dataset}", splits.content_hash, spec.data_hash)
    return splits


def trained_model(job: ImageJob, splits: Splits) -> tuple[BaseAE, Training]:
    """The model of a run and how it was trained, which an earlier attempt may have done already."""
    saved = _saved_model(job, splits.input_dim)
    if saved is not None:
        return saved
    folder = job.folder

    with interrupted_here() as check_interrupt:

        def on_epoch(row: EpochRow) -> None:
            folder.check()
            folder.tell("running", "training", 0.9 * row.share_done)
            check_interrupt()

        def seal(model: BaseAE, result: TrainingResult, saved: Path) -> None:
            """Before the model has its name: no model is ever there without its record."""
            device = str(next(model.parameters()).device)
            if splits.columns is not None:
                write_json(saved / "columns.json", dataclasses.asdict(splits.columns))
            record = TrainingRecord(
                run_id=folder.run_id,
                training=_training_of(result, model),
                provenance=provenance(device, job.started, folder.attempt),
                files={f"model/{file.name}": checksum(file) for file in sorted(saved.iterdir())},
            )
            folder.write_json("training.json", record.to_dict())

        trainer = trainer_of(job.spec, splits, folder.path, on_epoch, seal)
        folder.tell("running", "training")  # an epoch may take minutes
        result = trainer.train()
    return trainer.model, _training_of(result, trainer.model)


def _training_of(result: TrainingResult, model: BaseAE) -> Training:
    git = git_state()
    return Training(
        **vars(result),
        surrogate_mode=getattr(model, "surrogate_mode", None),
        git_revision=git.revision,
        git_dirty=git.dirty,
    )


def _saved_model(job: ImageJob, input_dim: tuple[int, ...]) -> tuple[BaseAE, Training] | None:
    """The model that this run trained, or None; one that is another's or damaged is set aside."""
    model, path = job.folder.path / "model", job.folder.path / "training.json"
    if not model.is_dir():
        return None
    content = json_content(path)
    try:
        if content is None:
            raise FIFError("training.json is not there")
        record = TrainingRecord.parse(content)
        if record.run_id != job.folder.run_id or not record.files:
            raise FIFError("training.json is not of this run")
        for name, sealed in record.files.items():
            if checksum(job.folder.path / name) != sealed:
                raise FIFError(f"{name} was changed")
        loaded = rebuild_model(job.spec, input_dim, model)
    except (MemoryError, ConfigError, ImportError):
        raise  # of this machine: nothing is said of the model
    except Exception as error:  # a damaged file raises anything
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError | StoreError):
            raise StoreError(f"cannot read {model}: {error.strerror}") from error
        asides = [set_aside(found).name for found in (model, path) if found.exists()]
        logger.warning(
            "%s is not used (%s): set aside as %s",
            model, line_of(error), " and ".join(asides),
        )  # fmt: skip
        return None
    return loaded.to(default_device()), record.training


def labels_of(spec: RunSpec, splits: Splits) -> dict[str, np.ndarray]:
    """Split -> the labels that the model of a run is told; empty for most models.

    Raises:
        DataError: They are not those of the plan.
    """
    if spec.labels_hash is None:
        return {}
    require_planned(f"the labels of {spec.dataset}", splits.labels_hash, spec.labels_hash)
    assert splits.labels is not None  # what has a hash is there
    return splits.labels


def trainer_of(
    spec: RunSpec,
    splits: Splits,
    run_dir: Path,
    on_epoch: OnEpoch | None = None,
    on_saved: Callable[[BaseAE, TrainingResult, Path], None] | None = None,
) -> FIFTrainer:
    """A fresh model of a run, seeded, in the trainer that trains it."""
    set_seed(spec.seed)
    labels = labels_of(spec, splits)
    return FIFTrainer(
        build_model(spec, splits.input_dim),
        ImageDataset(splits.train, labels.get("train")),
        ImageDataset(splits.val, labels.get("val")),
        training_config(spec),
        run_dir=run_dir,
        run_id=spec.run_id,
        on_epoch=on_epoch,
        on_saved=on_saved,
        wall_clock=spec.settings.wall_clock,
        keep_last=read_model_entry(spec.model).keep_last,
        precision=spec.settings.precision,
        progress=False,
    )


def training_config(spec: RunSpec) -> Any:
    """Pythae's training configuration of a run: Adam, with the profile's plateau schedule."""
    settings = spec.settings
    config_class = import_class(read_model_entry(spec.model).trainer, spec.model)
    plateau = {"factor": settings.plateau_factor, "patience": settings.plateau_patience}
    parts = ("encoder_", "decoder_", "autoencoder_", "discriminator_")
    optimisation: dict[str, Any] = {}
    for part in [part for part in parts if hasattr(config_class, f"{part}learning_rate")] or [""]:
        optimisation[f"{part}learning_rate"] = settings.learning_rate
        if settings.weight_decay is not None:
            optimisation[f"{part}optimizer_params"] = {"weight_decay": settings.weight_decay}
        if settings.plateau_factor is not None:
            optimisation[f"{part}scheduler_cls"] = "ReduceLROnPlateau"
            optimisation[f"{part}scheduler_params"] = plateau
    return config_class(
        num_epochs=settings.epochs or 1,  # a wall clock knows none
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        seed=spec.seed,
        **optimisation,
    )


class _Images(Kind[RunSpec, ImageRecord]):
    def answers(self, spec: RunSpec, record: ImageRecord) -> bool:
        return set(spec.samplers) <= set(record.scores)

    def joined(self, before: RunSpec, asked: RunSpec) -> RunSpec:
        samplers = dict.fromkeys((*before.samplers, *asked.samplers))
        return dataclasses.replace(asked, samplers=tuple(samplers))

    def lacks(self, run_dir: Path, record: ImageRecord) -> bool:
        """Whether a picture is gone that the model, which is there, can draw again."""
        pictures = [name for name in record.files or () if name.endswith(".png")]
        gone = not all(os.path.exists(os.path.join(run_dir, name)) for name in pictures)
        return gone and (run_dir / "model").is_dir()


IMAGES = _Images("images", SCHEMA, RunSpec.from_dict, ImageRecord, work)
"""Runs of the image benchmark."""
