"""What costs a FIF likelihood: the surrogate of the volume, or the objective.

All arms have the same networks with SiLU, first weights, data, batch size, learning rate and number
of steps. FIFs have `beta="auto"`. Every training keeps its epoch of lowest validation loss.

Method and criteria, fixed before the runs:

* *Arms*: see `ARMS`. *Tasks*: see `TASKS`. *Seeds*: 0 to 9, paired.
* *Measure*: the marginal log-likelihood (`marginal_log_prob`) of 2,000 test points, of all where
  there are fewer (MINIBOONE 1,927, digits 300), with the mixture and with the standard normal N.
  The noise's scale is each model's own, from validation data.
* *Better*: an arm beats another on a data set if the mean of its paired differences is above 0.1
  nats per latent dimension, and p is below 0.05. p is the two-sided one of the paired t-test that
  the difference is 0, over seeds, adjusted by Holm for the nine tests of a prior: three comparisons
  (exact encoder volume - FIF, two more decoder steps - FIF, AE - exact encoder volume) on three
  data sets.
* *The surrogate costs*: the exact encoder volume or the decoder steps beat FIF on two of three data
  sets. Both data sets need not have the same arm.
* *The objective costs*: AE beats the exact encoder volume on two of three data sets.
* Both verdicts are given for each prior. They hold after ten seeds of the arms that they compare,
  and before that they are "undecided". (Until 2026-12-02, when POWER had two seeds and MINIBOONE
  one, the criterion was ten seeds of all arms. The other arms do not enter the verdicts, and take
  half of the time.)
* A run fails if a loss or a likelihood is not finite, or if it reconstructs worse than the mean
  training point. A pair with a failed run is left out and counted. With fewer than eight pairs
  neither arm beats the other.
* All other comparisons are exploratory, with a separate Holm family for each prior.
* *Decoder steps are worth their time* for a prior if FIF with them is better than a FIF that trains
  `LONGER` times as long, as they do: its mean is higher on two of three data sets with p < 0.05 in
  the paired t-test over seeds 0 to 4 (Holm for three data sets), and lower with p < 0.05 on none.
  This question and its arm were added on 2026-12-02, after the results of all other arms.
* *Budget*: about four CPU hours for ten seeds, and half an hour for five of the longer trainings.

Profile `paper` makes these runs. `quick` has one seed of digits, and decides nothing.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import pandas as pd
import torch
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor

from pythae_fif import FIF
from pythae_fif.data import to_float
from pythae_fif.data.splits import Splits
from pythae_fif.evaluation.score_types import DASH
from pythae_fif.models.fitted_priors import MixturePrior, fit_new_prior
from pythae_fif.models.surrogate_choice import SURROGATES
from pythae_fif.reports.tables import Table
from pythae_fif.study import Study, StudyOptions, StudyPage
from pythae_fif.volume_change import log_volume, squared_error
from pythae_fif.volume_change.exact import decoder_jacobian, encoder_jacobian
from pythae_fif.volume_change.loss import Map, SurrogateOutput
from studies.paired.comparison import (
    PRIOR_LABELS,
    Difference,
    compare,
    difference_cells,
    format_p,
    holm,
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
    autoencoder,
    run_trainings,
)

TASKS = {
    "power": POWER,
    "miniboone": MINIBOONE.model_copy(update={"latent_dim": 8}),
    "digits": DIGITS,
}
SEEDS = dict.fromkeys(TASKS, range(10))
MIN_PAIRS = 8
MARGIN = 0.1
"""Nats per latent dimension."""
SIGNIFICANCE = 0.05

FIRST_STEPS = 300
"""Steps of a FIF, rounded up to epochs, from which `exact_decoder` starts: POWER's first epoch."""
LONGER = 1.65
"""Epochs of `longer`, relative to the other arms'. FIF with more decoder steps takes 1.56 (digits)
to 1.73 (MINIBOONE) times the processor time of FIF, by the first ten seeds."""
DECODER_STEPS = 2
DECODER_RATE = 0.3
"""Learning rate of these steps, relative to the training's."""
PRIOR_CODES = 5_000
"""First training points whose codes the prior of `refitted_prior` is fitted to."""


# -------------------------------------------------------------------------------- arms


