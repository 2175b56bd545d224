"""The likelihood of FIF and of autoencoders, at five budgets of training time.

Does the order of models after one minute of training hold after eight? Method and criteria, fixed
before the runs:

* *Arms*: FIF with `beta="auto"`, with the whole surrogate and with a quarter of it, AE, RAE-L2, and
  WAE-IMQ with weights 1 and 10. FIFs have K = 1, and their steps are traced as by default. Rivals
  run as in the benchmark, eagerly. All rates are constant.
* *Time*: processor time of training steps on one thread, with the tracing. `BUDGETS` are about the
  times of the study `equal_time`. One training gives the models of all budgets, `FACTORS` times
  these: at each, the weights of lowest validation loss among the epochs that ended within it. No
  number of epochs comes from a trial.
* *Measure*: the marginal log-likelihood (`marginal_log_prob`) of 2,000 test points, of all where
  there are fewer (MINIBOONE 1,927, digits 300), of 400 on MNIST, with the mixture and with the
  standard normal N. The prior is fitted to the modes of the first 5,000 training points, and the
  noise's scale is that of the modes of validation points, so that the likelihood depends on the
  decoder and the prior alone (`codes="mode"`). At the budget 1 both are computed from f(x) as well.
* *Choice*: for each data set and prior, FIF and the rivals each have the arm of highest validation
  likelihood, as a mean over the last two budgets and over seeds 0 and 1. Verdicts use the four
  seeds 2 to 5.
* *Ahead*: a model is ahead on a data set with a prior if it is ahead at both of the last two
  budgets, and the larger p is below 0.05 by Holm's method over four data sets and two priors. p is
  that of a two-sided paired t-test with the noise of seeds and of test points.
* *Order*: Spearman's correlation of the arms' mean likelihoods at the budget 1 and at the last one.
* *Codes*: the likelihood from modes is adopted if, at the budget 1, it is lower than the one from
  f(x) by more than 0.1 nats for no arm (mean over seeds), and higher by more than 5 on MNIST.
* *Left out*: seed 5 of MNIST, when its runs were known. FIF's had run on a faster processor than
  those of its rivals. MNIST has three seeds for its verdict.
* *Budget*: about 13 CPU hours of training, and the scoring. MNIST has budgets up to 4 only.

Profile `paper` makes these runs. `medium` has one seed and budgets up to 1, for *Codes*. `quick`
has one seed of digits with budgets up to 1, and decides nothing.
"""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pythae.trainers.trainer_utils import set_seed
from scipy.stats import spearmanr
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from pythae_fif.data import to_float
from pythae_fif.data.splits import Splits
from pythae_fif.errors import DataError, NonFiniteError
from pythae_fif.evaluation.score_types import DASH
from pythae_fif.models import InjectiveFlow, as_density
from pythae_fif.names import CodeSource
from pythae_fif.pictures import new_figure
from pythae_fif.reports.tables import Table
from pythae_fif.runs.local import LocalEngine
from pythae_fif.study import (
    ProgressCallback,
    Study,
    StudyOptions,
    StudyPage,
    StudySpec,
    check_one_device,
    collect_records,
)
from pythae_fif.training import EpochRow
from pythae_fif.volume_change import squared_error
from studies.equal_time import ARM_LABELS, ARMS, SIGNIFICANCE, TASKS
from studies.paired.comparison import (
    PRIOR_LABELS,
    Difference,
    format_p,
    format_spread,
    holm,
    paired_difference,
)
from studies.paired.training import (
    NATS_DECIMALS,
    PRIORS,
    Task,
    Trainee,
    build_trainer,
)

FIFS = ("fif_auto", "fif_auto_quarter")
RIVALS = ("ae", "rae_l2", "wae_1", "wae_10")

BUDGETS = {"digits": 13.0, "mnist": 80.0, "power": 45.0, "miniboone": 60.0}
"""Data set -> processor seconds of the budget 1."""
FACTORS = {
    "digits": (0.5, 1, 2, 4, 8),
    "miniboone": (0.5, 1, 2, 4, 8),
    "power": (0.5, 1, 2, 4, 8),
    "mnist": (0.5, 1, 2, 4),
}
"""Data set -> budgets, in multiples of `BUDGETS`."""
CHOICE_SEEDS = (0, 1)
VERDICT_SEEDS = (2, 3, 4, 5)
LEFT_OUT_SEEDS = {"mnist": (5,)}
"""Data set -> seeds whose arms ran on processors of different speeds."""
CODE_POINTS = 5_000
"""Training points whose modes the prior is fitted to. The search takes most of the scoring."""
MANY_EPOCHS = 10**6
"""More epochs than any budget allows."""
TRAINING_SHARE = 0.8
"""Share of a run that is its training, for its progress."""


