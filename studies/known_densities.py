"""Does joint training pay where codes are not normal? Models of data of known density.

Method and criteria, fixed before the runs:

* *Data*: :class:`~studies.charts.Chart`: a manifold with one chart and noise of standard deviation
  s = 0.2 around it. 18 cells: codes normal, skewed and bimodal; (d, D) = (2, 16), (4, 16) and
  (8, 64); n = 500 and 10,000 training points. 500 further points choose the epoch and the noise's
  scale. A seed changes the manifold, the points and the weights.
* *Autoencoders*: FIF with `beta="auto"`, AE, WAE-IMQ with weights 1 and 10, and a VAE whose weight
  is the one of the true noise. They have the networks of the tables with width 128, batches of 100,
  Adam at 0.001, and 10 processor seconds of training steps on one thread. An epoch has 10,000
  points, 500 being repeated 20 times, and the one of lowest validation loss is kept.
* *Priors*: the standard normal N, and a mixture of ten Gaussians. The mixture is fitted to the
  modes of the first 5,000 training points, and the noise's scale is that of the modes of validation
  points.
* *Models in data space*: one Gaussian, a mixture of 1 to 30 Gaussians chosen by validation
  likelihood, and flow matching with 10 processor seconds.
* *Measure*: KL(p || q) in nats: the mean of log p - log q over 2,000 test points. log p is known,
  and log q of an autoencoder is its marginal likelihood. The *reconstruction term* of a KL is
  (D - d) log(noise's scale / s), and the *rest* is what remains.
* *A cell counts* if AE, with its mixture, reaches the noise: the square of its noise's scale is at
  most 1.1 s^2, as a mean over seeds.
* *FIF wins a cell* (or *loses* it) with a prior if its KL is below (above) that of the best rival
  with this prior, with p < 0.05 in a two-sided paired t-test over five seeds. The best rival is the
  one of lowest mean KL on 1,000 other test points. FIF with its mixture is compared with the best
  model in data space by the same rule.
* *Claim*: joint training pays where codes are not normal and no prior may be fitted, if FIF wins
  with N at least two thirds of the cells of skewed and bimodal codes, and loses none of those of
  normal codes. Cells that do not count are left out.

Profile `paper` has five seeds. `quick` has one seed of two cells with short trainings, and decides
nothing.
"""

import itertools
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import pandas as pd
import torch
from pythae.models import AE, WAE_MMD, AEConfig, BaseAE, BetaVAE, BetaVAEConfig, WAE_MMD_Config
from scipy.stats import ttest_rel
from sklearn.mixture import GaussianMixture
from torch import Tensor

from pythae_fif.baselines.flow_matching import FlowMatching, FlowMatchingConfig
from pythae_fif.benchmark.pythae_patches import patch_slow_ops
from pythae_fif.errors import pluralized
from pythae_fif.evaluation.score_types import DASH
from pythae_fif.models import FIF, FIFConfig, InjectiveFlow
from pythae_fif.models.config import InjectiveFlowConfig
from pythae_fif.nn.tabular import TabularDecoder, TabularEncoder
from pythae_fif.reports.tables import Table
from pythae_fif.runs.local import LocalEngine
from pythae_fif.study import (
    ProgressCallback,
    Study,
    StudyOptions,
    StudyPage,
    StudySpec,
    collect_results,
)
from pythae_fif.training import FIFTrainer, FIFTrainerConfig
from studies.charts import CODE_NAMES, NOISE_STD, Chart, ChartSample, CodeName
from studies.paired.comparison import format_p

AutoencoderName = Literal["fif", "ae", "wae_1", "wae_10", "vae"]
DataSpaceName = Literal["gaussian", "mixture", "flow_matching"]
AUTOENCODERS: tuple[AutoencoderName, ...] = get_args(AutoencoderName)
IN_DATA_SPACE: tuple[DataSpaceName, ...] = get_args(DataSpaceName)
LABELS = {
    "fif": "FIF",
    "ae": "AE",
    "wae_1": "WAE-IMQ, weight 1",
    "wae_10": "WAE-IMQ, weight 10",
    "vae": "VAE, true noise",
    "gaussian": "one Gaussian",
    "mixture": "mixture of Gaussians",
    "flow_matching": "flow matching",
}
PRIORS = {"normal": "N", "mixture": "a mixture"}
DATA_SPACE = "data space"
"""Stands for the prior of a model that has no codes."""

