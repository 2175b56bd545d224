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
* *FIF wins* a cell if its mean KL is below the best rival's (lowest mean KL) and p < 0.05 in the
  paired two-sided t-test over seeds; it *loses* if it is above with p < 0.05.
* *Hypothesis A*: with N, FIF wins at least half of the cells.
* *Hypothesis B*: with fitted priors, FIF wins where n <= 500 or d >= 4, and nowhere else.

Hypotheses A and B are about FIF with ``beta="auto"``, which has to learn the noise. In their runs
the best rival with N was always the VAE, which knows it. So a second FIF was added, whose beta is
the weight of the squared error in a normal likelihood with the true noise. Fixed before its runs:

* *Hypothesis C*: the VAE leads with N because it knows the noise. With N, FIF with the true noise
  has a lower mean KL than the VAE on at least three quarters of the cells.
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
from matplotlib.colors import TwoSlopeNorm
from pythae.models import AE, WAE_MMD, AEConfig, BaseAE, BetaVAE, BetaVAEConfig, WAE_MMD_Config
from scipy.stats import ttest_rel
from torch import Tensor

from pythae_fif.benchmark.pythae_patches import patch_slow_ops
from pythae_fif.models import FIF, FIFConfig, InjectiveFlow
from pythae_fif.models.config import InjectiveFlowConfig
from pythae_fif.nn.tabular import TabularDecoder, TabularEncoder
from pythae_fif.pictures import new_figure
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
SIGNIFICANCE = 0.05


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
    """Trains all models on all data sets, and makes the map of where FIF wins."""
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
    is_compared = frame["model"].isin(["fif", *RIVALS])
    cells = pd.concat(
        [compare_cells(frame[is_compared], "fif", prior) for prior in PRIOR_LABELS],
        ignore_index=True,
    )
    table = cells.assign(prior=cells["prior"].map(PRIOR_LABELS), rival=cells["rival"].map(MODELS))

    return [
        StudyReport(
            f"when-{options.profile}",
            "When joint training beats two stages",
            f"KL(p || model) in nats on embedded tori, after {size['seconds']:g} s of processor "
            f"time, mean ± standard deviation over {len(options.seeds)} seeds. The rival has the "
            "lowest mean KL of the other models on these test points; p is from a paired t-test "
            "over seeds. There is one torus for each d and D, and seeds draw its points.",
            table,
            frame,
            _draw_map(cells),
            notes=[
                *judge_hypotheses(cells, frame),
                "Figure: the best rival's KL minus FIF's, in nats.",
            ],
        ),
        StudyReport(
            f"when-{options.profile}-rivals",
            "FIF against each rival",
            "Numbers of data sets on which a FIF's mean KL is lower than the rival's, and on which "
            "it wins or loses (p < 0.05, paired t-test over seeds); median over data sets of the "
            "rival's KL minus FIF's, in nats.",
            count_by_rival(frame),
            frame,
            notes=[*describe_true_noise(frame), *describe_trainings(frame)],
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


def compare_cells(frame: pd.DataFrame, model: str, prior: str) -> pd.DataFrame:
    """Compares a FIF with the best of the other models on each data set.

    Args:
        frame: One row per model, data set, seed and prior, with its `kl`.
        model: The FIF, one of `FIFS`.
        prior: A key of `PRIOR_LABELS`.

    Returns:
        One row per data set with `gain`, the rival's KL minus FIF's, and `verdict`: 'wins',
        'loses' or 'undecided'.
    """
    cells = []
    for (d, dim, points), cell in frame[frame["prior"] == prior].groupby(["d", "D", "n"]):
        by_seed = cell.pivot(index="seed", columns="model", values="kl")
        rival = by_seed.drop(columns=model).mean().idxmin()
        gain = by_seed[rival] - by_seed[model]
        p = float(ttest_rel(by_seed[rival], by_seed[model]).pvalue) if len(gain) > 1 else math.nan
        decided = "wins" if gain.mean() > 0 else "loses"
        cells.append(
            {
                "d": d,
                "D": dim,
                "n": points,
                "prior": prior,
                "FIF": f"{by_seed[model].mean():.3f} ± {by_seed[model].std():.3f}",
                "rival": rival,
                "rival's": f"{by_seed[rival].mean():.3f} ± {by_seed[rival].std():.3f}",
                "gain": gain.mean(),
                "p": p,
                "verdict": decided if p < SIGNIFICANCE else "undecided",
            }
        )
    return pd.DataFrame(cells)


def count_by_rival(frame: pd.DataFrame) -> pd.DataFrame:
    """Counts the data sets on which each FIF is ahead of each rival.

    Args:
        frame: One row per model, data set, seed and prior, with its `kl`.

    Returns:
        One row per FIF, rival and prior.
    """
    counts = []
    for (fif, rival), prior in itertools.product(PAIRS, PRIOR_LABELS):
        cells = compare_cells(frame[frame["model"].isin([fif, rival])], fif, prior)
        counts.append(
            {
                "model": MODELS[fif],
                "prior": PRIOR_LABELS[prior],
                "rival": MODELS[rival],
                "lower": f"{(cells['gain'] > 0).sum()} of {len(cells)}",
                "wins": (cells["verdict"] == "wins").sum(),
                "loses": (cells["verdict"] == "loses").sum(),
                "median gain": cells["gain"].median(),
            }
        )
    return pd.DataFrame(counts)


def describe_true_noise(frame: pd.DataFrame) -> list[str]:
    """Returns a sentence for each prior on what FIF gains by the true noise, for each n.

    Args:
        frame: One row per model, data set, seed and prior, with its `kl`.
    """
    sentences = []
    fifs = frame[frame["model"].isin(FIFS)]
    for prior, label in PRIOR_LABELS.items():
        cells = compare_cells(fifs, "fif_true_noise", prior)
        counts = [
            f"{(group['gain'] > 0).sum()} of {len(group)} (n = {points:,})"
            for points, group in cells.groupby("n")
        ]
        sentences.append(
            f'With the true noise, FIF\'s mean KL is lower than with beta="auto" on '
            f"{', '.join(counts)} data sets ({label})."
        )
    return sentences


def describe_trainings(frame: pd.DataFrame) -> list[str]:
    """Returns sentences on the gain by a fitted prior, the lengths of trainings and the noise.

    Args:
        frame: One row per model, data set, seed and prior.
    """
    mean_kl = frame.groupby(["model", "prior"])["kl"].mean().unstack()
    gains = _list_by_model((mean_kl["normal"] - mean_kl["fitted"]).map("{:.2g}".format))

    epochs = frame.pivot_table(index=["d", "D", "n"], columns="model", values="epochs")
    shares = epochs.div(epochs["ae"], axis=0).drop(columns="ae")
    ranges = shares.min().map("{:.2f}".format) + " to " + shares.max().map("{:.2f}".format)

    points = frame["n"].min()
    few = frame[frame["n"] == points]
    kept = (few["best_epoch"] / few["epochs"]).groupby(few["model"]).mean().map("{:.2f}".format)

    errors = frame["kl_error"]
    return [
        f"A fitted prior lowers the mean KL by {gains} nats.",
        "Epochs relative to the AE's, lowest and highest of the data sets: "
        f"{_list_by_model(ranges)}. They come from a short timing; the time of the training itself "
        "was not recorded.",
        f"With n = {points} the kept epoch comes on average after a share of "
        f"{_list_by_model(kept)} of the training.",
        "Standard error of a KL by the draw of the test points: "
        f"{errors.mean():.2g} nats on average, {errors.max():.2g} at most.",
    ]


def _list_by_model(texts: "pd.Series[str]") -> str:
    """Joins texts of models, in the order of `MODELS`, such as '0.5 (AE), 0.7 (VAE)'."""
    names = [model for model in MODELS if model in texts.index]
    return ", ".join(f"{texts[model]} ({MODELS[model]})" for model in names)


def judge_hypotheses(cells: pd.DataFrame, frame: pd.DataFrame) -> list[str]:
    """Returns one sentence for each hypothesis.

    Args:
        cells: The rows of :func:`compare_cells` for both priors, of FIF with ``beta="auto"``.
        frame: One row per model, data set, seed and prior.
    """
    wins = cells["verdict"] == "wins"
    is_normal = cells["prior"] == "normal"
    is_predicted = (cells["n"] <= 500) | (cells["d"] >= 4)
    normal_wins = int(wins[is_normal].sum())
    normal_cells = int(is_normal.sum())
    as_predicted = (wins == is_predicted)[~is_normal]

    know_noise = frame["model"].isin(["fif_true_noise", "vae"])
    noise_gains = compare_cells(frame[know_noise], "fif_true_noise", "normal")["gain"]
    lower = int((noise_gains > 0).sum())

    verdicts = {True: "is confirmed", False: "is not confirmed"}
    return [
        f"Hypothesis A {verdicts[2 * normal_wins >= normal_cells]}: with N, FIF wins "
        f"{normal_wins} of {normal_cells} data sets.",
        f"Hypothesis B {verdicts[bool(as_predicted.all())]}: with fitted priors, "
        f"{int(as_predicted.sum())} of {len(as_predicted)} data sets are as predicted (FIF wins "
        "where n is at most 500 or d is at least 4, and nowhere else); it wins "
        f"{int(wins[~is_normal].sum())}.",
        f"Hypothesis C {verdicts[4 * lower >= 3 * len(noise_gains)]}: with N, FIF with the true "
        f"noise has a lower mean KL than the VAE on {lower} of {len(noise_gains)} data sets.",
    ]


def _draw_map(cells: pd.DataFrame) -> Any:
    """Draws the gain over the best rival by d and n, with one panel for each prior and D."""
    dims = sorted(set(cells["D"]))
    figure = new_figure(4.5 * len(dims) + 1, 7)
    panels: Any = figure.subplots(len(PRIOR_LABELS), len(dims), squeeze=False)
    largest = float(cells["gain"].abs().max()) or 1.0
    colours = {"cmap": "RdBu", "norm": TwoSlopeNorm(0, -largest, largest)}

    for (prior, label), row in zip(PRIOR_LABELS.items(), panels, strict=True):
        for dim, axis in zip(dims, row, strict=True):
            panel = cells[(cells["prior"] == prior) & (cells["D"] == dim)]
            gains = panel.pivot(index="d", columns="n", values="gain")
            verdicts = panel.pivot(index="d", columns="n", values="verdict")
            image = axis.imshow(gains, aspect="auto", **colours)
            for i, j in np.ndindex(gains.shape):
                gain = gains.iloc[i, j]
                colour = "white" if abs(gain) > 0.6 * largest else "black"
                text = f"{gain:+.2f}\n{verdicts.iloc[i, j]}"
                axis.text(j, i, text, ha="center", va="center", fontsize=9, color=colour)
            axis.set(title=f"{label}, D = {dim}", xlabel="n", ylabel="d")
            axis.set_xticks(range(len(gains.columns)), [f"{n:,}" for n in gains.columns])
            axis.set_yticks(range(len(gains.index)), list(gains.index))
    figure.colorbar(image, ax=panels, label="KL of the best rival - KL of FIF, nats")
    return figure


STUDY = Study(run_when, seeds=(3, 10, 3))