# -------------------------------------------------------------------------------- a run


@dataclass(frozen=True)
class BudgetScores:
    """Scores of the model of a budget. Likelihoods are for each of `PRIORS`, in nats.

    Attributes:
        factor: The budget, in multiples of `BUDGETS`.
        epoch: The epoch that was kept.
        mse: Squared error of a test point.
        noise_std: Standard deviation of the noise around the manifold, for each prior.
        nats: Mean log-likelihoods of test points.
        val_nats: The same of validation points, for `CHOICE_SEEDS`.
        encoder_nats: The same of test points with prior and noise from f(x), at the budget 1.
        point_nats: The log-likelihood of each test point, to 0.1 nats.
    """

    factor: float
    epoch: int
    mse: float
    noise_std: dict[str, float]
    nats: dict[str, float]
    val_nats: dict[str, float]
    encoder_nats: dict[str, float]
    point_nats: dict[str, list[float]]


@dataclass(frozen=True)
class TrainingScores:
    """Scores of a training at all budgets.

    Attributes:
        data: Description of the data.
        budgets: Scores, in the order of the budgets. A budget within which no epoch ended is
            missing.
        failure: What was not finite; empty if nothing was.
    """

    data: str
    budgets: list[BudgetScores]
    failure: str = ""


class Snapshot(NamedTuple):
    """The model of a budget: the epoch that was kept, and its weights."""

    factor: float
    epoch: int
    weights: Mapping[str, Tensor]


class TimedTraining(StudySpec):
    """A training of one arm, which is scored at several budgets.

    Attributes:
        task: The data and the settings. Its number of epochs is not used.
        arm: One of `FIFS` and `RIVALS`.
        budget: Processor seconds of the budget 1.
        factors: Budgets in multiples of it, ascending.
        seed: Seed of the weights, the batches and the scores.
        data_hash: Hash of the data.
    """

    kind: ClassVar[str] = "likelihood_over_time"
    schema_version: ClassVar[int] = 2  # 1 had another search of modes
    result: ClassVar[Any] = TrainingScores
    on_cpu: ClassVar[bool] = True

    task: Task
    arm: str
    budget: float
    factors: tuple[float, ...]
    seed: int
    data_hash: str

    def compute(self, report_progress: ProgressCallback) -> TrainingScores:
        """Trains the arm on one thread for the longest budget, and scores its models.

        Raises:
            DataError: The data changed since the run was planned.
        """
        torch.set_num_threads(1)
        splits = self.task.load(self.location)
        if splits.content_hash != self.data_hash:
            raise DataError(f"{self.task.dataset} changed since the plan: start again")

        set_seed(self.seed)
        trainee = ARMS[self.arm](self.task, splits)
        scores: list[BudgetScores] = []
        try:
            for snapshot in self._train(trainee, splits, report_progress):
                trainee.model.load_state_dict(snapshot.weights)
                scores.append(self._score(as_density(trainee.model), splits, snapshot))
        except (NonFiniteError, LinAlgError, FloatingPointError) as error:
            return TrainingScores(splits.source, scores, f"{type(error).__name__}: {error}")
        return TrainingScores(splits.source, scores)

    def _train(
        self, trainee: Trainee, splits: Splits, report_progress: ProgressCallback
    ) -> list[Snapshot]:
        """Trains the model, and returns the weights of each budget."""
        snapshots: dict[float, Snapshot] = {}
        losses: dict[int, float] = {}
        seconds = 0.0

        def keep(row: EpochRow) -> None:
            nonlocal seconds
            seconds += row.train_seconds or 0
            losses[row.epoch] = row.eval["loss"]
            best_epoch = min(losses, key=lambda epoch: losses[epoch])
            is_last = row.share_done == 1  # it ends with the step that reaches the longest budget
            for factor in self.factors:
                if seconds <= factor * self.budget or (is_last and factor == self.factors[-1]):
                    snapshots[factor] = Snapshot(factor, best_epoch, trainer.best_weights)
            report_progress(TRAINING_SHARE * row.share_done)

        task = self.task.model_copy(update={"epochs": MANY_EPOCHS})
        with tempfile.TemporaryDirectory() as run_dir:
            trainer = build_trainer(
                trainee,
                task,
                self.seed,
                splits,
                run_dir,
                keep,
                processor_time=self.factors[-1] * self.budget,
            )
            trainer.train()
        return list(snapshots.values())

    def _score(self, density: InjectiveFlow, splits: Splits, snapshot: Snapshot) -> BudgetScores:
        """Computes the likelihoods of a model."""
        indices = np.unique(np.linspace(0, len(splits.test) - 1, self.task.points).astype(int))
        test = to_float(splits.test[indices])
        train = to_float(splits.train[:CODE_POINTS])
        val = to_float(splits.val[: self.task.points])

        noise_std = {}
        nats = {}
        val_nats = {}
        encoder_nats = {}
        for prior in PRIORS:
            noise_std[prior] = self._fit(density, prior, train, val, "mode")
            nats[prior] = self._log_prob(density, test, noise_std[prior])
            if self.seed in CHOICE_SEEDS:
                val_nats[prior] = self._log_prob(density, val, noise_std[prior]).mean().item()
            if snapshot.factor == 1:
                std = self._fit(density, prior, train, val, "encoder")
                encoder_nats[prior] = self._log_prob(density, test, std).mean().item()

        errors = squared_error(density.reconstruct(test), test)
        density.prior = None  # the weights of the next budget have none
        return BudgetScores(
            factor=snapshot.factor,
            epoch=snapshot.epoch,
            mse=errors.mean().item(),
            noise_std=noise_std,
            nats={prior: values.mean().item() for prior, values in nats.items()},
            val_nats=val_nats,
            encoder_nats=encoder_nats,
            point_nats={
                prior: values.double().numpy().round(NATS_DECIMALS).tolist()
                for prior, values in nats.items()
            },
        )

    def _fit(
        self, density: InjectiveFlow, prior: str, train: Tensor, val: Tensor, codes: CodeSource
    ) -> float:
        """Fits the prior to training points, and returns the noise's scale of validation points."""
        density.prior = None
        torch.manual_seed(self.seed)
        if prior == "mixture":
            density.fit_prior(train, "mixture", seed=self.seed, codes=codes)
        return density.estimate_noise_std(val, codes=codes)

    def _log_prob(self, density: InjectiveFlow, x: Tensor, noise_std: float) -> Tensor:
        """Computes the log-likelihoods (B,) of points."""
        torch.manual_seed(self.seed)
        nats = density.marginal_log_prob(x, noise_std)
        if not nats.isfinite().all():
            raise NonFiniteError("a likelihood is not finite")
        return nats


