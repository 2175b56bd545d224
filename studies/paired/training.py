"""Trains and scores one of several models that share data, seeds and test points.

A run is a task (a data set and the settings of a training), an arm (what is compared) and a seed.
"""

import math
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pythae.models import AE, AEConfig, BaseAE
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainerConfig, CoupledOptimizerTrainerConfig
from pythae.trainers.trainer_utils import set_seed
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.data import ImageDataset, load_images, to_float
from pythae_fif.data.sets.papamakarios import ARCHIVED, load_tabular
from pythae_fif.data.splits import Splits
from pythae_fif.errors import DataError, NonFiniteError
from pythae_fif.evaluation import Features, frechet_distance, load_extractor
from pythae_fif.evaluation.extractors import rounded_images
from pythae_fif.models import InjectiveFlow, as_density
from pythae_fif.names import DataOptions, Precision
from pythae_fif.nn import build_networks
from pythae_fif.runs.local import LocalEngine
from pythae_fif.study import ProgressCallback, StudyOptions, StudySpec, collect_results
from pythae_fif.training import OnEpoch, TrainerOptions
from pythae_fif.validation import StrictModel
from pythae_fif.volume_change.exact import decoder_jacobian, encoder_jacobian

PRIORS = ("mixture", "normal")

PRIOR_POINTS = 10_000
"""First training points that a mixture is fitted to."""
TRACE_POINTS = 200
TRACE_CHUNK = 50
SAMPLES = 10_000
CHUNK = 500
NATS_DECIMALS = 1
"""Decimals of the log-densities of test points, so that records stay small."""


# ------------------------------------------------------------------ tasks and arms


class Task(StrictModel):
    """A data set, and the settings of a training on it.

    Attributes:
        dataset: 'digits', 'mnist', or a published table, such as 'power'.
        arch: Architecture of the networks.
        latent_dim: d.
        epochs: Number of epochs.
        batch_size: Points in a batch.
        learning_rate: Adam's constant learning rate.
        precision: Precision of the training steps.
        train_size: First training points that are used; all if None.
        val_size: The same for validation.
        points: Test points of a likelihood, spread evenly, and first validation points, which give
            the scale of the noise around a manifold; all points if there are fewer.
    """

    dataset: str
    arch: str
    latent_dim: int
    epochs: int
    batch_size: int
    learning_rate: float
    precision: Precision = "float32"
    train_size: int | None = None
    val_size: int | None = None
    points: int = 2_000

    def load(self, location: DataOptions) -> Splits:
        """Loads the data: rows of a table, or images."""
        splits = load_splits(self.dataset, location.data_root)
        return splits.subset(train=self.train_size, val=self.val_size)

    def build_networks(self, splits: Splits) -> tuple[BaseEncoder, BaseDecoder]:
        """Builds networks with random weights; seed torch before calling."""
        return build_networks(self.arch, splits.input_dim, self.latent_dim)

    def build_fif(
        self, splits: Splits, beta: float | Literal["auto"] = "auto", **options: Any
    ) -> FIF:
        """Builds a FIF; seed torch before calling.

        Args:
            splits: The data.
            beta: Weight of the reconstruction error.
            **options: Further options of `FIFConfig`.
        """
        config = FIFConfig(
            input_dim=splits.input_dim, latent_dim=self.latent_dim, beta=beta, **options
        )
        return FIF(config, *self.build_networks(splits))


DIGITS = Task(
    dataset="digits", arch="convnet", latent_dim=8, epochs=40, batch_size=50, learning_rate=2e-3
)
MINIBOONE = Task(
    dataset="miniboone", arch="tabular", latent_dim=21, epochs=25, batch_size=128,
    learning_rate=1e-3,
)  # fmt: skip
POWER = Task(
    dataset="power", arch="tabular", latent_dim=3, epochs=8, batch_size=128, learning_rate=1e-3
)


@cache
def load_splits(dataset: str, data_root: str | None) -> Splits:
    """Loads a published table, or images."""
    load = load_tabular if dataset in ARCHIVED else load_images
    return load(dataset, data_root)


class Trainee(NamedTuple):
    """What an arm trains.

    Attributes:
        model: The model with its first weights.
        callbacks: What the arm does after a step or before an epoch.
        decoder_weight_decay: Weight decay of the decoder. Encoder and decoder then have one Adam
            each, as Pythae's RAE-L2 has.
    """

    model: BaseAE
    callbacks: Sequence[TrainingCallback] = ()
    decoder_weight_decay: float | None = None


Arm = Callable[[Task, Splits], Trainee]


def autoencoder(task: Task, splits: Splits) -> Trainee:
    """The arm of Pythae's autoencoder."""
    config = AEConfig(input_dim=splits.input_dim, latent_dim=task.latent_dim)
    return Trainee(AE(config, *task.build_networks(splits)))


# ------------------------------------------------------------------ a run


