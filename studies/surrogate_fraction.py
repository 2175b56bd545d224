"""What a FIF loses if the surrogate of the volume uses a part of each batch.

All trainings have `beta="auto"`, and networks and lengths of results/reference/likelihood.md. They
keep the epoch of lowest validation loss.

Method and criterion, fixed before the runs:

* *Arms*: `surrogate_fraction` = 1, 0.5, 0.25 and 0.1. *Tasks and seeds*: see `TASKS` and `SEEDS`,
  paired.
* *Measure*: the marginal log-likelihood (`marginal_log_prob`) of 2,000 test points, of all where
  there are fewer (MINIBOONE 1,927, digits 300), with the mixture and with the standard normal N.
* *Criterion*: the smallest fraction that is not worse than 1 by more than 0.02 nats per latent
  dimension is recommended. It must hold for the mean of the paired differences on every data set
  with both priors, and for all fractions between it and 1.
* *Certainty*: the 90 % interval of a difference has the noise of seeds and of test points. If the
  allowed loss is within it, the table says "by the mean": the data do not show what the mean says.
* Further seeds (`--seeds`) do not change the criterion's verdict. They have a second table. Added
  after seed 0 of digits, where likelihoods of equal settings scatter by about 1 nat: three seeds
  cannot show differences as small as the margin.
* *Budget*: about 30 CPU minutes for digits and both tables, and two CPU hours for MNIST.
* A run fails as in studies/cost.py. A fraction with a failed run, where fraction 1 did not fail,
  is worse.

Profile `paper` makes these runs. `quick` has one seed of digits, and decides nothing.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

import pandas as pd

from pythae_fif.data.splits import Splits
from pythae_fif.reports.tables import Table
from pythae_fif.study import Study, StudyOptions, StudyPage
from studies.paired.comparison import (
    PRIOR_LABELS,
    Difference,
    compare,
    difference_cells,
    level_table,
    missing_seeds,
    restrict,
)
from studies.paired.training import (
    DIGITS,
    MINIBOONE,
    POWER,
    PRIORS,
    Arm,
    PairedTraining,
    PlannedTraining,
    Results,
    Task,
    Trainee,
    run_trainings,
)

TASKS = {
    "digits": DIGITS,
    "miniboone": MINIBOONE,
    "power": POWER,
    "mnist": Task(
        dataset="mnist", arch="resnet", latent_dim=16, epochs=12, batch_size=100,
        learning_rate=1e-4, precision="bfloat16",
    ),
}  # fmt: skip
SEEDS = {"digits": range(3), "miniboone": range(3), "power": range(3), "mnist": range(2)}
FRACTIONS = (1.0, 0.5, 0.25, 0.1)
MARGIN = 0.02
"""Nats per latent dimension."""


def fraction_arm(fraction: float) -> Arm:
    """Returns the arm of a fraction."""

    def build(task: Task, splits: Splits) -> Trainee:
        return Trainee(task.build_fif(splits, surrogate_fraction=fraction))

    return build


ARMS = {f"{fraction:g}": fraction_arm(fraction) for fraction in FRACTIONS}


class FractionTraining(PairedTraining):
    """A training with one fraction."""

    kind: ClassVar[str] = "surrogate_fraction"
    arms = ARMS


def plan_trainings(options: StudyOptions) -> Iterator[PlannedTraining]:
    """Yields the trainings of a profile, seed by seed. MNIST has the first seeds only."""
    names = ["digits"] if options.profile == "quick" else list(TASKS)
    for index, seed in enumerate(options.seeds):
        for name in names:
            if name != "mnist" or index < len(SEEDS[name]):
                yield from (PlannedTraining(TASKS[name], arm, seed) for arm in ARMS)


def judge(difference: Difference | None, margin: float) -> str:
    """Judges the difference of a fraction to 1 by the criterion.

    Args:
        difference: The fraction's likelihood minus that of 1, in nats; None without a pair.
        margin: The loss that is allowed, in nats.

    Returns:
        'not worse', 'not worse by the mean', 'worse by the mean', 'worse' or 'undecided'.
    """
    if difference is None or difference.seeds < 2:
        return "undecided"
    if difference.failures[0] > difference.failures[1]:
        return "worse"
    gap = difference.mean + margin
    verdict = "not worse" if gap >= 0 else "worse"
    return verdict if abs(gap) > difference.margin else f"{verdict} by the mean"


def fraction_table(results: Results) -> tuple[Table, dict[str, list[str]]]:
    """Compares every fraction with 1.

    Returns:
        The table, and the verdicts of each fraction.
    """
    lines = []
    verdicts: dict[str, list[str]] = {name: [] for name in list(ARMS)[1:]}
    for name, fraction_verdicts in verdicts.items():
        for dataset, task in TASKS.items():
            margin = MARGIN * task.latent_dim
            arms = results.get(dataset, {})
            for prior in PRIORS:
                difference = compare(arms.get(name, {}), arms.get("1", {}), prior)
                verdict = judge(difference, margin)
                fraction_verdicts.append(verdict)
                names = {"fraction": name, "data": dataset, "prior": PRIOR_LABELS[prior]}
                cells = {"allowed": f"-{margin:.2f}", **difference_cells(difference)}
                lines.append(names | cells | {"verdict": verdict})
    return Table("Fractions, minus 1", pd.DataFrame(lines)), verdicts


def recommend(verdicts: dict[str, list[str]]) -> str | None:
    """Returns the fraction that the criterion recommends.

    Args:
        verdicts: Fraction -> its verdicts on all data sets, the largest fraction first.

    Returns:
        The smallest fraction that is not worse, up to the first one that is worse; None if
        missing runs can change that.
    """
    recommended = "1"
    for name, fraction_verdicts in verdicts.items():
        if any(verdict.startswith("worse") for verdict in fraction_verdicts):
            return recommended
        if "undecided" in fraction_verdicts:
            return None
        recommended = name
    return recommended


def report(results: Results) -> str:
    """Makes the tables: the recommendation, differences and all arms."""
    criterion_results = restrict(results, SEEDS)
    table, verdicts = fraction_table(criterion_results)
    missing = ", ".join(missing_seeds(criterion_results, list(ARMS), SEEDS))
    recommended = recommend(verdicts)
    answer = f"**Undecided**: {missing}"
    if recommended is not None:
        answer = f"Smallest fraction for which the criterion holds: **{recommended}**"
        if missing:
            answer += f". The missing runs ({missing}) cannot change this"

    tables = [table]
    if results != criterion_results:
        further_table, _ = fraction_table(results)
        tables.append(replace(further_table, title="Fractions, minus 1, with further seeds"))
    labels = {name: f"surrogate_fraction {name}" for name in ARMS}
    tables.append(level_table(results, TASKS, labels))
    return "\n".join([f"## Verdict\n\n{answer}\n", *(item.to_markdown() for item in tables)])


def run_surrogate_fraction(options: StudyOptions) -> list[StudyPage]:
    """Trains with all fractions and recommends one."""
    results = run_trainings(FractionTraining, plan_trainings(options), options)
    name = "surrogate_fraction"
    if options.profile == "quick":
        name += "-quick"
    return [StudyPage(name, report(results))]


STUDY = Study(run_surrogate_fraction, seeds=(1, 3))
