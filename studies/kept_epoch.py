"""Which epoch `beta="auto"` keeps of few data, and what this is worth in KL.

Method and criterion, fixed before the runs:

* *Data*: the tori of :mod:`studies.when` with 500 training and 500 validation points.
* *Model*: its FIF with ``beta="auto"``, for a fixed number of epochs.
* *Rules*: each training keeps an epoch by the *noise* rule, today's, which compares epochs by the
  likelihood with the best noise of the validation data, and one by the *beta* rule of version 0.2,
  nll + beta E - (D - d) / 2 log(beta / pi) with the beta of the training error.
* *Measure*: KL(p || q) with the standard normal, as in :mod:`studies.when`.
* *Criterion*: the noise rule is better if the mean KL over seeds falls on at least three quarters
  of the data sets and rises by more than 0.1 nats on none.
"""

import copy
import itertools
import math
import tempfile
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor

from pythae_fif.models import FIF, FIFConfig
from pythae_fif.nn.tabular import TabularDecoder, TabularEncoder
from pythae_fif.study import (
    ProgressCallback,
    Study,
    StudyOptions,
    StudyReport,
    StudySpec,
    collect_results,
)
from pythae_fif.training import EpochRow, FIFTrainer, FIFTrainerConfig
from studies.tori import EmbeddedTorus
from studies.when import BATCH_SIZE, LEARNING_RATE, NOISE, TEST_POINTS, VALIDATION_POINTS, WIDTH

TRAINING_POINTS = 500
SIZES: dict[str, dict[str, Any]] = {
    "quick": {"latent_dims": (2,), "dims": (16,), "epochs": 200},
    "paper": {"latent_dims": (1, 2, 4, 8), "dims": (16, 64), "epochs": 1_000},
}
TOLERANCE = 0.1
"""Nats by which the mean KL of a data set may rise."""


@dataclass(frozen=True)
class KeptEpochResult:
    """What one training reaches by the epochs that the rules keep.

    Attributes:
        epoch: 'noise' or 'beta' -> the epoch that the rule keeps.
        kl: The same for KL(p || q) in nats.
        kl_error: The same for its standard error over test points.
    """

    epoch: dict[str, int]
    kl: dict[str, float]
    kl_error: dict[str, float]


class BetaRule:
    """Keeps the weights of an epoch by the rule of version 0.2.

    Args:
        model: The model that is trained.
        codimension: D - d.

    Attributes:
        weights: The weights of the epoch that is kept.
        epoch: Its number.
    """

    def __init__(self, model: FIF, codimension: int) -> None:
        self.weights: dict[str, Tensor] = {}
        self.epoch = 0
        self._model = model
        self._codimension = codimension
        self._beta = float(model.beta)
        self._lowest_loss = math.inf

    def compare(self, row: EpochRow) -> None:
        """Keeps the model's weights if the loss of the epoch is the lowest so far."""
        constant = self._codimension / 2 * math.log(self._beta / math.pi)
        loss = row.eval["nll_loss"] + self._beta * row.eval["recon_loss"] - constant
        if loss < self._lowest_loss:
            self._lowest_loss = loss
            self.weights = copy.deepcopy(self._model.state_dict())
            self.epoch = row.epoch
        self._beta = float(self._model.beta)  # of the next epoch


