"""A job: a training, the scorings that are wanted of it, and how both are executed."""

import dataclasses
import math
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pythae.models import BaseAE
from pythae.trainers.trainer_utils import set_seed
from torch import Tensor

from pythae_fif.benchmark.build import build_trainer
from pythae_fif.benchmark.models import format_value
from pythae_fif.benchmark.pictures import samples_picture
from pythae_fif.benchmark.record import (
    EVALUATION_FILE,
    TRAINING_FILE,
    WEIGHTS,
    DataUsed,
    Evaluation,
    ScoringResult,
)
from pythae_fif.benchmark.scoring import Scoring
from pythae_fif.benchmark.training import Training
from pythae_fif.data import Splits
from pythae_fif.data.load import ExpectedHashes, load
from pythae_fif.data.splits import SPLIT_NAMES
from pythae_fif.errors import FIFError, StoreError, TooSlowError, format_error
from pythae_fif.evaluation import Features, load_extractor, score_codes, score_samples
from pythae_fif.evaluation.counter import Counter
from pythae_fif.evaluation.extractors import rounded_images
from pythae_fif.evaluation.likelihood import SplitLikelihood, marginal_likelihoods
from pythae_fif.evaluation.scores import missing_scores
from pythae_fif.files import checksum, quarantine
from pythae_fif.names import DataOptions
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import Run
from pythae_fif.sampling.samplers import embed, generate, generate_by_class, reconstruction_mse
from pythae_fif.training import TrainingResult, keep_freed_memory
from pythae_fif.training.checkpoint import LOG_NAME

Labels = Mapping[str, np.ndarray]
"""Split -> class of each example; empty if the model takes no labels."""

TRAINED, FEATURES_DONE, LIKELIHOOD_DONE = 0.5, 0.55, 0.85
"""The shares of a run that are done after its training, the features of its data and the
likelihoods, for progress displays."""
SAMPLES_OF_TABLE = 1000
"""Samples of a table that a run keeps."""


@dataclass(frozen=True)
class Job:
    """What a command asks of a run. Its result depends on the training and the scorings only.

    Attributes:
        training: The specification of the trained model.
        scorings: The wanted scorings, at least one. They differ only in the sampler.
        varied: Names of the parameters that the grid varies, for tables.
        scores: The user's own scores, as `module:function`.
        location: Where the data are.
        extractor_weights: File with the extractor's weights; None for the default file.
    """

    training: Training
    scorings: tuple[Scoring, ...]
    varied: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    location: DataOptions = field(default_factory=DataOptions, hash=False)
    extractor_weights: str | None = None

    @property
    def spec(self) -> Training:
        """The specification of the run."""
        return self.training

    @property
    def configuration(self) -> str:
        """The varied parameters as `name=value`, or a dash if nothing varies."""
        parameters = self.training.hyperparameters
        return ", ".join(f"{n}={format_value(parameters[n])}" for n in self.varied) or "–"

    @property
    def title(self) -> str:
        """Model, configuration and seed."""
        return f"{self.training.model} {self.configuration} seed {self.training.seed}"

    def is_done(self, store: Store) -> bool:
        """Returns whether the model is trained and has every wanted score."""
        outputs = {TRAINING_FILE: TrainingResult, EVALUATION_FILE: Evaluation}
        return store.has_records(self.training, outputs) and not self.open_scorings(store)

    def open_scorings(self, store: Store) -> list[Scoring]:
        """Returns the scorings that have no record or, if the model is there, lack a score.

        If the model can draw its samples again, a scoring is also open if their file is damaged.
        """
        has_model = (store.folder(self.training) / WEIGHTS).exists()
        return [
            scoring
            for scoring in self.scorings
            if self._is_open(store, scoring, has_model=has_model)
        ]

    def has_scores(self, store: Store) -> bool:
        """Returns whether the store has a scoring that can be compared with the wanted ones."""
        names = store.list_files(self.training.run_path, "scores")
        records = [store.read_record(self.training, name, ScoringResult) for name in names]
        protocol = self.scorings[0].protocol
        return any(r is not None and r.result.scoring.protocol == protocol for r in records)

    def _is_open(self, store: Store, scoring: Scoring, *, has_model: bool) -> bool:
        record = store.read_record(self.training, scoring.file, ScoringResult)
        if record is None or not has_model:
            return record is None
        try:
            store.check_files(self.training.run_path, record)
        except StoreError:
            return True
        return bool(missing_scores(record.result.scores, self.scores))

    def execute(self, run: Run) -> None:
        """Trains the model unless it is trained, and makes the records that are missing.

        An interrupted training is resumed.

        Raises:
            FIFError: A sampler failed. The records of the other samplers are written first.
        """
        if not torch.cuda.is_available():
            keep_freed_memory()

        training = self.training
        run.report("loading data")
        splits = load(
            training.dataset,
            self.location,
            planned=ExpectedHashes(training.data_hash, training.labels_hash),
            image_size=training.image_size,
            **training.data_selection,
        )
        labels: Labels = (splits.labels or {}) if training.labels_hash else {}

        model, train_seconds = _train(training, run, splits, labels)
        codes = embed(model, splits.train, labels=labels.get("train"), seed=training.seed)
        _evaluate(training, run, splits, labels, model, codes)
        _Scorer(self, run, splits, labels, model, codes, train_seconds).score_all()