def exact_encoder(encode: Map, decode: Map, x: Tensor, eps: Tensor, **_: Any) -> SurrogateOutput:
    """Returns -1/2 log det f'f'^T of each data point, with gradient, in place of the surrogate."""
    z = encode(x)
    return SurrogateOutput(-log_volume(encoder_jacobian(encode, x)), z, decode(z))


def exact_decoder(encode: Map, decode: Map, x: Tensor, eps: Tensor, **_: Any) -> SurrogateOutput:
    """Returns 1/2 log det g'^T g' at z = f(x), with gradient, in place of the surrogate."""
    z = encode(x)
    return SurrogateOutput(log_volume(decoder_jacobian(decode, z)), z, decode(z))


EXACT: dict[str, Callable[..., SurrogateOutput]] = {
    "exact encoder": exact_encoder,
    "exact decoder": exact_decoder,
}
SURROGATES.update(EXACT)


class LaterSurrogate(TrainingCallback):
    """Changes how a FIF computes its volume term, before the first epoch after `FIRST_STEPS`."""

    def __init__(self, model: FIF, task: Task, splits: Splits, mode: Any) -> None:
        self.model = model
        self.mode = mode
        self.first_epochs = math.ceil(FIRST_STEPS * task.batch_size / len(splits.train))

    def on_epoch_begin(self, training_config: Any, **kwargs: Any) -> None:
        if kwargs["epoch"] == self.first_epochs + 1:
            self.model.surrogate_mode = self.mode


class ExtraDecoderSteps(TrainingCallback):
    """Takes further steps of the decoder's reconstruction error after every step.

    They are Adam's without momentum: together with the momentum of the training's optimizer a
    second one doubled the error. The rate is the better of two by MINIBOONE's validation error
    (trials of 128 steps before the runs).
    """

    def __init__(self, model: FIF, task: Task, splits: Splits) -> None:
        self.model = model
        self.batch_size = task.batch_size
        self.data = to_float(splits.train)
        self.generator = torch.Generator().manual_seed(0)
        self.optimizer = torch.optim.Adam(
            model.decoder.parameters(),
            lr=DECODER_RATE * task.learning_rate,
            betas=(0.0, 0.999),
            fused=True,
        )

    def on_train_step_end(self, training_config: Any, **kwargs: Any) -> None:
        for _ in range(DECODER_STEPS):
            indices = torch.randint(len(self.data), (self.batch_size,), generator=self.generator)
            x = self.data[indices]
            noise = torch.randn(x.shape, generator=self.generator)
            x = x + self.model.model_config.noise * noise
            with torch.no_grad():
                z = self.model.encoder(x)["embedding"]

            self.optimizer.zero_grad()
            squared_error(self.model.decoder(z)["reconstruction"], x).mean().backward()
            self.optimizer.step()


class RefittedPrior(TrainingCallback):
    """Refits the prior to standardised codes before every epoch from the second on."""

    def __init__(self, model: FIF, splits: Splits) -> None:
        self.model = model
        self.data = to_float(splits.train[:PRIOR_CODES])

    def on_epoch_begin(self, training_config: Any, **kwargs: Any) -> None:
        if kwargs["epoch"] > 1:
            self.model.prior = standardised_mixture(self.model.encode(self.data))


def standardised_mixture(codes: Tensor) -> MixturePrior:
    """Fits a mixture to codes (N, d), and maps it to mean 0 and the identity as covariance.

    The map is symmetric. So a prior with the right mean and covariance stays as it is.
    """
    mixture = fit_new_prior("mixture", codes)
    assert isinstance(mixture, MixturePrior)
    mean, covariance = mixture.moments()
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    whitening = (vectors * eigenvalues.rsqrt()) @ vectors.T

    covariances = mixture.scale_trils.double() @ mixture.scale_trils.double().mT
    scale_trils = torch.linalg.cholesky(whitening @ covariances @ whitening)
    mixture.means.copy_((mixture.means.double() - mean) @ whitening)
    mixture.scale_trils.copy_(scale_trils)
    return mixture


def fif(task: Task, splits: Splits) -> Trainee:
    return Trainee(task.build_fif(splits))


def fif_all_directions(task: Task, splits: Splits) -> Trainee:
    return Trainee(task.build_fif(splits, hutchinson_samples=task.latent_dim))


def exact_encoder_volume(task: Task, splits: Splits) -> Trainee:
    model = task.build_fif(splits)
    model.surrogate_mode = "exact encoder"
    return Trainee(model)