class KeptEpoch(StudySpec):
    """One training, whose epoch is kept by both rules.

    Attributes:
        latent_dim: d.
        dim: D.
        epochs: Number of epochs.
        seed: Seed of the points, the weights and the training.
    """

    kind: ClassVar[str] = "kept_epoch"
    result: ClassVar[Any] = KeptEpochResult
    on_cpu: ClassVar[bool] = True

    latent_dim: int
    dim: int
    epochs: int
    seed: int

    def compute(self, report_progress: ProgressCallback) -> KeptEpochResult:
        """Trains the model, and measures its KL by both rules."""
        torch.set_num_threads(1)
        torus = EmbeddedTorus(self.latent_dim, self.dim, NOISE)
        generator = torch.Generator().manual_seed(self.seed)
        train = torus.sample(TRAINING_POINTS, generator).points
        val = torus.sample(VALIDATION_POINTS, generator).points
        test = torus.sample(TEST_POINTS, generator)

        torch.manual_seed(self.seed)
        model = self._build_model()
        beta_rule = BetaRule(model, self.dim - self.latent_dim)

        def on_epoch(row: EpochRow) -> None:
            beta_rule.compare(row)
            report_progress(row.share_done)

        epochs = {"noise": self._train(model, train, val, on_epoch), "beta": beta_rule.epoch}
        weights = {"noise": copy.deepcopy(model.state_dict()), "beta": beta_rule.weights}

        kl, kl_error = {}, {}
        for rule in epochs:
            model.load_state_dict(weights[rule])
            noise_std = model.estimate_noise_std(val)
            torch.manual_seed(self.seed)
            true_log_prob = torus.log_prob(test)
            difference = true_log_prob - model.marginal_log_prob(test.points, noise_std)
            kl[rule] = difference.mean().item()
            kl_error[rule] = difference.std().item() / math.sqrt(TEST_POINTS)
        return KeptEpochResult(epochs, kl, kl_error)

    def _build_model(self) -> FIF:
        """Builds the model with random weights."""
        sizes: dict[str, Any] = {"input_dim": (self.dim,), "latent_dim": self.latent_dim}
        networks = (
            TabularEncoder(**sizes, hidden_dim=WIDTH),
            TabularDecoder(**sizes, hidden_dim=WIDTH),
        )
        return FIF(FIFConfig(**sizes, beta="auto", noise=0.0), *networks)

    def _train(self, model: FIF, train: Tensor, val: Tensor, on_epoch: Any) -> int:
        """Trains the model; returns the epoch that today's rule keeps."""
        config = FIFTrainerConfig(
            num_epochs=self.epochs,
            per_device_train_batch_size=BATCH_SIZE,
            per_device_eval_batch_size=VALIDATION_POINTS,
            learning_rate=LEARNING_RATE,
            seed=self.seed,
            no_cuda=True,
        )
        with tempfile.TemporaryDirectory() as run_dir:
            trainer = FIFTrainer(
                model,
                train,
                val,
                config,
                run_dir=run_dir,
                on_epoch=on_epoch,
                checkpoint_every_seconds=math.inf,
            )
            return trainer.train().best_epoch


def run_kept_epoch(options: StudyOptions) -> list[StudyReport]:
    """Trains a FIF on each data set, and compares the epochs that both rules keep."""
    size = SIZES[options.profile]
    specs = [
        KeptEpoch(latent_dim=d, dim=dim, epochs=size["epochs"], seed=seed)
        for seed, d, dim in itertools.product(options.seeds, size["latent_dims"], size["dims"])
    ]
    results = collect_results(specs, options)

    runs = pd.DataFrame(
        {
            "d": [spec.latent_dim for spec in specs],
            "D": [spec.dim for spec in specs],
            "seed": [spec.seed for spec in specs],
            "epoch, noise": [result.epoch["noise"] for result in results],
            "epoch, beta": [result.epoch["beta"] for result in results],
            "KL, noise": [result.kl["noise"] for result in results],
            "KL, beta": [result.kl["beta"] for result in results],
            "error of KL": [result.kl_error["noise"] for result in results],
        }
    )
    runs["difference"] = runs["KL, noise"] - runs["KL, beta"]
    cells = runs.groupby(["d", "D"]).mean().drop(columns="seed").reset_index()
    cells["spread"] = runs.groupby(["d", "D"])["difference"].std().to_numpy()

    return [
        StudyReport(
            f"kept-epoch-{options.profile}",
            'Which epoch beta="auto" keeps of 500 points',
            _caption(len(options.seeds), size["epochs"]),
            cells,
            runs,
            notes=[f"By the criterion of the study: {_verdict(cells)}."],
        )
    ]


def _caption(seeds: int, epochs: int) -> str:
    return (
        f"KL(p || model) in nats with the standard normal after {epochs:,} epochs, mean of {seeds} "
        "seeds. *Noise*: the epoch of highest likelihood with the best noise of the validation "
        "points, today's rule. *Beta*: the rule of version 0.2, with the beta of the training "
        "error. *Difference*: of both KLs, with its standard deviation over seeds (*spread*). "
        f"*Error of KL*: the standard error over {TEST_POINTS:,} test points."
    )


def _verdict(cells: pd.DataFrame) -> str:
    """Returns the verdict of the criterion, with what it counts."""
    falls = int((cells["difference"] < 0).sum())
    rises = int((cells["difference"] > TOLERANCE).sum())
    verdict = "better" if falls >= 0.75 * len(cells) and rises == 0 else "not better"
    return (
        f"the noise rule is {verdict}; the mean KL falls on {falls} of {len(cells)} data sets, and "
        f"rises by more than {TOLERANCE:g} nats on {rises}"
    )


STUDY = Study(run=run_kept_epoch, seeds=(1, 3))