def _train(training: Training, run: Run, splits: Splits, labels: Labels) -> tuple[BaseAE, float]:
    """Trains the model, unless it is trained already, and saves the record of its training.

    Returns:
        The model, and the seconds of its training.
    """
    trainer = build_trainer(
        training,
        splits,
        labels,
        run.folder,
        lambda row: run.report("training", TRAINED * row.share_done),
    )
    run.report("training")  # the first epoch may take minutes
    result = trainer.train()
    model = trainer.model
    del trainer  # and the data that it keeps on a GPU

    run.device = str(next(model.parameters()).device)
    _save_training(run, result)
    return model, result.seconds


def _save_training(run: Run, result: TrainingResult) -> None:
    """Saves the record of a training if it is new, and sets scores of other weights aside."""
    paths = [*run.folder.glob("model/*"), *run.folder.glob(LOG_NAME)]
    files = {path.relative_to(run.folder).as_posix(): checksum(path) for path in paths}
    previous = run.load(TRAINING_FILE, TrainingResult)

    if previous is None or previous.files.get(WEIGHTS) != files[WEIGHTS]:
        for path in [*run.folder.glob(EVALUATION_FILE), *run.folder.glob("scores/*.json")]:
            quarantine(path, "it was made with other weights")
    if previous is None or not previous.files.items() <= files.items():
        run.save(TRAINING_FILE, result, files)


def _evaluate(
    training: Training, run: Run, splits: Splits, labels: Labels, model: BaseAE, codes: Tensor
) -> None:
    """Measures reconstruction errors, codes and number of weights, unless the run has them."""
    if run.load(EVALUATION_FILE, Evaluation) is not None:
        return

    errors = {}
    for split in ("val", "test"):
        set_seed(training.seed)
        errors[split] = reconstruction_mse(model, splits[split], labels.get(split))

    evaluation = Evaluation(
        reconstruction_mse=errors,
        codes=score_codes(codes),
        parameters=sum(weights.numel() for weights in model.parameters()),
        data=DataUsed(
            source=splits.source,
            partial=splits.partial,
            sizes={split: len(splits[split]) for split in SPLIT_NAMES},
        ),
    )
    run.save(EVALUATION_FILE, evaluation)


