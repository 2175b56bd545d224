"""Do the entropies of code directions say which directions the reconstruction needs?

`explained_entropy` gives each principal direction of a model's codes an entropy. If it measures the
information in the direction, the error must rise most where the direction with the highest entropy
is dropped. Method and criterion, fixed before the runs:

* *Models*: FIF with `beta="auto"` and with beta 10, AE, RAE-L2, and WAE-IMQ with weights 1 and 10,
  on digits, with 8 latent dimensions and the epochs of the study `equal_time`'s reference.
* *Measure*: Spearman's correlation, over the directions, of the entropy (training images) and the
  rise of the mean squared error of test images without the component along the direction.
* *Yes* for a model if the mean correlation over the seeds is above 0.8; the entropies are trusted
  if this holds for at least four of the six models.

Profile `paper` has three seeds, `quick` one.
"""

import tempfile
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from pythae.trainers.trainer_utils import set_seed
from scipy.stats import spearmanr

from pythae_fif.data import to_float
from pythae_fif.errors import pluralized
from pythae_fif.models import as_density
from pythae_fif.pictures import new_figure
from pythae_fif.runs.local import LocalEngine
from pythae_fif.study import (
    ProgressCallback,
    Study,
    StudyOptions,
    StudyPage,
    StudySpec,
    collect_results,
)
from pythae_fif.volume_change import squared_error
from studies.equal_time import ARM_LABELS, ARMS
from studies.paired.training import DIGITS, build_trainer

NAMES = ("fif_auto", "fif_10", "ae", "rae_l2", "wae_1", "wae_10")
NEEDED_CORRELATION = 0.8
NEEDED_MODELS = 4


@dataclass(frozen=True)
class Directions:
    """The principal code directions of a trained model.

    Attributes:
        entropy: Their entropies in nats, descending.
        error_rise: Rise of the squared error of a test image without each.
        total_correlation: See `ExplainedEntropy`.
    """

    entropy: list[float]
    error_rise: list[float]
    total_correlation: float

    @property
    def correlation(self) -> float:
        """Spearman's correlation of entropies and rises."""
        return float(spearmanr(self.entropy, self.error_rise).statistic)


class ExplainedEntropyRun(StudySpec):
    """The training of a model, and the entropies of its code directions."""

    kind: ClassVar[str] = "explained_entropy"
    result: ClassVar[Any] = Directions
    on_cpu: ClassVar[bool] = True

    arm: str
    seed: int

    def compute(self, report_progress: ProgressCallback) -> Directions:
        """Trains the model on one thread, and drops each direction."""
        torch.set_num_threads(1)
        splits = DIGITS.load(self.location)
        set_seed(self.seed)
        trainee = ARMS[self.arm](DIGITS, splits)
        with tempfile.TemporaryDirectory() as run_dir:
            build_trainer(
                trainee,
                DIGITS,
                self.seed,
                splits,
                run_dir,
                lambda row: report_progress(row.share_done),
            ).train()

        density = as_density(trainee.model)
        explained = density.explained_entropy(to_float(splits.train))
        x = to_float(splits.test)
        z = density.encode(x)
        error = squared_error(density.decode(z), x).mean()
        rises = [
            squared_error(density.decode(explained.drop(z, index)), x).mean() - error
            for index in range(DIGITS.latent_dim)
        ]
        return Directions(
            entropy=explained.entropy.tolist(),
            error_rise=[rise.item() for rise in rises],
            total_correlation=explained.total_correlation,
        )


def run_explained_entropy(options: StudyOptions) -> list[StudyPage]:
    """Trains the models, and makes the table and the figure."""
    runs = [
        ExplainedEntropyRun(arm=arm, seed=seed, location=options.location)
        for arm in NAMES
        for seed in options.seeds
    ]
    engine = options.engine or LocalEngine(cpus_per_run=1)
    results = collect_results(runs, replace(options, engine=engine))

    lines = []
    for run, result in zip(runs, results, strict=True):
        for index, (entropy, rise) in enumerate(
            zip(result.entropy, result.error_rise, strict=True), start=1
        ):
            lines.append({
                "model": ARM_LABELS[run.arm],
                "seed": run.seed,
                "direction": index,
                "entropy": entropy,
                "error_rise": rise,
                "correlation": result.correlation,
                "total_correlation": result.total_correlation,
            })  # fmt: skip
    numbers = pd.DataFrame(lines)

    table = numbers.groupby("model", sort=False).agg(
        highest=("entropy", "max"),
        lowest=("entropy", "min"),
        total_correlation=("total_correlation", "mean"),
        correlation=("correlation", "mean"),
    )
    trusted = table["correlation"] > NEEDED_CORRELATION
    table = table.reset_index().set_axis(
        [
            "model", "highest entropy, nats", "lowest entropy, nats", "total correlation, nats",
            "Spearman's correlation with the rise of the error",
        ],
        axis=1,
    )  # fmt: skip
    answer = "trusted" if trusted.sum() >= NEEDED_MODELS else "not trusted"
    name = "explained-entropy" + ("" if options.profile == "paper" else f"-{options.profile}")
    return [
        StudyPage.of_table(
            name=name,
            title="Entropies of code directions, and the errors without them",
            caption=f"The correlation is above {NEEDED_CORRELATION} for {trusted.sum()} of "
            f"{len(NAMES)} models ({NEEDED_MODELS} are needed): the entropies are {answer}. "
            f"Means over {pluralized(len(options.seeds), 'seed')}; digits of scikit-learn, 8 "
            "latent dimensions.",
            table=table,
            numbers=numbers,
            figure=draw(numbers),
        )
    ]


def draw(numbers: pd.DataFrame) -> Figure:
    """Draws the entropies by direction, as means over seeds."""
    figure = new_figure(5, 3.5)
    axis = figure.subplots()
    for name, rows in numbers.groupby("model", sort=False):
        means = rows.groupby("direction")["entropy"].mean()
        axis.plot(means.index, means, "o-", markersize=4, label=name)
    axis.set(xlabel="code direction", ylabel="explained entropy, nats")
    axis.set_xticks(np.arange(1, DIGITS.latent_dim + 1))
    axis.legend(fontsize=8)
    return figure


STUDY = Study(run_explained_entropy, seeds=(1, 3))
