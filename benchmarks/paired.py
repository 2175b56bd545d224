"""Trains models that share data and seeds, and scores them on the same test points.

A run is a task (a data set and the settings of a training), an arm (what is compared) and a seed.
It is one line of `<task>.jsonl` in a folder of records, with the log-density of every test point,
rounded to 0.1 nats. To keep the file small, these are differences to the first run's with the
mixture. Runs that have a record are not repeated.
"""

import base64
import json
import math
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pythae.models import AE, AEConfig, BaseAE
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainerConfig, CoupledOptimizerTrainerConfig
from pythae.trainers.trainer_utils import set_seed
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.data import ImageDataset, load_images, to_float
from pythae_fif.data.sets.papamakarios import load_tabular
from pythae_fif.data.splits import Splits
from pythae_fif.errors import NonFiniteError
from pythae_fif.evaluation import Features, frechet_distance, load_extractor
from pythae_fif.evaluation.extractors import rounded_images
from pythae_fif.files import write_bytes
from pythae_fif.models import InjectiveFlow, as_density
from pythae_fif.names import Precision
from pythae_fif.nn import build_networks
from pythae_fif.runs.provenance import git_state, processor
from pythae_fif.training import OnEpoch
from pythae_fif.volume_change.exact import decoder_jacobian, encoder_jacobian

PRIORS = ("mixture", "normal")

PRIOR_POINTS = 10_000
"""First training points that a mixture is fitted to."""
TRACE_POINTS = 200
TRACE_CHUNK = 50
SAMPLES = 10_000
CHUNK = 500
NATS_UNIT = 0.1
"""Log-densities of test points are rounded to multiples of this."""


class Task(NamedTuple):
    """A data set, and the settings of a training on it.

    Attributes:
        name: Name in the records.
        dataset: 'digits', 'mnist', or a table of the tabular study.
        arch: Architecture of the networks.
        latent_dim: d.
        epochs: Epochs of every arm.
        batch_size: Points in a batch.
        learning_rate: Adam's constant learning rate.
        precision: Precision of the training steps.
        train_size: First training points that are used; all if None.
        val_size: The same for validation.
        points: Test points of a likelihood, spread evenly, and first validation points, which give
            the scale of the noise around a manifold; all points if there are fewer.
    """

    name: str
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


class Training(NamedTuple):
    """What an arm trains.

    Attributes:
        model: The model with its first weights.
        callbacks: What the arm does after a step or before an epoch.
        decoder_weight_decay: Weight decay of the decoder. Encoder and decoder then have one Adam
            each, as Pythae's RAE-L2 has.
        epochs: Epochs of this arm; None for the task's.
    """

    model: BaseAE
    callbacks: Sequence[TrainingCallback] = ()
    decoder_weight_decay: float | None = None
    epochs: int | None = None


DIGITS = Task("digits", "digits", "convnet", 8, 40, 50, 2e-3)
MINIBOONE = Task("miniboone", "miniboone", "tabular", 21, 25, 128, 1e-3)
POWER = Task("power", "power", "tabular", 3, 8, 128, 1e-3)

Arm = Callable[[Task, Splits], Training]
Records = dict[str, dict[str, dict[int, dict[str, Any]]]]
"""Task -> arm -> seed -> record."""


def autoencoder(task: Task, splits: Splits) -> Training:
    """The arm of Pythae's autoencoder."""
    config = AEConfig(input_dim=splits.input_dim, latent_dim=task.latent_dim)
    return Training(AE(config, *task.build_networks(splits)))


@cache
def load_data(task: Task, data_root: str) -> Splits:
    """Loads a task's data: rows of a table of the tabular study, or images."""
    if task.dataset in ("power", "miniboone"):
        splits = load_tabular(task.dataset, data_root)
    else:
        splits = load_images(task.dataset, data_root)
    return splits.subset(train=task.train_size, val=task.val_size)


# -------------------------------------------------------------------------------- a run


def run_all(
    tasks: Sequence[Task],
    arms: Mapping[str, Arm],
    seeds: Mapping[str, Sequence[int]],
    folder: Path,
    data_root: str,
) -> None:
    """Makes all runs that have no record, seed by seed, and prints a line for each.

    Args:
        tasks: The tasks.
        arms: Name -> what it trains.
        seeds: Name of a task -> its seeds. All runs of a seed are made before the next seed's.
        folder: Folder of the records.
        data_root: Folder of the data.
    """
    torch.set_num_threads(1)
    for seed in sorted(set().union(*seeds.values())):
        for task in tasks:
            if seed in seeds[task.name]:
                _run_seed(task, arms, seed, folder, data_root)