@dataclass(frozen=True)
class _Scorer:
    """Draws samples of a trained model and scores them.

    Attributes:
        job: The job.
        run: Its run.
        splits: The data.
        labels: Their labels.
        model: The trained model.
        codes: Codes of the training data (N, d).
        train_seconds: Seconds of the training.
    """

    job: Job
    run: Run
    splits: Splits
    labels: Labels
    model: BaseAE
    codes: Tensor
    train_seconds: float

    def score_all(self) -> None:
        """Makes the records of the open scorings."""
        run = self.run
        for scoring in self.job.scorings:
            run.load(scoring.file, ScoringResult)  # sets a damaged record aside
        open_scorings = self.job.open_scorings(run.store)
        if not open_scorings:
            return

        progress = run.begin_stage("features", TRAINED, FEATURES_DONE)
        extractor = load_extractor(
            open_scorings[0].extractor,
            self.splits.input_dim,
            self.splits.name,
            device=run.device,
            weights=self.job.extractor_weights,
            offline=self.job.location.offline,
        )
        references = Features.from_splits(self.splits, extractor, progress)
        features_of_training = references.pop("train")

        likelihoods, left_out = self._likelihoods(open_scorings)

        failures = []
        share = (1 - LIKELIHOOD_DONE) / len(open_scorings)
        for number, scoring in enumerate(open_scorings):
            start = LIKELIHOOD_DONE + number * share
            progress = run.begin_stage(f"sampler {scoring.sampler}", start, start + share)
            # Each sample is drawn, and then scored.
            counter = Counter(progress, 2 * scoring.num_samples)
            try:
                samples, classes = self._sample(scoring, counter)
                scores = score_samples(
                    samples,
                    extractor,
                    references,
                    seed=self.job.training.seed,
                    training=features_of_training,
                    scores=self.job.scores,
                    on_batch=counter.add,
                )
            except Exception as error:  # other samplers may still work; it is raised below
                traceback.print_exc()
                failures.append(f"sampler {scoring.sampler}: {format_error(error)}")
            else:
                likelihood = likelihoods.get(scoring.sampler, {})
                summaries = {split: values.score for split, values in likelihood.items()}
                scores = dataclasses.replace(
                    scores, marginal_likelihood=summaries, left_out=left_out
                )
                files = self._write_samples(scoring, samples, classes, likelihood)
                self._save(scoring, scores, files)
        if failures:
            raise FIFError("; ".join(failures))

    def _likelihoods(
        self, scorings: Sequence[Scoring]
    ) -> tuple[dict[str, dict[str, SplitLikelihood]], str]:
        """Returns sampler -> split -> likelihoods, and why they are left out if they are."""
        try:
            return marginal_likelihoods(
                self.model,
                [scoring.sampler for scoring in scorings],
                self.splits,
                self.labels,
                num_samples=scorings[0].num_samples,
                train_seconds=self.train_seconds,
                seed=self.job.training.seed,
                steps=scorings[0].fit_steps,
                progress=self.run.begin_stage("likelihood", FEATURES_DONE, LIKELIHOOD_DONE),
            ), ""
        except TooSlowError as error:
            return {}, f"log-likelihood: {error}"

    def _sample(self, scoring: Scoring, counter: Counter) -> tuple[Tensor, np.ndarray | None]:
        """Draws samples, and their classes if the model takes labels."""
        options: Any = {
            "num_samples": scoring.num_samples,
            "seed": self.job.training.seed,
            "fit_steps": scoring.fit_steps,
            "transform": rounded_images,
            "on_batch": counter.add,
        }
        train_labels = self.labels.get("train")
        if train_labels is not None:
            return generate_by_class(
                scoring.sampler, self.model, self.codes, train_labels, **options
            )
        return generate(scoring.sampler, self.model, self.codes, **options), None

    def _write_samples(
        self,
        scoring: Scoring,
        samples: Tensor,
        classes: np.ndarray | None,
        likelihood: Mapping[str, SplitLikelihood],
    ) -> dict[str, str]:
        """Writes some samples, and the likelihoods of the test points.

        Samples are a picture of images, or a CSV file of a table's rows in original units.

        Returns:
            Name of each file -> its checksum.
        """
        columns = self.splits.columns
        if columns is None:
            picture = samples_picture(samples, classes)
            files = self.run.write(f"samples-{scoring.name}.png", picture)
        else:
            # Evenly spaced, so that all classes are among them.
            kept = slice(None, None, math.ceil(len(samples) / SAMPLES_OF_TABLE))
            frame = columns.to_frame(samples[kept], None if classes is None else classes[kept])
            content = frame.to_csv(index=False, float_format="%.9g").encode()
            files = self.run.write(f"samples-{scoring.name}.csv", content)
        if likelihood:
            content = likelihood["test"].to_csv().encode()
            files |= self.run.write(f"likelihood-{scoring.name}.csv", content)
        return files

    def _save(self, scoring: Scoring, scores: Any, files: Mapping[str, str]) -> None:
        """Saves the record of a scoring; the user's scores that only the previous has are kept."""
        previous = self.run.load(scoring.file, ScoringResult)
        if previous is not None:
            extra = {**previous.result.scores.extra, **scores.extra}
            scores = dataclasses.replace(scores, extra=extra)
        self.run.save(scoring.file, ScoringResult(scoring, scores), files)