def plan(options: StudyOptions) -> Iterator[TimedTraining]:
    """Yields the trainings, data set by data set and seed by seed."""
    datasets = ["digits"] if options.profile == "quick" else list(BUDGETS)
    max_factor = math.inf if options.profile == "paper" else 1
    for dataset in datasets:
        task = TASKS[dataset]
        data_hash = task.load(options.location).content_hash
        factors = tuple(factor for factor in FACTORS[dataset] if factor <= max_factor)

        for seed in _without_left_out(options.seeds, dataset):
            for arm in (*FIFS, *RIVALS):
                yield TimedTraining(
                    task=task,
                    arm=arm,
                    budget=BUDGETS[dataset],
                    factors=factors,
                    seed=seed,
                    data_hash=data_hash,
                    location=options.location,
                )


def _without_left_out(seeds: Sequence[int], dataset: str) -> list[int]:
    """Returns the seeds without those that are left out for a data set."""
    return [seed for seed in seeds if seed not in LEFT_OUT_SEEDS.get(dataset, ())]


# -------------------------------------------------------------------------------- report

Scores = Mapping[str, Mapping[str, Mapping[float, Mapping[int, BudgetScores]]]]
"""Data set -> arm -> budget -> seed -> scores."""


def group(trainings: Sequence[TimedTraining], results: Sequence[TrainingScores]) -> Scores:
    """Groups the scores of finished trainings. A training that failed is left out."""
    grouped: dict[str, dict[str, dict[float, dict[int, BudgetScores]]]] = {}
    for training, result in zip(trainings, results, strict=True):
        if not result.failure:
            arms = grouped.setdefault(training.task.dataset, {})
            for scores in result.budgets:
                seeds = arms.setdefault(training.arm, {}).setdefault(scores.factor, {})
                seeds[training.seed] = scores
    return grouped


def choose(scores: Scores, dataset: str, names: Sequence[str], prior: str) -> str | None:
    """Chooses the arm of highest validation likelihood; None if there is no finished arm.

    Args:
        scores: The scores.
        dataset: Name of the data set.
        names: Names of the arms to choose from.
        prior: One of `PRIORS`.
    """
    means = {}
    for name in names:
        budgets = scores[dataset].get(name, {})
        nats = [
            budgets[factor][seed].val_nats[prior]
            for factor in FACTORS[dataset][-2:]
            for seed in CHOICE_SEEDS
            if seed in budgets.get(factor, {})
        ]
        if len(nats) == 2 * len(CHOICE_SEEDS):
            means[name] = float(np.mean(nats))
    return max(means, key=lambda name: means[name], default=None)