def exact_decoder_volume(task: Task, splits: Splits) -> Trainee:
    model = task.build_fif(splits)
    return Trainee(model, [LaterSurrogate(model, task, splits, "exact decoder")])


def more_decoder_steps(task: Task, splits: Splits) -> Trainee:
    model = task.build_fif(splits)
    return Trainee(model, [ExtraDecoderSteps(model, task, splits)])


def refitted_prior(task: Task, splits: Splits) -> Trainee:
    model = task.build_fif(splits)
    model.prior = MixturePrior(task.latent_dim, 10, 0)  # the standard normal, until it is fitted
    return Trainee(model, [RefittedPrior(model, splits)])


ARMS: dict[str, Arm] = {
    "fif": fif,
    "all_directions": fif_all_directions,
    "exact_encoder": exact_encoder_volume,
    "exact_decoder": exact_decoder_volume,
    "decoder_steps": more_decoder_steps,
    "ae": autoencoder,
    "refitted_prior": refitted_prior,
    "longer": fif,
}
ARM_LABELS = {
    "fif": "(a) FIF, K = 1",
    "all_directions": "(b) FIF, K = d",
    "exact_encoder": "(c) exact -1/2 log det f'f'^T",
    "exact_decoder": "(d) exact 1/2 log det g'^T g', from step 300",
    "decoder_steps": "(e) FIF, two more decoder steps per step",
    "ae": "(f) AE",
    "refitted_prior": "(g) FIF, prior refitted at every epoch",
    "longer": "(h) FIF, K = 1, as long a training as (e)",
}


class CostTraining(PairedTraining):
    """A training of one arm."""

    kind: ClassVar[str] = "cost"
    arms = ARMS


CONFIRMATORY = [("exact_encoder", "fif"), ("decoder_steps", "fif"), ("ae", "exact_encoder")]
PRICE = ("decoder_steps", "longer")
PRICE_SEEDS = dict.fromkeys(TASKS, range(5))
EXPLORATORY = [
    ("all_directions", "fif"),
    ("exact_decoder", "fif"),
    ("refitted_prior", "fif"),
    ("ae", "fif"),
    ("ae", "refitted_prior"),
]


SEEDS_OF_EXPLORATORY_ARMS = {
    "power": {"all_directions": 3, "exact_decoder": 3, "refitted_prior": 2},
    "miniboone": {"all_directions": 2, "exact_decoder": 2, "refitted_prior": 2},
    "digits": {"all_directions": 3, "exact_decoder": 3, "refitted_prior": 3},
}
"""Seeds of the arms that no verdict needs, as far as time allowed."""


def plan_trainings(options: StudyOptions) -> Iterator[PlannedTraining]:
    """Yields the trainings of a profile, seed by seed."""
    names = ["digits"] if options.profile == "quick" else list(TASKS)
    for index, seed in enumerate(options.seeds):
        for name in names:
            seed_counts = SEEDS_OF_EXPLORATORY_ARMS[name] | {"longer": len(PRICE_SEEDS[name])}
            for arm in ARMS:
                if index < seed_counts.get(arm, len(options.seeds)):
                    yield PlannedTraining(_task_of_arm(name, arm), arm, seed)


def _task_of_arm(name: str, arm: str) -> Task:
    """Returns the task with the arm's number of epochs."""
    task = TASKS[name]
    factor = LONGER if arm == "longer" else 1
    return task.model_copy(update={"epochs": round(factor * task.epochs)})


# -------------------------------------------------------------------------------- report


class Comparison(NamedTuple):
    """A comparison of two arms on a data set.

    Attributes:
        task: Name of the task.
        arms: The arm that may be better, and the other.
        difference: Their difference; None without a pair.
        p: The difference's p, adjusted by Holm.
    """

    task: str
    arms: tuple[str, str]
    difference: Difference | None
    p: float

    @property
    def margin(self) -> float:
        """The least difference that counts, in nats."""
        return MARGIN * TASKS[self.task].latent_dim

    @property
    def is_better(self) -> bool:
        """Whether the first arm beats the second, by the criterion."""
        difference = self.difference
        if difference is None or difference.seeds < MIN_PAIRS:
            return False
        return difference.mean > self.margin and self.p < SIGNIFICANCE


