"""When joint training beats two stages: FIF and autoencoders on data of known density.

Method and hypotheses, fixed before the runs:

* *Data*: :class:`~studies.tori.EmbeddedTorus` with noise 0.03, for latent dimensions d,
  dimensions D and numbers n of training points: one torus for each d and D. 500 further points
  choose the epoch (FIF's volume term uses 64 of them), the prior and the noise's scale.
* *Models*: see `MODELS`. All have the networks of the tables with width 64, the same data, Adam at
  0.001 and batches of 100, and train for the same processor time on one thread: for as many epochs
  as take it, by a timing that counts the tracing of FIF's step once. They keep the epoch of lowest
  validation loss.
* *Measure*: KL(p || q) in nats. log p is known, and log q is the marginal likelihood with the
  model's noise; the mean is over 2,000 test points.
* *Priors*: N, or the fitted one (mixture or flow) of the higher validation likelihood.
* *Comparison*: of each FIF with each rival, over tori: the logarithm of the ratio of their KLs,
  whose scale goes from 0.4 to 80 nats, is tested against 0 with one number for each torus.

What is measured is mostly reconstruction (see :func:`describe_reconstruction`). A torus has no
chart of d codes, so every model has to tear it. :mod:`studies.known_densities` has data that a
model can represent.
"""

import itertools
import math
import tempfile
import time
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from pythae.models import AE, WAE_MMD, AEConfig, BaseAE, BetaVAE, BetaVAEConfig, WAE_MMD_Config
from scipy.stats import ttest_1samp
from torch import Tensor

from pythae_fif.benchmark.pythae_patches import patch_slow_ops
from pythae_fif.models import FIF, FIFConfig, InjectiveFlow
from pythae_fif.models.config import InjectiveFlowConfig
from pythae_fif.nn.tabular import TabularDecoder, TabularEncoder
from pythae_fif.runs.local import LocalEngine
from pythae_fif.study import (
    ProgressCallback,
    Study,
    StudyOptions,
    StudyReport,
    StudySpec,
    collect_results,
)
from pythae_fif.training import FIFTrainer, FIFTrainerConfig, OnEpoch
from pythae_fif.training.traced_step import MIN_STEPS_TO_TRACE
from studies.paired.comparison import format_p
from studies.tori import EmbeddedTorus

ModelName = Literal["fif", "fif_true_noise", "ae", "wae_10", "wae_100", "vae"]
MODELS: dict[ModelName, str] = {
    "fif": 'FIF, beta="auto"',
    "fif_true_noise": "FIF, true noise",
    "ae": "AE",
    "wae_10": "WAE-IMQ, weight 10",
    "wae_100": "WAE-IMQ, weight 100",
    "vae": "VAE, true noise",
}
FIFS: tuple[ModelName, ...] = ("fif", "fif_true_noise")
RIVALS = [model for model in MODELS if model not in FIFS]
PAIRS: list[tuple[ModelName, ModelName]] = [("fif", rival) for rival in RIVALS]
PAIRS += [("fif_true_noise", rival) for rival in ("fif", *RIVALS)]
"""Each FIF and a model that it is compared with, on all data sets."""
FEW_DATA_SETS: dict[str, Any] = {"latent_dims": (1, 4), "dims": (16,), "points": (500, 10_000)}
ALL_DATA_SETS: dict[str, Any] = {
    "latent_dims": (1, 2, 4, 8),
    "dims": (16, 64),
    "points": (500, 2_000, 10_000),
}
SIZES: dict[str, dict[str, Any]] = {
    "quick": {**FEW_DATA_SETS, "seconds": 6.0},
    "medium": {**ALL_DATA_SETS, "seconds": 30.0},
    "paper": {**ALL_DATA_SETS, "seconds": 60.0},
}
NOISE = 0.03
VALIDATION_POINTS = 500
TEST_POINTS = 2_000
WIDTH = 64
BATCH_SIZE = 100
FIRST_STEPS = MIN_STEPS_TO_TRACE + 50
TIMED_STEPS = 200
LEARNING_RATE = 1e-3
FITTED_PRIORS: tuple[Literal["mixture", "flow"], ...] = ("mixture", "flow")
PRIOR_LABELS = {"normal": "N", "fitted": "fitted prior"}