def _run_seed(task: Task, arms: Mapping[str, Arm], seed: int, folder: Path, data_root: str) -> None:
    """Makes the runs of a task and a seed that have no record."""
    path = folder / f"{task.name}.jsonl"
    for name, arm in arms.items():
        records = read_records(path)
        if (name, seed) in {(record["arm"], record["seed"]) for record in records}:
            continue

        record = {"task": task.name, "arm": name, "seed": seed}
        record |= execute_run(task, arm, seed, load_data(task, data_root))
        write_records(path, [*records, record])
        print(time.strftime("%H:%M:%S"), _summary(record), flush=True)


def execute_run(task: Task, arm: Arm, seed: int, splits: Splits) -> dict[str, Any]:
    """Trains and scores one model.

    Args:
        task: The task.
        arm: What is trained.
        seed: Seed of the weights, the batches and the scores.
        splits: The task's data.

    Returns:
        The content of a record without its name. A training with a loss that is not finite, or a
        likelihood that is not, has a `failure` and no scores.
    """
    set_seed(seed)
    training = arm(task, splits)
    record: dict[str, Any] = {
        "data": splits.source,
        "data_hash": splits.content_hash,
        "settings": task._asdict(),
        "revision": git_state()[0],
        "processor": processor(),
    }

    start = time.process_time()
    try:
        record |= _train(training, task, seed, splits)
        record["train_seconds"] = round(time.process_time() - start, 2)
        start = time.process_time()
        record |= score(training.model, task, splits, seed)
        record["score_seconds"] = round(time.process_time() - start, 2)
    except (NonFiniteError, torch.linalg.LinAlgError, FloatingPointError) as error:
        record["failure"] = f"{type(error).__name__}: {error}"
    return record


def _train(training: Training, task: Task, seed: int, splits: Splits) -> dict[str, Any]:
    """Trains the model in place and returns its epoch of lowest validation loss and its beta."""
    with tempfile.TemporaryDirectory() as run_dir:
        result = build_trainer(training, task, seed, splits, run_dir).train()

    beta = getattr(training.model, "beta", None)
    return {
        "steps": result.images // task.batch_size,
        "best_epoch": result.best_epoch,
        "beta": None if beta is None else float(beta),
    }


def build_trainer(
    training: Training,
    task: Task,
    seed: int,
    splits: Splits,
    run_dir: str,
    on_epoch: OnEpoch | None = None,
) -> FIFTrainer:
    """Builds the trainer of an arm.

    Args:
        training: What the arm trains.
        task: The task.
        seed: Seed of the batches.
        splits: The task's data.
        run_dir: Folder of the training.
        on_epoch: Called after each epoch.
    """
    config: BaseTrainerConfig = FIFTrainerConfig(learning_rate=task.learning_rate)
    if training.decoder_weight_decay is not None:
        config = CoupledOptimizerTrainerConfig(
            encoder_learning_rate=task.learning_rate,
            decoder_learning_rate=task.learning_rate,
            decoder_optimizer_params={"weight_decay": training.decoder_weight_decay},
        )
    config.num_epochs = training.epochs or task.epochs
    config.per_device_train_batch_size = task.batch_size
    config.per_device_eval_batch_size = task.batch_size
    config.seed = seed
    config.no_cuda = True

    return FIFTrainer(
        training.model,
        ImageDataset(splits.train),
        ImageDataset(splits.val),
        config,
        callbacks=list(training.callbacks),
        run_dir=run_dir,
        checkpoint_every_seconds=math.inf,
        precision=task.precision,
        on_epoch=on_epoch,
    )