@dataclass(frozen=True)
class PairedScores:
    """Scores of a trained model on test points. Likelihoods are for each of `PRIORS`.

    Attributes:
        steps: Number of training steps.
        best_epoch: The epoch that was kept.
        beta: The last weight of the reconstruction error; None if the model has none.
        train_seconds: Processor time of the training.
        score_seconds: Processor time of the scores.
        points: Number of test points.
        noise_std: Standard deviation of the noise around the manifold.
        mse: Squared error of a point.
        variance: The squared error of the mean training point.
        trace: Mean of tr f'g' / d.
        nats: Mean marginal log-likelihoods.
        val_nats: The same of the validation points that gave the noise's scale.
        distance: Frechet distance of samples to test data.
        point_nats: The log-likelihood of each test point, to 0.1 nats.
    """

    steps: int
    best_epoch: int
    beta: float | None
    train_seconds: float
    score_seconds: float
    points: int
    noise_std: float
    mse: float
    variance: float
    trace: float
    nats: dict[str, float]
    val_nats: dict[str, float]
    distance: dict[str, float]
    point_nats: dict[str, list[float]]


@dataclass(frozen=True)
class PairedResult:
    """What a training ended with.

    Attributes:
        data: Description of the data.
        scores: Its scores; None if its loss or its likelihood is not finite.
        failure: What was not finite; empty if there are scores.
    """

    data: str
    scores: PairedScores | None
    failure: str = ""

    @property
    def valid_scores(self) -> PairedScores | None:
        """The scores; None also if the mean training point reconstructs better than the model."""
        scores = self.scores
        return None if scores is None or scores.mse > scores.variance else scores


class PairedTraining(StudySpec):
    """The training of an arm with a seed. Subclasses define the arms.

    Attributes:
        arms: Name -> what it trains.
        task: The data and the settings.
        arm: A key of `arms`.
        seed: Seed of the weights, the batches and the scores.
        data_hash: Hash of the data.
    """

    result: ClassVar[Any] = PairedResult
    on_cpu: ClassVar[bool] = True
    arms: ClassVar[Mapping[str, Arm]]

    task: Task
    arm: str
    seed: int
    data_hash: str

    def compute(self, report_progress: ProgressCallback) -> PairedResult:
        """Trains and scores the model on one thread.

        Raises:
            DataError: The data changed since the run was planned.
        """
        torch.set_num_threads(1)
        splits = self.task.load(self.location)
        if splits.content_hash != self.data_hash:
            raise DataError(f"{self.task.dataset} changed since the plan: start again")

        set_seed(self.seed)
        trainee = self.arms[self.arm](self.task, splits)
        try:
            scores = self._train_and_score(trainee, splits, report_progress)
        except (NonFiniteError, LinAlgError, FloatingPointError) as error:
            return PairedResult(splits.source, None, f"{type(error).__name__}: {error}")
        return PairedResult(splits.source, scores)

    def _train_and_score(
        self, trainee: Trainee, splits: Splits, report_progress: ProgressCallback
    ) -> PairedScores:
        start = time.process_time()
        with tempfile.TemporaryDirectory() as run_dir:
            trainer = build_trainer(
                trainee,
                self.task,
                self.seed,
                splits,
                run_dir,
                lambda epoch: report_progress(epoch.share_done),
            )
            training = trainer.train()
        train_seconds = time.process_time() - start

        start = time.process_time()
        scores = score_model(trainee.model, self.task, splits, self.seed)
        beta = getattr(trainee.model, "beta", None)
        return PairedScores(
            steps=training.images // self.task.batch_size,
            best_epoch=training.best_epoch,
            beta=None if beta is None else float(beta),
            train_seconds=round(train_seconds, 2),
            score_seconds=round(time.process_time() - start, 2),
            **scores,
        )


def build_trainer(
    trainee: Trainee,
    task: Task,
    seed: int,
    splits: Splits,
    run_dir: str,
    on_epoch: OnEpoch,
    processor_time: float | None = None,
) -> FIFTrainer:
    """Builds the trainer of an arm.

    Args:
        trainee: What the arm trains.
        task: The task.
        seed: Seed of the batches.
        splits: The task's data.
        run_dir: Folder of the training.
        on_epoch: Called after each epoch.
        processor_time: Processor seconds of training steps after which the training ends.
    """
    config: BaseTrainerConfig = FIFTrainerConfig(learning_rate=task.learning_rate)
    if trainee.decoder_weight_decay is not None:
        config = CoupledOptimizerTrainerConfig(
            encoder_learning_rate=task.learning_rate,
            decoder_learning_rate=task.learning_rate,
            decoder_optimizer_params={"weight_decay": trainee.decoder_weight_decay},
        )
    config.num_epochs = task.epochs
    config.per_device_train_batch_size = task.batch_size
    config.per_device_eval_batch_size = task.batch_size
    config.seed = seed
    config.no_cuda = True

    return FIFTrainer(
        trainee.model,
        ImageDataset(splits.train),
        ImageDataset(splits.val),
        config,
        callbacks=list(trainee.callbacks),
        run_dir=run_dir,
        checkpoint_every_seconds=math.inf,
        processor_time=processor_time,
        options=TrainerOptions(precision=task.precision),
        on_epoch=on_epoch,
    )