@dataclass(frozen=True)
class WhenResult:
    """What one model reaches.

    Attributes:
        kl: 'normal' or 'fitted' -> KL(p || q) in nats.
        kl_error: The same for its standard error over test points.
        prior: Name of the fitted prior that validation chose.
        reconstruction: Mean squared error of a test point, |g(f(x)) - x|^2.
        epochs: Number of epochs trained.
        best_epoch: The epoch that was kept.
    """

    kl: dict[str, float]
    kl_error: dict[str, float]
    prior: str
    reconstruction: float
    epochs: int
    best_epoch: int


class TorusModel(StudySpec):
    """One model of one data set and seed.

    Attributes:
        model: A key of `MODELS`.
        latent_dim: d.
        dim: D.
        points: Number n of training points.
        seconds: Processor time of the training.
        seed: Seed of the points, the weights and the training.
    """

    kind: ClassVar[str] = "when"
    result: ClassVar[Any] = WhenResult
    on_cpu: ClassVar[bool] = True

    model: ModelName
    latent_dim: int
    dim: int
    points: int
    seconds: float
    seed: int

    def compute(self, report_progress: ProgressCallback) -> WhenResult:
        """Trains the model, and measures its distance to the data's density with both priors."""
        torch.set_num_threads(1)
        torus = EmbeddedTorus(self.latent_dim, self.dim, NOISE)
        generator = torch.Generator().manual_seed(self.seed)
        train = torus.sample(self.points, generator).points
        val = torus.sample(VALIDATION_POINTS, generator).points
        test = torus.sample(TEST_POINTS, generator)

        epochs = self._epochs_in_time(train, val)
        model, best_epoch = self._train(
            train, val, epochs, lambda row: report_progress(row.share_done)
        )
        density = _as_density(model)
        noise_std = density.estimate_noise_std(val)
        likelihood = density.marginal_likelihood(test.points)

        torch.manual_seed(self.seed)
        true_log_prob = torus.log_prob(test)
        normal_log_prob = likelihood.log_prob(density.latent_distribution(val), noise_std)
        prior = self._fit_best_prior(density, train, val, noise_std)
        fitted_log_prob = likelihood.log_prob(density.latent_distribution(val), noise_std)
        differences = {
            "normal": true_log_prob - normal_log_prob,
            "fitted": true_log_prob - fitted_log_prob,
        }

        errors = (density.reconstruct(test.points) - test.points).square().sum(1)
        return WhenResult(
            kl={name: values.mean().item() for name, values in differences.items()},
            kl_error={
                name: values.std().item() / math.sqrt(TEST_POINTS)
                for name, values in differences.items()
            },
            prior=prior,
            reconstruction=errors.mean().item(),
            epochs=epochs,
            best_epoch=best_epoch,
        )

    def _fit_best_prior(
        self, density: InjectiveFlow, train: Tensor, val: Tensor, noise_std: float
    ) -> str:
        """Fits priors to training codes, keeps the one of the highest validation likelihood.

        Returns:
            Its kind.
        """
        priors = {}
        likelihoods = {}
        for kind in FITTED_PRIORS:
            density.fit_prior(train, kind, seed=self.seed)
            priors[kind] = density.prior
            likelihoods[kind] = density.marginal_log_prob(val, noise_std).mean().item()

        best = max(FITTED_PRIORS, key=lambda kind: likelihoods[kind])
        density.prior = priors[best]
        return best

    def _epochs_in_time(self, train: Tensor, val: Tensor) -> int:
        """Returns the number of epochs that take the processor time of the training.

        A copy of the model trains for a short time. Its first steps are timed separately, because
        they include the tracing of FIF's step, which happens once in a training.
        """
        first_epochs = math.ceil(FIRST_STEPS * BATCH_SIZE / len(train))
        timed_epochs = math.ceil(TIMED_STEPS * BATCH_SIZE / len(train))
        times = [time.process_time()]
        self._train(
            train,
            val,
            first_epochs + timed_epochs,
            lambda _: times.append(time.process_time()),
        )

        first_seconds = times[first_epochs] - times[0]
        epoch_seconds = (times[-1] - times[first_epochs]) / timed_epochs
        return max(1, first_epochs + round((self.seconds - first_seconds) / epoch_seconds))

    def _train(
        self, train: Tensor, val: Tensor, epochs: int, on_epoch: OnEpoch
    ) -> tuple[BaseAE, int]:
        """Returns a model that was trained for a number of epochs, and the epoch that was kept."""
        torch.manual_seed(self.seed)
        config = FIFTrainerConfig(
            num_epochs=epochs,
            per_device_train_batch_size=BATCH_SIZE,
            per_device_eval_batch_size=VALIDATION_POINTS,
            learning_rate=LEARNING_RATE,
            seed=self.seed,
            no_cuda=True,
        )
        with tempfile.TemporaryDirectory() as run_dir:
            trainer = FIFTrainer(
                self._build_model(),
                train,
                val,
                config,
                run_dir=run_dir,
                on_epoch=on_epoch,
                checkpoint_every_seconds=math.inf,
            )
            result = trainer.train()
        return trainer.model, result.best_epoch

    def _build_model(self) -> BaseAE:
        """Builds the model with random weights."""
        sizes: dict[str, Any] = {"input_dim": (self.dim,), "latent_dim": self.latent_dim}
        encoder = TabularEncoder(**sizes, hidden_dim=WIDTH, variational=self.model == "vae")
        networks = encoder, TabularDecoder(**sizes, hidden_dim=WIDTH)
        match self.model:
            case "fif":
                return FIF(FIFConfig(**sizes, beta="auto", noise=0.0), *networks)
            case "fif_true_noise":
                beta = 1 / (2 * NOISE**2)
                return FIF(FIFConfig(**sizes, beta=beta, noise=0.0), *networks)
            case "ae":
                return AE(AEConfig(**sizes), *networks)
            case "vae":  # with this beta the loss is proportional to the ELBO with the data's noise
                return BetaVAE(BetaVAEConfig(**sizes, beta=NOISE**2), *networks)

        weight = float(self.model.removeprefix("wae_"))
        config = WAE_MMD_Config(**sizes, kernel_choice="imq", reg_weight=weight)
        return patch_slow_ops(WAE_MMD(config, *networks))