def compare_arms(results: Results, pairs: list[tuple[str, str]], prior: str) -> list[Comparison]:
    """Makes a family of comparisons, with p-values adjusted by Holm."""
    places = [(task, pair) for pair in pairs for task in TASKS]
    differences = []
    for task, (first, second) in places:
        arms = results.get(task, {})
        differences.append(compare(arms.get(first, {}), arms.get(second, {}), prior))

    p_values = holm([math.nan if item is None else item.p for item in differences])
    return [
        Comparison(task, pair, difference, p)
        for (task, pair), difference, p in zip(places, differences, p_values, strict=True)
    ]


def verdicts(comparisons: list[Comparison], missing: list[str]) -> Iterator[str]:
    """Yields the verdict of each question, by the criteria of the module's docstring.

    Args:
        comparisons: The confirmatory comparisons of a prior.
        missing: What is not finished.
    """
    questions = {"The surrogate costs": CONFIRMATORY[:2], "The objective costs": CONFIRMATORY[2:]}
    for question, pairs in questions.items():
        tasks = {item.task for item in comparisons if item.arms in pairs and item.is_better}
        answer = "yes" if len(tasks) >= 2 else "no"
        if missing:
            answer = f"undecided: {', '.join(missing)}"
        names = ", ".join(sorted(tasks)) or "none"
        yield f"{question}: **{answer}** (data sets where the criterion is met: {names})"


def judge_price(comparisons: list[Comparison], missing: list[str]) -> str:
    """Returns the verdict on whether decoder steps are worth their time.

    Args:
        comparisons: `PRICE` on all data sets.
        missing: What is not finished.
    """
    if missing:
        return f"undecided: {', '.join(missing)}"
    decided = [
        item.difference.mean
        for item in comparisons
        if item.difference is not None and item.p < SIGNIFICANCE
    ]
    is_worth = min(decided, default=0.0) > 0 and len(decided) >= 2
    return "yes" if is_worth else "no"


def comparison_table(title: str, comparisons: list[Comparison]) -> Table:
    """Makes a table of comparisons."""
    lines = []
    for item in comparisons:
        names = {
            "data": item.task,
            "arm": ARM_LABELS[item.arms[0]],
            "minus": ARM_LABELS[item.arms[1]],
            "needed": f"{item.margin:.1f}",
        }
        cells = difference_cells(item.difference)
        cells["p (Holm)"] = DASH if item.difference is None else format_p(item.p)
        cells["beats"] = "yes" if item.is_better else "no"
        lines.append(names | cells)
    return Table(title, pd.DataFrame(lines))


def report(results: Results) -> str:
    """Makes the tables: verdicts, comparisons and arms."""
    compared_arms = [arm for pair in CONFIRMATORY for arm in pair]
    missing = missing_seeds(results, compared_arms, SEEDS)

    parts = []
    for prior in PRIORS:
        label = PRIOR_LABELS[prior]

        confirmatory = compare_arms(results, CONFIRMATORY, prior)
        answers = "".join(f"* {answer}\n" for answer in verdicts(confirmatory, missing))
        parts.append(f"## Verdicts, {label}\n\n{answers}")
        parts.append(comparison_table(f"Criterion, {label}", confirmatory).to_markdown())

        price = compare_arms(restrict(results, PRICE_SEEDS), [PRICE], prior)
        answer = judge_price(price, missing_seeds(results, list(PRICE), PRICE_SEEDS))
        parts.append(f"Decoder steps are worth their time, {label}: **{answer}**\n")

        table = comparison_table(f"Decoder steps, {label}", price)
        cells = table.cells.drop(columns=["needed", "beats"])
        parts.append(replace(table, cells=cells).to_markdown())

        exploratory = compare_arms(results, EXPLORATORY, prior)
        parts.append(comparison_table(f"Exploratory, {label}", exploratory).to_markdown())

    parts.append(level_table(results, TASKS, ARM_LABELS).to_markdown())
    return "\n".join(parts)


def run_cost(options: StudyOptions) -> list[StudyPage]:
    """Trains all arms and answers the questions."""
    results = run_trainings(CostTraining, plan_trainings(options), options)
    name = "cost" if options.profile == "paper" else f"cost-{options.profile}"
    return [StudyPage(name, report(results))]


STUDY = Study(run_cost, seeds=(1, 10))
