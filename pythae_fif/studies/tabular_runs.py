"""Trains, scores and times the tabular configurations; a finished one is never trained again."""

__all__ = ["Run", "run_configurations", "step_seconds"]

import hashlib
import json
import logging
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR

from pythae_fif.ensemble.ensemble import Ensemble
from pythae_fif.ensemble.stacked import StackedFlows
from pythae_fif.errors import NonFiniteError
from pythae_fif.evaluation.wasserstein import squared_wasserstein
from pythae_fif.files import set_aside, write_json
from pythae_fif.models.hutchinson import HutchinsonModel
from pythae_fif.runs.provenance import provenance
from pythae_fif.runs.records import is_intact, seal
from pythae_fif.runs.store import read_record
from pythae_fif.studies.tabular_protocol import (
    CONFIGURATIONS,
    WEIGHT_DECAY,
    Configuration,
    Nets,
    Table,
)
from pythae_fif.training import keep_freed_memory

logger = logging.getLogger(__name__)

SCHEMA = 2
TIMED_BATCH = 512
LIKELIHOOD_ROWS = 1000
SCORES = (
    "wasserstein", "reconstruction", "validation_wasserstein", "validation_reconstruction",
    "code_square", "log_likelihood",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What the seeds of one configuration gave.

    Attributes:
        name: A key of ``CONFIGURATIONS``.
        learning_rates: The cycle's highest, of each seed.
        wasserstein: Squared W2 of each seed, with as many samples as test rows; NaN if diverged.
        reconstruction: Squared error a test row of each seed.
        validation_wasserstein, validation_reconstruction: The same on validation rows.
        log_likelihood: Mean exact log-likelihood of the first test rows of each seed, in nats.
        code_square: Mean |z|^2 / d of each seed's codes of validation rows; the prior's is 1.
        seconds: Processor time of the training of all seeds together.
        cg_iterations: Mean conjugate gradient steps, None for FIF.
        parameters: Of one model.
        device: Where it was trained.
    """

    name: str
    learning_rates: list[float]
    wasserstein: list[float]
    reconstruction: list[float]
    validation_wasserstein: list[float]
    validation_reconstruction: list[float]
    code_square: list[float]
    log_likelihood: list[float]
    seconds: float
    cg_iterations: float | None
    parameters: int
    device: str

    @property
    def configuration(self) -> Configuration:
        """Its configuration."""
        return CONFIGURATIONS[self.name]


def run_configurations(
    names: Sequence[str],
    table: Table,
    seeds: Sequence[int],
    results: Path,
    on_progress: Callable[[str, float], None],
) -> list[Run]:
    """Chooses each configuration's learning rate on validation rows and trains its seeds together.

    Of several rates, the first seed is trained at every one for the whole length, all together. A
    training that has a record is not repeated.

    Args:
        names: Keys of ``CONFIGURATIONS``.
        table: Data and protocol.
        seeds: Of initial weights, data order, noise and Hutchinson vectors.
        results: Folder below which ``runs/`` holds the records.
        on_progress: Is told what is done, and which share.
    """
    keep_freed_memory()
    rates = table.profile.learning_rates
    parts = 2 if len(rates) > 1 else 1
    runs = []
    for index, name in enumerate(names):

        def train(part: int, rates: list[float], seeds: list[int], name: str, index: int) -> Run:
            def tell(share: float) -> None:
                label = f"{table.splits.name} {name}"
                on_progress(label, (index + (part + share) / parts) / len(names))

            return _recorded(name, rates, table.of(name), seeds, results, tell)

        best = rates[0]
        if len(rates) > 1:
            tried = train(0, rates, [seeds[0]] * len(rates), name, index)
            scores = [v if math.isfinite(v) else math.inf for v in tried.validation_wasserstein]
            best = rates[scores.index(min(scores))]
        runs.append(train(parts - 1, [best] * len(seeds), list(seeds), name, index))
    return runs


def _recorded(
    name: str,
    learning_rates: list[float],
    table: Table,
    seeds: Sequence[int],
    results: Path,
    on_share: Callable[[float], None],
) -> Run:
    """The run of a record, which is made where there is none, or none that is whole."""
    specification = {
        "schema": SCHEMA,
        "configuration": asdict(CONFIGURATIONS[name]),
        "data": table.splits.content_hash,
        "latent_dim": table.latent_dim,
        "profile": table.profile.model_dump(exclude={"note", "learning_rates", "epochs_of"}),
        "learning_rates": learning_rates,
        "seeds": list(seeds),
    }
    key = hashlib.sha256(json.dumps(specification, sort_keys=True).encode()).hexdigest()[:12]
    folder = results / "runs" / table.splits.name / name / key
    path = folder / "result.json"
    record = read_record(path)
    if not _is_whole(record, specification):
        if record is not None:
            aside = set_aside(path)
            logger.warning("%s is not a whole record: set aside as %s", path, aside.name)
        trained = _train(name, learning_rates, table, seeds, folder, on_share)
        record = seal({"specification": specification, **trained})
        write_json(path, record)
    on_share(1.0)
    content = {
        **record,
        "name": name,
        "learning_rates": learning_rates,
        "device": record["provenance"]["device"],
    }
    return Run(**{field.name: content[field.name] for field in fields(Run)})


def _is_whole(record: Any, specification: dict[str, Any]) -> bool:
    """Whether this is the record of that training, with every number that tables need.

    One that was changed since it was sealed is not; one of before there were seals may be.
    """
    try:
        scores = [record[key] for key in SCORES]
        numbers = [record["seconds"], record["parameters"], *chain.from_iterable(scores)]
        return (
            record["specification"] == specification
            and all(len(values) == len(specification["seeds"]) for values in scores)
            and all(isinstance(number, (int, float)) for number in numbers)
            and isinstance(record["cg_iterations"], (int, float, type(None)))
            and isinstance(record["provenance"]["device"], str)
            and is_intact(record) is not False
        )
    except (KeyError, TypeError):
        return False


def _train(
    name: str,
    learning_rates: list[float],
    table: Table,
    seeds: Sequence[int],
    folder: Path,
    on_share: Callable[[float], None],
) -> dict[str, Any]:
    configuration, profile = CONFIGURATIONS[name], table.profile
    models = []
    for seed in seeds:
        torch.manual_seed(seed)
        models.append(configuration.build(table.splits.input_dim, table.latent_dim, profile.nets))
    started = time.time()
    ensemble = (StackedFlows if configuration.net == "coupling" else Ensemble)(models, seeds)
    start = time.process_time()  # of all threads; does not count when others have the machine
    ensemble.train(
        table.train,
        epochs=profile.epochs,
        batch_size=profile.batch_size,
        learning_rate=learning_rates,
        weight_decay=WEIGHT_DECAY,
        schedule=lambda optimizer, steps: OneCycleLR(
            optimizer, max_lr=max(learning_rates), total_steps=steps
        ),
        on_epoch=lambda epoch: on_share(epoch / profile.epochs),
    )
    seconds = time.process_time() - start
    members = ensemble.members()
    scores = [_scores(model, table, seed) for model, seed in zip(members, seeds, strict=True)]
    for model, seed, rate in zip(members, seeds, learning_rates, strict=True):
        model.save(str(folder / "model" / f"seed{seed}-{rate:g}"))
    return {
        **{key: [score[key] for score in scores] for key in scores[0]},
        "steps": table.steps,
        "seconds": seconds,
        "cg_iterations": getattr(ensemble, "cg_iterations", None),
        "backend": getattr(ensemble, "backend", "eager"),
        "parameters": sum(parameter.numel() for parameter in models[0].parameters()),
        "provenance": provenance("cpu", started),
    }


@torch.no_grad()
def _scores(model: HutchinsonModel, table: Table, seed: int) -> dict[str, float]:
    """A model's scores; NaN where it gives no finite numbers."""

    def finite(compute: Callable[[], float]) -> float:
        try:
            return compute()
        except NonFiniteError:
            return math.nan

    def distance(rows: Tensor) -> float:
        samples = model.sample(len(rows))
        return finite(lambda: squared_wasserstein(samples, rows))

    def error(rows: Tensor) -> float:
        return float((model.reconstruct(rows) - rows).square().sum(1).mean())

    torch.manual_seed(seed)
    test, val = table.test, table.val
    return {
        "wasserstein": distance(test),
        "reconstruction": error(test),
        "validation_wasserstein": distance(val),
        "validation_reconstruction": error(val),
        "code_square": float(model.embed(val).square().mean()),
        "log_likelihood": finite(lambda: float(model.log_prob(test[:LIKELIHOOD_ROWS]).mean())),
    }


def step_seconds(runs: Sequence[Run], table: Table, rounds: int = 15) -> dict[str, float]:
    """Median time of one training step of one model of the paper's sizes, in turns.

    The models are freshly initialised, K is 1 and the batch the paper's 512. Conjugate gradients
    need more steps later in training, so the quotient is rather to a rectangular flow's advantage.

    Args:
        runs: Configurations to time.
        table: Their data.
        rounds: Steps of each; the first is not counted.

    Returns:
        Name of the configuration -> seconds.
    """
    x = table.train[torch.arange(TIMED_BATCH) % len(table.train)]
    steps = {}
    for run in runs:
        torch.manual_seed(0)
        model = run.configuration.build(table.splits.input_dim, table.latent_dim, Nets()).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

        def step(model: HutchinsonModel = model, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            model({"data": x}).loss.backward()
            optimizer.step()

        steps[run.name] = step
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}