def score(model: BaseAE, task: Task, splits: Splits, seed: int) -> dict[str, Any]:
    """Scores a trained model on test points.

    Args:
        model: An injective flow or a deterministic autoencoder.
        task: The task.
        splits: Its data.
        seed: Seed of the mixture, of importance samples and of samples.

    Returns:
        `mse`, the squared error of a point; `variance`, the error of the mean training point;
        `trace`, the mean of tr f'g' / d; `noise_std`; and for each prior the mean marginal
        likelihood `nats`, its values `point_nats` (N), its mean `val_nats` for the validation
        points that gave the noise's scale, and the Frechet `distance` of samples to test data.

    Raises:
        NonFiniteError: A score is not finite.
    """
    density = as_density(model)
    density.prior = None
    rows = np.unique(np.linspace(0, len(splits.test) - 1, task.points).astype(int))
    test = to_float(splits.test[rows])
    val = to_float(splits.val[: task.points])
    noise_std = density.estimate_noise_std(val)
    likelihood = density.marginal_likelihood(test, noise_std)
    val_likelihood = density.marginal_likelihood(val, noise_std)
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
        nats = likelihood.log_prob(density.latent_distribution(test))
        val_nats = val_likelihood.log_prob(density.latent_distribution(val))
        if not nats.isfinite().all():
            raise NonFiniteError(f"the likelihood with {prior} is not finite")
        scores["nats"][prior] = nats.mean().item()
        scores["val_nats"][prior] = val_nats.mean().item()
        scores["point_nats"][prior] = nats.numpy()
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


# -------------------------------------------------------------------------------- records


def pack_integers(values: np.ndarray) -> str:
    """Packs small integers (N) as text: without signs, bytes by significance, zlib, base 85."""
    unsigned = np.where(values < 0, -2 * values - 1, 2 * values).astype("<u8")
    planes = unsigned.view(np.uint8).reshape(-1, 8).T
    return base64.b85encode(zlib.compress(planes.tobytes(), 9)).decode()


def unpack_integers(text: str) -> np.ndarray:
    """Returns the integers (N) that :func:`pack_integers` packed."""
    planes = np.frombuffer(zlib.decompress(base64.b85decode(text)), np.uint8).reshape(8, -1)
    unsigned = np.ascontiguousarray(planes.T).view("<u8")[:, 0].astype(np.int64)
    return np.where(unsigned % 2, -(unsigned + 1) // 2, unsigned // 2)


def write_records(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Writes the records of a task atomically.

    Args:
        path: The file.
        records: Records with log-densities (N) as `point_nats`, if they have scores.
    """
    reference = None
    lines = []
    for record in records:
        if "point_nats" in record:
            units = {
                prior: np.rint(nats / NATS_UNIT).astype(np.int64)
                for prior, nats in record["point_nats"].items()
            }
            offset = 0 if reference is None else reference
            packed = {prior: pack_integers(values - offset) for prior, values in units.items()}
            record = record | {"point_nats": packed}
            reference = units["mixture"] if reference is None else reference
        lines.append(json.dumps(record) + "\n")
    write_bytes(path, "".join(lines).encode())


def read_records(path: Path) -> list[dict[str, Any]]:
    """Reads the records of a task as :func:`write_records` takes them; none without the file."""
    if not path.exists():
        return []

    reference = None
    records = []
    for line in path.read_text("utf-8").splitlines():
        record = json.loads(line)
        if "point_nats" in record:
            offset = 0 if reference is None else reference
            units = {
                prior: unpack_integers(text) + offset
                for prior, text in record["point_nats"].items()
            }
            record["point_nats"] = {prior: NATS_UNIT * values for prior, values in units.items()}
            reference = units["mixture"] if reference is None else reference
        records.append(record)
    return records


def read_folder(folder: Path) -> Records:
    """Reads all records of a folder."""
    tasks: Records = {}
    for path in sorted(folder.glob("*.jsonl")):
        for record in read_records(path):
            arms = tasks.setdefault(record["task"], {})
            arms.setdefault(record["arm"], {})[record["seed"]] = record
    return tasks


def has_failed(record: dict[str, Any]) -> bool:
    """Returns whether a loss was not finite or the mean training point reconstructs better."""
    return "failure" in record or record["mse"] > record["variance"]


def _summary(record: dict[str, Any]) -> str:
    """A line for the log of the runs."""
    name = f"{record['task']:10} {record['arm']:24} seed {record['seed']}"
    if "failure" in record:
        return f"{name} {record['failure']}"
    nats = ", ".join(f"{prior} {value:.3f}" for prior, value in record["nats"].items())
    return (
        f"{name} {nats}, error {record['mse']:.4f}, trace {record['trace']:.3f}, beta "
        f"{record['beta']}, {record['train_seconds']} + {record['score_seconds']} s"
    )