def score_model(model: BaseAE, task: Task, splits: Splits, seed: int) -> dict[str, Any]:
    """Scores a trained model on test points.

    Args:
        model: An injective flow or a deterministic autoencoder.
        task: The task.
        splits: Its data.
        seed: Seed of the mixture, of importance samples and of samples.

    Returns:
        The fields of :class:`PairedScores`, without those of the training.

    Raises:
        NonFiniteError: A score is not finite.
    """
    density = as_density(model)
    density.prior = None
    indices = np.unique(np.linspace(0, len(splits.test) - 1, task.points).astype(int))
    test = to_float(splits.test[indices])
    val = to_float(splits.val[: task.points])
    noise_std = density.estimate_noise_std(val)
    likelihood = density.marginal_likelihood(test)
    val_likelihood = density.marginal_likelihood(val)
    errors = (density.reconstruct(test) - test).flatten(1).square().sum(1)
    mean_point = to_float(splits.train[:PRIOR_POINTS]).mean(0)

    scores: dict[str, Any] = {
        "points": len(test),
        "noise_std": noise_std,
        "mse": errors.mean().item(),
        "variance": (test - mean_point).flatten(1).square().sum(1).mean().item(),
        "trace": mean_trace(model, test[:TRACE_POINTS]) / task.latent_dim,
        "nats": {},
        "val_nats": {},
        "distance": {},
        "point_nats": {},
    }
    for prior in reversed(PRIORS):  # the standard normal is the prior until another is fitted
        if prior == "mixture":
            density.fit_prior(to_float(splits.train[:PRIOR_POINTS]), "mixture", seed=seed)
        torch.manual_seed(seed)
        nats = likelihood.log_prob(density.latent_distribution(test), noise_std)
        val_nats = val_likelihood.log_prob(density.latent_distribution(val), noise_std)
        if not nats.isfinite().all():
            raise NonFiniteError(f"the likelihood with {prior} is not finite")
        scores["nats"][prior] = nats.mean().item()
        scores["val_nats"][prior] = val_nats.mean().item()
        scores["point_nats"][prior] = nats.double().numpy().round(NATS_DECIMALS).tolist()
        scores["distance"][prior] = _distance(density, task, splits, seed)
    return scores


@torch.no_grad()
def mean_trace(model: BaseAE, x: Tensor) -> float:
    """Computes the mean over data x (B, ...) of tr f'(x) g'(f(x))."""
    traces = []
    for part in x.split(TRACE_CHUNK):
        z = model.encoder(part)["embedding"]
        f_jacobian = encoder_jacobian(lambda x: model.encoder(x)["embedding"], part)
        g_jacobian = decoder_jacobian(lambda z: model.decoder(z)["reconstruction"], z)
        traces.append((f_jacobian * g_jacobian.mT).sum((1, 2)))
    return torch.cat(traces).mean().item()


def _distance(density: InjectiveFlow, task: Task, splits: Splits, seed: int) -> float:
    """The Frechet distance of samples to test data: of rows, or of a classifier's features."""
    generator = torch.Generator().manual_seed(seed)
    chunks = [density.sample(CHUNK, generator=generator) for _ in range(SAMPLES // CHUNK)]
    samples = torch.cat(chunks)
    if len(splits.input_dim) == 1:
        return frechet_distance(Features(samples), Features(to_float(splits.test)))

    extractor = load_extractor("classifier", splits.input_dim, task.dataset)
    features = []
    for images in (rounded_images(samples), torch.from_numpy(splits.test)):
        features.append(torch.cat([extractor(part)[0] for part in images.split(CHUNK)]))
    return frechet_distance(*map(Features, features))


# ------------------------------------------------------------------ all runs

Results = dict[str, dict[str, dict[int, PairedResult]]]
"""Data set -> arm -> seed -> result."""


class PlannedTraining(NamedTuple):
    """A training that a study needs."""

    task: Task
    arm: str
    seed: int


def run_trainings(
    spec_class: type[PairedTraining],
    plan: Iterable[PlannedTraining],
    options: StudyOptions,
) -> Results:
    """Executes the trainings that are missing in the store, and reads the results of all.

    Args:
        spec_class: The specification of the study's trainings.
        plan: The trainings, in the order of their execution.
        options: The study's options.
    """
    specs = [
        spec_class(
            task=task,
            arm=arm,
            seed=seed,
            data_hash=task.load(options.location).content_hash,
            location=options.location,
        )
        for task, arm, seed in plan
    ]
    engine = options.engine or LocalEngine(cpus_per_run=1)
    results = collect_results(specs, replace(options, engine=engine))

    results_by_arm: Results = {}
    for spec, result in zip(specs, results, strict=True):
        arms = results_by_arm.setdefault(spec.task.dataset, {})
        arms.setdefault(spec.arm, {})[spec.seed] = result
    return results_by_arm
