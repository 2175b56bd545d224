"""The runs of a tabular table, one learning rate chosen for each configuration, and step times."""

__all__ = ["STEP_NOTE", "Trained", "step_seconds", "train_configurations"]

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from pythae_fif.runs.engines.common import cores
from pythae_fif.runs.engines.local import LocalEngine
from pythae_fif.runs.kind import Finished
from pythae_fif.runs.provenance import provenance
from pythae_fif.studies import OnProgress, StudyOptions
from pythae_fif.studies.plan import finish
from pythae_fif.studies.tabular_protocol import CONFIGURATIONS, Configuration, Nets, Table
from pythae_fif.studies.tabular_run import TABULAR, TabularRecord, TabularSpec
from pythae_fif.training import keep_freed_memory

TIMED_BATCH = 512
ROUNDS = 15  # timed steps of each configuration; the first is not counted
STEP_NOTE = (
    f"ms a step: median of one training step of one fresh model of the paper's size, batch "
    f"{TIMED_BATCH}, K = 1, the models in turns, on the machine that trained, where this is it. "
    "CG steps: mean a Hutchinson vector, of at most d."
)
"""What the columns of a table mean that `step_seconds` and conjugate gradients fill."""


@dataclass(frozen=True)
class Trained(Finished[TabularSpec, TabularRecord]):
    """What the seeds of one configuration gave, at the learning rate that was chosen."""

    @property
    def configuration(self) -> Configuration:
        """Its configuration."""
        return CONFIGURATIONS[self.spec.configuration]


def train_configurations(
    names: Sequence[str],
    table: Table,
    options: StudyOptions,
    on_progress: OnProgress,
) -> list[Trained]:
    """Chooses each configuration's learning rate on validation rows and trains its seeds together.

    Of several rates, the first seed is trained at every one for the whole length, all together. A
    run that has a record is not repeated.

    Args:
        names: Keys of ``CONFIGURATIONS``.
        table: Data and protocol.
        options: Where the store and the data are, the seeds, and the engine; by default this
            machine trains one configuration at a time on all cores.
        on_progress: Is told what is done, and which share.

    Raises:
        RunsLeftError: Runs failed, or go on after the engine returned.
    """
    seeds = options.seeds
    rates = {name: table.profile.own(name).learning_rates for name in names}
    engine = options.engine or LocalEngine(gpus=[], cpus_per_run=cores())

    def tell(begin: float, length: float) -> OnProgress:
        name = table.splits.name
        return lambda label, share: on_progress(f"{name} {label}", begin + length * share)

    chosen, rest = {name: of[0] for name, of in rates.items()}, tell(0, 1)
    several = {name: of for name, of in rates.items() if len(of) > 1}
    trials = {name: _spec(name, table, of, [seeds[0]] * len(of)) for name, of in several.items()}
    if trials:
        tried = finish(TABULAR, trials, options, engine, tell(0, 0.5))
        chosen |= {name: _best(rates[name], run.record) for name, run in tried.items()}
        rest = tell(0.5, 0.5)
    specs = {name: _spec(name, table, [chosen[name]] * len(seeds), seeds) for name in names}
    finished = finish(TABULAR, specs, options, engine, rest)
    return [Trained(run.spec, run.record) for run in finished.values()]


def _spec(
    name: str, table: Table, learning_rates: Sequence[float], seeds: Sequence[int]
) -> TabularSpec:
    return TabularSpec(
        dataset=table.splits.name,
        configuration=name,
        data_hash=table.splits.content_hash,
        latent_dim=table.latent_dim,
        budget=table.profile.own(name).budget(),
        learning_rates=tuple(learning_rates),
        seeds=tuple(seeds),
    )


def _best(rates: Sequence[float], tried: TabularRecord) -> float:
    """The learning rate with the lowest FID-like score on validation rows."""
    scores = [v if math.isfinite(v) else math.inf for v in tried.validation_wasserstein]
    return rates[scores.index(min(scores))]


def step_seconds(runs: Sequence[Trained], table: Table) -> Mapping[str, float]:
    """Median time of one training step of one model of the paper's sizes, in turns.

    Steps are timed when a table is drawn: none where a run was trained on another machine.

    The models are freshly initialised, K is 1 and the batch the paper's 512. Conjugate gradients
    need more steps later in training, so the quotient is rather to a rectangular flow's advantage.

    Args:
        runs: Whose configurations are timed.
        table: Their data.

    Returns:
        Name of the configuration -> seconds.
    """
    here = provenance("cpu", time.time(), 0)
    if any(run.record.provenance.machine != here.machine for run in runs):
        return {}
    keep_freed_memory()
    names = [run.spec.configuration for run in runs]
    x = table.train[torch.arange(TIMED_BATCH) % len(table.train)]
    models, optimizers = {}, {}
    for name in names:
        torch.manual_seed(0)
        shape = table.splits.input_dim, table.latent_dim
        models[name] = CONFIGURATIONS[name].build(*shape, Nets()).train()
        optimizers[name] = torch.optim.Adam(models[name].parameters(), lr=1e-4, fused=True)
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name, model in models.items():
            start = time.perf_counter()
            optimizers[name].zero_grad()
            model({"data": x}).loss.backward()
            optimizers[name].step()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}