DIMENSIONS = ((2, 16), (4, 16), (8, 64))
"""Latent dimensions d and dimensions D."""
SIZES = (500, 10_000)
"""Numbers of training points."""
EPOCH_POINTS = 10_000
VALIDATION_POINTS = 500
CHOICE_POINTS = 1_000
TEST_POINTS = 2_000
CODE_POINTS = 5_000
SECONDS = {"quick": 3.0, "paper": 10.0}
"""Processor time of the training steps of a model."""

WIDTH = 128
BATCH_SIZE = 100
LEARNING_RATE = 1e-3
MIXTURE_SIZES = (1, 2, 3, 5, 8, 12, 20, 30)
MANY_EPOCHS = 10**6
"""More epochs than any budget allows."""

MAX_NOISE_RATIO = 1.1
SIGNIFICANCE = 0.05
NEEDED_SHARE = 2 / 3


# -------------------------------------------------------------------------------- a run


@dataclass(frozen=True)
class DensityScores:
    """Scores of a model with a prior.

    Attributes:
        kl: KL(p || q) of test points, in nats.
        kl_error: Its standard error over test points.
        choice_kl: KL of the points that choose rivals.
        noise_std: Standard deviation of the noise around the manifold; None in data space.
    """

    kl: float
    kl_error: float
    choice_kl: float
    noise_std: float | None