def _as_density(model: BaseAE) -> InjectiveFlow:
    """Returns the density of a model; a VAE's codes are its posterior means."""
    config = InjectiveFlowConfig(model.model_config.input_dim, model.latent_dim)
    return InjectiveFlow(config, model.encoder, model.decoder)


def run_when(options: StudyOptions) -> list[StudyReport]:
    """Trains all models on all data sets, and compares them."""
    size = SIZES[options.profile]
    specs = [
        TorusModel(
            model=model, latent_dim=d, dim=dim, points=points, seconds=size["seconds"], seed=seed
        )
        for seed, d, dim, points, model in itertools.product(
            options.seeds, size["latent_dims"], size["dims"], size["points"], MODELS
        )
    ]
    engine = options.engine or LocalEngine(cpus_per_run=1)
    results = collect_results(specs, replace(options, engine=engine))
    frame = _make_frame(specs, results)
    compared = compare_pairs(frame)
    return [
        StudyReport(
            f"when-{options.profile}",
            "When joint training beats two stages",
            f"KL(p || model) in nats on embedded tori, after {size['seconds']:g} s of processor "
            f"time, mean ± standard deviation over {len(options.seeds)} seeds. There is one torus "
            "for each d and D, and seeds draw its points.",
            show_levels(frame),
            frame,
            notes=[judge(compared), describe_reconstruction(frame)],
        ),
        StudyReport(
            f"when-{options.profile}-rivals",
            "Each FIF against each rival",
            "Lower: data sets on which FIF's mean KL is the lower one. Ratio: FIF's KL over the "
            "rival's, geometric mean over tori; each torus has the geometric mean of its seeds and "
            "numbers of points. p: t-test of the logarithms of the tori's ratios.",
            compared.assign(
                fif=compared["fif"].map(MODELS),
                rival=compared["rival"].map(MODELS),
                prior=compared["prior"].map(PRIOR_LABELS),
                p=compared["p"].map(format_p),
            ),
            frame,
        ),
    ]