class Comparison(NamedTuple):
    """FIF's chosen arm and its rival on a data set, with a prior.

    Attributes:
        dataset: The data set.
        prior: The prior.
        fif: FIF's arm.
        rival: The rival's arm.
        differences: FIF's likelihood minus the rival's at the last two budgets.
    """

    dataset: str
    prior: str
    fif: str
    rival: str
    differences: list[Difference]

    @property
    def p(self) -> float:
        """The larger p of the two budgets; 1 if their differences have two signs."""
        signs = {difference.mean > 0 for difference in self.differences}
        if len(signs) > 1:
            return 1.0
        return max(difference.p_with_points for difference in self.differences)


def compare_all(scores: Scores) -> list[Comparison]:
    """Compares FIF with its best rival, for each data set and prior with all seeds."""
    comparisons = []
    for dataset in scores:
        for prior in PRIORS:
            fif = choose(scores, dataset, FIFS, prior)
            rival = choose(scores, dataset, RIVALS, prior)
            if fif is None or rival is None:
                continue
            differences = [
                paired_difference(
                    _point_nats(scores[dataset][fif].get(factor, {}), prior),
                    _point_nats(scores[dataset][rival].get(factor, {}), prior),
                )
                for factor in FACTORS[dataset][-2:]
            ]

            seed_count = len(_without_left_out(VERDICT_SEEDS, dataset))
            found = [item for item in differences if item and item.seeds == seed_count]
            if len(found) == 2:
                comparisons.append(Comparison(dataset, prior, fif, rival, found))
    return comparisons


def _point_nats(by_seed: Mapping[int, BudgetScores], prior: str) -> dict[int, np.ndarray]:
    """The likelihoods of test points by the seeds of verdicts."""
    return {
        seed: np.array(scores.point_nats[prior])
        for seed, scores in by_seed.items()
        if seed in VERDICT_SEEDS
    }


def verdict_table(scores: Scores) -> Table:
    """Makes the table of verdicts."""
    comparisons = compare_all(scores)
    number_of_tests = len(BUDGETS) * len(PRIORS)
    missing = number_of_tests - len(comparisons)
    p_values = holm([*(comparison.p for comparison in comparisons), *[1.0] * missing])

    lines = []
    for comparison, p in zip(comparisons, p_values, strict=False):
        first, last = comparison.differences
        is_ahead = p < SIGNIFICANCE
        winner = comparison.fif if last.mean > 0 else comparison.rival
        lines.append({
            "data": comparison.dataset,
            "prior": PRIOR_LABELS[comparison.prior],
            "FIF": ARM_LABELS[comparison.fif],
            "rival": ARM_LABELS[comparison.rival],
            "difference, last budget but one": _describe(first),
            "difference, last budget": _describe(last),
            "p (Holm)": format_p(p),
            "ahead": ARM_LABELS[winner] if is_ahead else "undecided",
        })  # fmt: skip
    notes = [
        "A difference is FIF's mean log-likelihood minus the rival's, in nats. ± is half the "
        "length of its 90 % interval, by the noise of seeds and of test points.",
    ]
    if missing:
        notes.append(f"{missing} of {number_of_tests} comparisons are not finished.")
    return Table("FIF and its best rival", pd.DataFrame(lines), notes=notes)


def _describe(difference: Difference) -> str:
    return f"{difference.mean:.2f} ± {difference.margin:.2f}"


def level_table(scores: Scores, prior: str) -> Table:
    """Makes the table of all arms and budgets: means and standard deviations over all seeds."""
    lines = []
    for dataset, arms in scores.items():
        for arm, budgets in arms.items():
            cells = {
                f"{factor:g}": format_spread([item.nats[prior] for item in by_seed.values()])
                for factor, by_seed in budgets.items()
            }
            seeds = {len(by_seed) for by_seed in budgets.values()}
            line = {"data": dataset, "arm": ARM_LABELS[arm], "seeds": str(min(seeds))}
            lines.append(line | dict.fromkeys(("0.5", "1", "2", "4", "8"), DASH) | cells)
    return Table(
        f"Log-likelihood by budget, {PRIOR_LABELS[prior]}",
        pd.DataFrame(lines),
        notes=["Nats of test points; ± is the standard deviation over seeds."],
    )