class ModelOfChart(StudySpec):
    """One model of the data of a cell and a seed.

    Attributes:
        codes: Name of the codes' distribution.
        latent_dim: d.
        dim: D.
        points: Number n of training points.
        model: One of `AUTOENCODERS` and `IN_DATA_SPACE`.
        seconds: Processor time of the training steps.
        seed: Seed of the manifold, the points, the weights and the training.
    """

    kind: ClassVar[str] = "known_densities"
    result: ClassVar[Any] = dict[str, DensityScores]
    on_cpu: ClassVar[bool] = True

    codes: CodeName
    latent_dim: int
    dim: int
    points: int
    model: AutoencoderName | DataSpaceName
    seconds: float
    seed: int

    def compute(self, report_progress: ProgressCallback) -> dict[str, DensityScores]:
        """Trains the model, and measures its distance to the data's density.

        Returns:
            A key of `PRIORS`, or `DATA_SPACE` -> scores.
        """
        torch.set_num_threads(1)
        chart = Chart(self.codes, self.latent_dim, self.dim, self.seed)
        generator = torch.Generator().manual_seed(self.seed)
        train = chart.sample(self.points, generator).points
        val = chart.sample(VALIDATION_POINTS, generator).points
        test = chart.sample(TEST_POINTS, generator)
        choice = chart.sample(CHOICE_POINTS, generator)

        torch.manual_seed(self.seed)
        both = ChartSample(*(torch.cat(parts) for parts in zip(test, choice, strict=True)))
        true_log_prob = chart.log_prob(both)
        if self.model == "gaussian" or self.model == "mixture":
            log_prob = fit_gaussians(train, val, self.model, self.seed)(both.points)
            return {DATA_SPACE: _score(true_log_prob - log_prob, None)}

        model = self._train(train, val, report_progress)
        if isinstance(model, FlowMatching):
            with torch.no_grad():
                log_prob = model.decoder.flow.log_prob(both.points)
            return {DATA_SPACE: _score(true_log_prob - log_prob, None)}

        density = _as_density(model)
        scores = {}
        for prior in PRIORS:
            if prior == "mixture":
                density.fit_prior(train[:CODE_POINTS], "mixture", codes="mode", seed=self.seed)
            noise_std = density.estimate_noise_std(val, codes="mode")
            torch.manual_seed(self.seed)
            log_prob = density.marginal_log_prob(both.points, noise_std)
            scores[prior] = _score(true_log_prob - log_prob, noise_std)
        return scores

    def _train(self, train: Tensor, val: Tensor, report_progress: ProgressCallback) -> BaseAE:
        """Returns the trained model."""
        torch.manual_seed(self.seed)
        config = FIFTrainerConfig(
            num_epochs=MANY_EPOCHS,
            per_device_train_batch_size=BATCH_SIZE,
            per_device_eval_batch_size=VALIDATION_POINTS,
            learning_rate=LEARNING_RATE,
            seed=self.seed,
            no_cuda=True,
        )

        with tempfile.TemporaryDirectory() as run_dir:
            trainer = FIFTrainer(
                self._build_model(),
                train.repeat(EPOCH_POINTS // len(train), 1),
                val,
                config,
                run_dir=run_dir,
                processor_time=self.seconds,
                checkpoint_every_seconds=math.inf,
                on_epoch=lambda row: report_progress(row.share_done),
            )
            trainer.train()

        return trainer.model

    def _build_model(self) -> BaseAE:
        """Builds the model with random weights."""
        if self.model == "flow_matching":
            return FlowMatching(FlowMatchingConfig(input_dim=(self.dim,), latent_dim=self.dim))

        sizes: dict[str, Any] = {"input_dim": (self.dim,), "latent_dim": self.latent_dim}
        encoder = TabularEncoder(**sizes, hidden_dim=WIDTH, variational=self.model == "vae")
        networks = encoder, TabularDecoder(**sizes, hidden_dim=WIDTH)
        match self.model:
            case "fif":
                return FIF(FIFConfig(**sizes, beta="auto", noise=0.0), *networks)
            case "ae":
                return AE(AEConfig(**sizes), *networks)
            case "vae":  # with this beta the loss is proportional to the ELBO with the data's noise
                return BetaVAE(BetaVAEConfig(**sizes, beta=NOISE_STD**2), *networks)

        weight = float(self.model.removeprefix("wae_"))
        config = WAE_MMD_Config(**sizes, kernel_choice="imq", reg_weight=weight)
        return patch_slow_ops(WAE_MMD(config, *networks))


def _as_density(model: BaseAE) -> InjectiveFlow:
    """Returns the density of a model; a VAE's codes are its posterior means."""
    config = InjectiveFlowConfig(model.model_config.input_dim, model.latent_dim)
    return InjectiveFlow(config, model.encoder, model.decoder)


def fit_gaussians(
    train: Tensor, val: Tensor, model: Literal["gaussian", "mixture"], seed: int
) -> Callable[[Tensor], Tensor]:
    """Fits one Gaussian, or the mixture of highest validation likelihood.

    Args:
        train: Training points (n, D).
        val: Validation points.
        model: 'gaussian' or 'mixture'.
        seed: Seed of the fits.

    Returns:
        The log-density (N,) of points (N, D).
    """
    numbers = MIXTURE_SIZES[:1] if model == "gaussian" else MIXTURE_SIZES
    rows = train.double().numpy()
    mixtures = [
        GaussianMixture(number, random_state=seed, reg_covar=NOISE_STD**2 / 100).fit(rows)
        for number in numbers
    ]
    best = max(mixtures, key=lambda mixture: mixture.score(val.double().numpy()))
    return lambda points: torch.from_numpy(best.score_samples(points.double().numpy()))


def _score(log_ratio: Tensor, noise_std: float | None) -> DensityScores:
    """Scores log p - log q of the test points and, after them, of the points of choice."""
    test, choice = log_ratio.split([TEST_POINTS, CHOICE_POINTS])
    return DensityScores(
        kl=test.mean().item(),
        kl_error=test.std().item() / math.sqrt(TEST_POINTS),
        choice_kl=choice.mean().item(),
        noise_std=noise_std,
    )


def plan(options: StudyOptions) -> list[ModelOfChart]:
    """Returns the runs, seed by seed, so that an interrupted study has whole seeds."""
    is_paper = options.profile == "paper"
    return [
        ModelOfChart(
            codes=codes,
            latent_dim=latent_dim,
            dim=dim,
            points=points,
            model=model,
            seconds=SECONDS[options.profile],
            seed=seed,
        )
        for seed, codes, (latent_dim, dim), points, model in itertools.product(
            options.seeds,
            CODE_NAMES if is_paper else CODE_NAMES[1:],
            DIMENSIONS if is_paper else DIMENSIONS[:1],
            SIZES if is_paper else SIZES[1:],
            (*AUTOENCODERS, *IN_DATA_SPACE),
        )
    ]


# -------------------------------------------------------------------------------- report


def make_frame(runs: list[ModelOfChart], results: list[dict[str, DensityScores]]) -> pd.DataFrame:
    """Returns one row per model, cell, seed and prior."""
    lines = []
    for run, result in zip(runs, results, strict=True):
        for prior, scores in result.items():
            free_dims = run.dim - run.latent_dim
            ratio = math.nan if scores.noise_std is None else scores.noise_std / NOISE_STD
            reconstruction = free_dims * math.log(ratio)

            lines.append({
                "codes": run.codes,
                "d": run.latent_dim,
                "D": run.dim,
                "n": run.points,
                "seed": run.seed,
                "model": run.model,
                "prior": prior,
                "kl": scores.kl,
                "kl_error": scores.kl_error,
                "choice_kl": scores.choice_kl,
                "squared_noise_ratio": ratio**2,
                "reconstruction": reconstruction,
                "rest": scores.kl - reconstruction,
            })  # fmt: skip
    return pd.DataFrame(lines)


CELL = ["codes", "d", "D", "n"]


class Verdict(NamedTuple):
    """FIF and its best rival on a cell.

    Attributes:
        rival: Name of the rival.
        gain: The rival's KL minus FIF's, in nats.
        p: p-value of the paired t-test over seeds; NaN for one seed.
    """

    rival: str
    gain: float
    p: float

    @property
    def text(self) -> str:
        """'wins', 'loses' or 'undecided'."""
        if not self.p < SIGNIFICANCE:
            return "undecided"
        return "wins" if self.gain > 0 else "loses"


def judge_cell(fif: pd.DataFrame, rivals: pd.DataFrame) -> Verdict:
    """Compares FIF with its best rival on a cell.

    Args:
        fif: FIF's rows of the cell, one for each seed.
        rivals: The rivals' rows.
    """
    rival = rivals.groupby("model")["choice_kl"].mean().idxmin()
    theirs = rivals[rivals["model"] == rival].set_index("seed")["kl"]
    ours = fif.set_index("seed")["kl"].loc[theirs.index]
    p = float(ttest_rel(theirs, ours).pvalue) if len(ours) > 1 else math.nan
    return Verdict(str(rival), float((theirs - ours).mean()), p)


def judge_cells(
    frame: pd.DataFrame, prior: str, rival_prior: str
) -> dict[tuple[Any, ...], Verdict]:
    """Compares FIF with its best rival on all cells.

    Args:
        frame: The rows of :func:`make_frame`.
        prior: FIF's prior.
        rival_prior: The rivals' prior, or `DATA_SPACE`.

    Returns:
        Cell -> verdict, in the order of the rows.
    """
    is_fif = (frame["model"] == "fif") & (frame["prior"] == prior)
    is_rival = (frame["model"] != "fif") & (frame["prior"] == rival_prior)
    rivals = dict(list(frame[is_rival].groupby(CELL)))
    return {
        cell: judge_cell(rows, rivals[cell])
        for cell, rows in frame[is_fif].groupby(CELL, sort=False)
    }


def cells_that_count(frame: pd.DataFrame) -> set[tuple[Any, ...]]:
    """Returns the cells on which AE reaches the noise."""
    is_reference = (frame["model"] == "ae") & (frame["prior"] == "mixture")
    ratios = frame[is_reference].groupby(CELL)["squared_noise_ratio"].mean()
    return set(ratios[ratios <= MAX_NOISE_RATIO].index)


def judge_claim(frame: pd.DataFrame) -> str:
    """Returns the sentence on whether joint training pays without a fitted prior."""
    counted = cells_that_count(frame)
    texts = {
        cell: verdict.text
        for cell, verdict in judge_cells(frame, "normal", "normal").items()
        if cell in counted
    }

    normal = [text for cell, text in texts.items() if cell[0] == "normal"]
    others = [text for cell, text in texts.items() if cell[0] != "normal"]
    wins = others.count("wins")
    losses = normal.count("loses")
    pays = bool(others) and wins >= NEEDED_SHARE * len(others) and not losses

    return (
        f"Joint training {'pays' if pays else 'does not always pay'} where codes are not normal "
        f"and no prior may be fitted: with N, FIF wins {wins} of {len(others)} cells of skewed and "
        f"bimodal codes, and loses {others.count('loses')} of them and {losses} of {len(normal)} "
        "cells of normal codes."
    )


def _cell_columns(cell: tuple[Any, ...]) -> dict[str, str]:
    """Returns the first columns of a cell's line."""
    codes, latent_dim, dim, points = cell
    return {"codes": codes, "d, D": f"{latent_dim}, {dim}", "n": f"{points:,}"}


def _spread(values: pd.Series) -> str:
    """Formats the mean over seeds, and their standard deviation if there is more than one."""
    if len(values) == 1:
        return f"{values.mean():.3f}"
    return f"{values.mean():.3f} ± {values.std():.3f}"


def make_verdict_table(frame: pd.DataFrame, title: str, prior: str, rival_prior: str) -> Table:
    """Makes the table of KLs and verdicts of one comparison; see :func:`judge_cells`."""
    counted = cells_that_count(frame)
    rivals = IN_DATA_SPACE if rival_prior == DATA_SPACE else AUTOENCODERS[1:]
    columns = [("fif", prior), *((rival, rival_prior) for rival in rivals)]
    kls = dict(list(frame.groupby([*CELL, "model", "prior"])["kl"]))

    lines = []
    for cell, verdict in judge_cells(frame, prior, rival_prior).items():
        line = _cell_columns(cell)
        for model, used_prior in columns:
            line[LABELS[model]] = _spread(kls[(*cell, model, used_prior)])
        line["best rival"] = LABELS[verdict.rival]
        line["gain"] = f"{verdict.gain:+.3f}"
        line["p"] = DASH if math.isnan(verdict.p) else format_p(verdict.p)
        line["verdict"] = verdict.text if cell in counted else f"({verdict.text})"
        lines.append(line)
    return Table(title, pd.DataFrame(lines))


def make_parts_table(frame: pd.DataFrame) -> Table:
    """Makes the table of the parts of a KL: of FIF and AE with a mixture, and of FIF with N."""
    columns = [("fif", "mixture"), ("ae", "mixture"), ("fif", "normal"), ("ae", "normal")]
    groups = dict(list(frame.groupby([*CELL, "model", "prior"])))
    cells = frame.groupby(CELL, sort=False).groups

    lines = []
    for cell in cells:
        line = _cell_columns(cell)
        ratio = groups[(*cell, "ae", "mixture")]["squared_noise_ratio"].mean()
        line["AE's squared noise / s^2"] = f"{ratio:.3f}"
        for model, prior in columns:
            rows = groups[(*cell, model, prior)]
            parts = f"{rows['reconstruction'].mean():.2f}, {rows['rest'].mean():+.2f}"
            line[f"{LABELS[model]}, {PRIORS[prior]}"] = parts
        lines.append(line)
    return Table(
        "KL in two parts: reconstruction term, and rest",
        pd.DataFrame(lines),
        notes=[
            f"A cell counts if AE's squared noise is at most {MAX_NOISE_RATIO} s^2.",
            "The reconstruction term is (D - d) log(noise's scale / s), in nats.",
        ],
    )


COMPARISONS = {
    "Standard normal prior": ("normal", "normal"),
    "Fitted mixture": ("mixture", "mixture"),
    "FIF with a fitted mixture, and models in data space": ("mixture", DATA_SPACE),
}
"""Title of each comparison -> FIF's prior and its rivals'."""


def count_verdicts(frame: pd.DataFrame) -> Table:
    """Counts wins and losses on the cells that count."""
    counted = cells_that_count(frame)
    lines = []
    for title, priors in COMPARISONS.items():
        verdicts = judge_cells(frame, *priors)
        for codes in frame["codes"].unique():
            texts = [
                verdict.text
                for cell, verdict in verdicts.items()
                if cell in counted and cell[0] == codes
            ]
            counts = {text: str(texts.count(text)) for text in ("wins", "loses", "undecided")}
            lines.append({"comparison": title, "codes": codes, **counts})
    return Table("FIF against its best rival, cells that count", pd.DataFrame(lines))


def make_page(frame: pd.DataFrame) -> str:
    """Writes the study's page in Markdown."""
    seeds = frame["seed"].nunique()
    error = frame["kl_error"].median()
    counted = cells_that_count(frame)
    cells = len(frame.groupby(CELL))
    tables = [
        count_verdicts(frame),
        *(
            make_verdict_table(frame, title, prior, rival_prior)
            for title, (prior, rival_prior) in COMPARISONS.items()
        ),
        make_parts_table(frame),
    ]

    intro = (
        "# Models of data of known density\n\n"
        f"{judge_claim(frame) if seeds > 1 else 'One seed decides nothing.'} "
        f"{len(counted)} of {pluralized(cells, 'cell')} count: AE reaches their noise.\n\n"
        "Simulated data: manifolds with one chart, and normal noise around them. The method and "
        "its criteria, fixed before the runs, are in "
        "[known_densities.py](../../../studies/known_densities.py).\n\n"
        f"A KL is in nats, mean ± standard deviation over {pluralized(seeds, 'seed')}; a seed "
        f"changes the manifold too. Its standard error over test points is {error:.3f} in the "
        "median. The gain is the best rival's KL minus FIF's, and the rival is chosen on other "
        "test points. A verdict in brackets is of a cell that does not count.\n\n"
    )
    return intro + "\n".join(table.to_markdown() for table in tables)


def run_known_densities(options: StudyOptions) -> list[StudyPage]:
    """Trains all models, and makes the page."""
    runs = plan(options)
    engine = options.engine or LocalEngine(cpus_per_run=1)
    results = collect_results(runs, replace(options, engine=engine))
    frame = make_frame(runs, results)
    name = "known-densities" + ("" if options.profile == "paper" else f"-{options.profile}")
    return [StudyPage(name, make_page(frame), frame)]


STUDY = Study(run_known_densities, seeds=(1, 5))