def _make_frame(specs: list[TorusModel], results: list[WhenResult]) -> pd.DataFrame:
    """Returns one row per model, data set, seed and prior."""
    return pd.DataFrame(
        [
            {
                "d": spec.latent_dim,
                "D": spec.dim,
                "n": spec.points,
                "seed": spec.seed,
                "model": spec.model,
                "prior": prior,
                "kl": result.kl[prior],
                "kl_error": result.kl_error[prior],
                "fitted_prior": result.prior,
                "reconstruction": result.reconstruction,
                "epochs": result.epochs,
                "best_epoch": result.best_epoch,
            }
            for spec, result in zip(specs, results, strict=True)
            for prior in PRIOR_LABELS
        ]
    )


def show_levels(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the KL of each model, one row per data set and prior."""
    cells = frame.groupby(["prior", "d", "D", "n", "model"], sort=False)["kl"]
    texts = cells.mean().map("{:.3f}".format) + " ± " + cells.std().map("{:.3f}".format)
    table = texts.unstack().reset_index().sort_values("prior", ascending=False, kind="stable")
    table["prior"] = table["prior"].map(PRIOR_LABELS)
    return table.rename(columns=MODELS)


def compare_pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """Compares each FIF with each rival over all tori.

    Args:
        frame: One row per model, data set, seed and prior, with its `kl`.

    Returns:
        One row per FIF, rival and prior. A torus counts once: its points and seeds are no
        independent data sets.
    """
    rows = []
    for (fif, rival), prior in itertools.product(PAIRS, PRIOR_LABELS):
        index = ["d", "D", "n", "seed"]
        kls = frame[frame["prior"] == prior].pivot(index=index, columns="model", values="kl")
        means = kls.groupby(["d", "D", "n"]).mean()
        ratios = np.log(kls[fif] / kls[rival]).groupby(["d", "D"]).mean()
        rows.append(
            {
                "fif": fif,
                "prior": prior,
                "rival": rival,
                "lower": f"{(means[fif] < means[rival]).sum()} of {len(means)}",
                "ratio": math.exp(ratios.mean()),
                "p": float(ttest_1samp(ratios, 0).pvalue),
            }
        )
    return pd.DataFrame(rows)


def judge(compared: pd.DataFrame) -> str:
    """Returns the sentence on FIF against an AE with a fitted prior."""
    row = compared.set_index(["fif", "rival", "prior"]).loc[("fif", "ae", "fitted")]
    return (
        f"With a fitted prior FIF's mean KL is below the AE's on {row['lower']} data sets, and is "
        f"{row['ratio']:.2f} times the AE's (p {format_p(row['p'])} over tori)."
    )


def describe_reconstruction(frame: pd.DataFrame) -> str:
    """Returns the sentence on how much of the KL is reconstruction.

    A model whose noise has variance error / (D - d), and which is right otherwise, has the KL
    (D - d)/2 log(error / noise), where noise is (D - d) times the variance of the true noise.
    """
    rows = frame[frame["prior"] == "fitted"]
    free_dims = rows["D"] - rows["d"]
    terms = free_dims / 2 * np.log(rows["reconstruction"] / (free_dims * NOISE**2))
    return (
        "With a fitted prior, the correlation of the KL with (D - d)/2 log(error / noise) is "
        f"{rows['kl'].corr(terms):.3f} over all trainings."
    )


STUDY = Study(run_when, seeds=(3, 10, 3))