def order_table(scores: Scores) -> Table:
    """Compares the order of the arms at the budget 1 with the one at the last budget."""
    lines = []
    for dataset, arms in scores.items():
        last_factor = FACTORS[dataset][-1]
        finished = [budgets for budgets in arms.values() if {1, last_factor} <= budgets.keys()]
        if len(finished) < 3:
            continue

        for prior in PRIORS:
            first = [_mean_nats(budgets[1], prior) for budgets in finished]
            last = [_mean_nats(budgets[last_factor], prior) for budgets in finished]
            lines.append({
                "data": dataset,
                "prior": PRIOR_LABELS[prior],
                "last budget": f"{last_factor:g}",
                "arms": str(len(finished)),
                "Spearman's correlation": f"{spearmanr(first, last).statistic:.2f}",
            })  # fmt: skip
    return Table("Order of the arms at the budget 1 and at the last", pd.DataFrame(lines))


def _mean_nats(by_seed: Mapping[int, BudgetScores], prior: str) -> float:
    """Returns the mean likelihood over seeds."""
    return float(np.mean([scores.nats[prior] for scores in by_seed.values()]))


def codes_table(scores: Scores) -> Table:
    """Compares the likelihood from modes with the one from f(x), at the budget 1."""
    lines = []
    for dataset, arms in scores.items():
        for arm, budgets in arms.items():
            line = {"data": dataset, "arm": ARM_LABELS[arm]}
            for prior in PRIORS:
                gains = [
                    item.nats[prior] - item.encoder_nats[prior]
                    for item in budgets.get(1, {}).values()
                ]
                line[f"gain, {PRIOR_LABELS[prior]}"] = format_spread(gains)
            lines.append(line)
    return Table("Likelihood from modes minus the one from f(x), nats", pd.DataFrame(lines))


def draw(scores: Scores) -> Figure:
    """Draws the likelihood against the budget, with the mixture, in one panel for each data set."""
    figure = new_figure(9, 6.5)
    axes: list[Axes] = list(figure.subplots(2, 2).flat)
    for axis, dataset in zip(axes, BUDGETS, strict=True):
        for index, arm in enumerate((*FIFS, *RIVALS)):
            budgets = scores.get(dataset, {}).get(arm, {})
            seconds = [factor * BUDGETS[dataset] for factor in budgets]
            nats = [[item.nats["mixture"] for item in item.values()] for item in budgets.values()]
            means = [np.mean(values) for values in nats]
            errors = [np.std(values) for values in nats]
            style = "o-" if arm in FIFS else "s--"
            axis.errorbar(
                seconds, means, errors, fmt=style, markersize=4, capsize=2,
                color=f"C{index}", label=ARM_LABELS[arm],
            )  # fmt: skip

        axis.set(xscale="log", title=dataset, xlabel="training, processor seconds")
        axis.set_ylabel("log-likelihood, nats ↑")
        ticks = [factor * BUDGETS[dataset] for factor in FACTORS[dataset]]
        axis.set_xticks(ticks, [f"{seconds:g}" for seconds in ticks])
        axis.minorticks_off()

    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def run_likelihood_over_time(options: StudyOptions) -> list[StudyPage]:
    """Makes the missing trainings, and draws the tables and the figure."""
    trainings = list(plan(options))
    engine = options.engine or LocalEngine(cpus_per_run=1)
    records = collect_records(trainings, replace(options, engine=engine))
    for dataset in BUDGETS:
        for seed in VERDICT_SEEDS:
            check_one_device([
                record
                for training, record in zip(trainings, records, strict=True)
                if (training.task.dataset, training.seed) == (dataset, seed)
            ])  # fmt: skip
    results = [record.result for record in records]

    scores = group(trainings, results)
    failures = [
        f"* {training.task.dataset}, {ARM_LABELS[training.arm]}, seed {training.seed}: "
        f"{result.failure}"
        for training, result in zip(trainings, results, strict=True)
        if result.failure
    ]
    tables = [
        verdict_table(scores),
        *(level_table(scores, prior) for prior in PRIORS),
        order_table(scores),
        codes_table(scores),
    ]
    filled = [table for table in tables if not table.cells.empty]
    sources = sorted({result.data for result in results})
    parts = [
        "# Likelihood of FIF and of autoencoders over training time\n\n"
        f"Data: {'; '.join(sources)}. The method is at the top of "
        "`studies/likelihood_over_time.py`.\n",
        *(table.to_markdown() for table in filled),
        "Failed trainings:\n\n" + "\n".join(failures) + "\n" if failures else "",
    ]
    name = "likelihood-over-time" + ("" if options.profile == "paper" else f"-{options.profile}")
    return [StudyPage(name, "\n".join(filter(None, parts)), figure=draw(scores))]


STUDY = Study(run_likelihood_over_time, seeds=(1, 6, 1))
