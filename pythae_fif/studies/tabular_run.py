"""A run of the tabular studies: the seeds of one configuration, trained together and scored."""

__all__ = ["LIKELIHOOD_ROWS", "TABULAR", "TabularRecord", "TabularSpec"]

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pythae_fif import __version__
from pythae_fif.data.splits import Splits
from pythae_fif.data.tabular import load_tabular
from pythae_fif.device import default_device, random_state, set_random_state
from pythae_fif.ensemble import one_cycle
from pythae_fif.errors import NonFiniteError
from pythae_fif.evaluation.frechet import squared_wasserstein
from pythae_fif.models import FIF
from pythae_fif.runs.execute import interrupted_here
from pythae_fif.runs.folder import RunFolder
from pythae_fif.runs.kind import Job, Kind, require_planned, run_id_of
from pythae_fif.runs.provenance import provenance
from pythae_fif.runs.record import Record
from pythae_fif.studies.tabular_protocol import CONFIGURATIONS, Budget
from pythae_fif.training.checkpoint import CHECKPOINT_NAME, RunFiles
from pythae_fif.validation import Checked, name_of
from pythae_fif.volume_change import squared_error

SCHEMA = 2
LIKELIHOOD_ROWS = 1000
CHECKPOINT_SECONDS = 30.0


class TabularSpec(Checked):
    """Everything that defines the result of the models of one configuration.

    Attributes:
        dataset: Name of the table.
        configuration: A key of ``CONFIGURATIONS``.
        data_hash: Of the table's rows.
        latent_dim: d.
        budget: Of the training.
        learning_rates: Of each model; a cycle's highest.
        seeds: Of each model's initial weights, data order, noise and Hutchinson vectors.
    """

    dataset: str
    configuration: Annotated[str, name_of(lambda: CONFIGURATIONS)]
    data_hash: str
    latent_dim: int
    budget: Budget
    learning_rates: tuple[float, ...] = Field(strict=False)  # a list in YAML
    seeds: tuple[int, ...] = Field(strict=False)

    @property
    def run_id(self) -> str:
        """Twelve hexadecimal digits of a hash of the specification and the schema version."""
        return run_id_of(
            {
                "schema": SCHEMA,
                "configuration": CONFIGURATIONS[self.configuration].identity(),
                "data": self.data_hash,
                "latent_dim": self.latent_dim,
                "profile": self.budget.identity(),
                "learning_rates": self.learning_rates,
                "seeds": self.seeds,
            }
        )

    @property
    def folder(self) -> str:
        """`<dataset>/<configuration>`."""
        return f"{self.dataset}/{self.configuration}"


class TabularRecord(Record):
    """What the models of one configuration reached, in the order of their seeds.

    Attributes:
        wasserstein: Squared W2, with as many samples as test rows; NaN if diverged.
        reconstruction: Squared error a test row.
        validation_wasserstein, validation_reconstruction: The same on validation rows.
        code_square: Mean |z|^2 / d of the codes of validation rows; the prior's is 1.
        log_likelihood: Mean exact log-likelihood of the first test rows, in nats.
        steps: Of the training.
        seconds: Processor time of the training of all models together.
        cg_iterations: Mean conjugate gradient steps, None for FIF.
        backend: How it was trained.
        parameters: Of one model.
    """

    SCORES = frozenset(
        {"wasserstein", "reconstruction", "validation_wasserstein", "log_likelihood"}
    )

    schema_version: Literal[2] = Field(2, alias="schema")
    wasserstein: list[float] = Field(min_length=1)
    reconstruction: list[float]
    validation_wasserstein: list[float]
    validation_reconstruction: list[float]
    code_square: list[float]
    log_likelihood: list[float]
    steps: int
    seconds: float
    cg_iterations: float | None
    backend: str
    parameters: int

    @model_validator(mode="after")
    def _has_every_score(self) -> "TabularRecord":
        scores = [value for value in vars(self).values() if isinstance(value, list)]
        if len({len(of_models) for of_models in scores}) != 1:
            raise ValueError("a score of some model is missing")
        return self


def work(job: Job[TabularSpec, TabularRecord]) -> None:
    """Trains and scores the models of a run, and writes them and their record.

    A training that was cut off goes on from its last checkpoint.

    Raises:
        DataError: The table is not that of the plan.
    """
    spec, folder = job.spec, job.folder
    folder.tell("running", "loading data")
    splits = _splits_of(job)
    train = torch.from_numpy(splits.train[: spec.budget.train_size])
    configuration, budget = CONFIGURATIONS[spec.configuration], spec.budget
    models = []
    for seed in spec.seeds:
        torch.manual_seed(seed)
        models.append(configuration.build(splits.input_dim, spec.latent_dim, budget.nets))

    trained = _train(models, train, spec, folder)
    folder.tell("running", "scoring", 1.0)
    members = [model.cpu().eval() for model in models]
    scores = [_scores(model, splits, seed) for model, seed in zip(members, spec.seeds, strict=True)]
    folder.check()
    for model, seed, rate in zip(members, spec.seeds, spec.learning_rates, strict=True):
        model.save(str(folder.path / "model" / f"seed{seed}-{rate:g}"))
    job.write_record(
        TabularRecord(
            run_id=spec.run_id,
            **{name: [of_model[name] for of_model in scores] for name in scores[0]},
            steps=budget.epochs * (len(train) // min(len(train), budget.batch_size)),
            seconds=trained.seconds,
            cg_iterations=trained.iterations / trained.steps if trained.iterations else None,
            backend="eager",
            parameters=sum(parameter.numel() for parameter in models[0].parameters()),
            provenance=provenance(default_device(), job.started, folder.attempt),
        )
    )
    folder.check()
    (folder.path / CHECKPOINT_NAME).unlink(missing_ok=True)


@dataclass
class _Trained:
    """How far the training of all models is, one after the other.

    Attributes:
        member, epoch: Of the training that goes on; the epochs that it has done.
        steps: That all have done.
        seconds: Processor time of them.
        iterations: Of conjugate gradients, a vector's mean summed over the steps.
    """

    member: int = 0
    epoch: int = 0
    steps: int = 0
    seconds: float = 0.0
    iterations: float = 0.0


def _train(
    models: list[FIF], train: Tensor, spec: TabularSpec, folder: RunFolder
) -> _Trained:
    """Trains the models, from the run's checkpoint where there is one."""
    budget, settings = spec.budget, CONFIGURATIONS[spec.configuration].settings
    device, version = default_device(), f"torch {torch.__version__}, pythae-fif {__version__}"
    made_by = {"run_id": folder.run_id, "device": device, "version": version}
    train, size = train.to(device), min(len(train), budget.batch_size)
    whole = len(train) // size * size

    def begun_in(checkpoint: dict[str, Any]) -> dict[str, Any]:
        if not made_by.items() <= checkpoint.items():
            raise ValueError("of another run, device or version")
        return checkpoint

    begun: Any = RunFiles(folder.path, folder.run_id).read_checkpoint(begun_in)
    done = _Trained(**begun["done"]) if begun else _Trained()
    for model, weights in zip(models, begun["weights"] if begun else (), strict=False):
        model.load_state_dict(weights)
    kept = time.monotonic()
    with interrupted_here() as check_interrupt:
        for member in range(done.member, len(models)):
            model, rate = models[member].to(device).train(), spec.learning_rates[member]
            optimizer = torch.optim.Adam(
                model.parameters(), lr=rate, weight_decay=settings.weight_decay, fused=True
            )
            steps = budget.epochs * (whole // size)
            schedule = one_cycle(optimizer, steps) if settings.one_cycle else None
            torch.manual_seed(spec.seeds[member])
            if begun and member == done.member:
                optimizer.load_state_dict(begun["optimizer"])
                if schedule:
                    schedule.load_state_dict(begun["schedule"])
                set_random_state(begun["random"])
            done.epoch = done.epoch if member == done.member else 0
            done.member = member

            def keep() -> None:
                content = {
                    **made_by,
                    "done": asdict(done),
                    "weights": [of.state_dict() for of in models],
                    "optimizer": optimizer.state_dict(),  # noqa: B023 - called at once
                    "schedule": schedule.state_dict() if schedule else None,  # noqa: B023
                    "random": random_state(),
                }
                folder.write(CHECKPOINT_NAME, lambda file: torch.save(content, file))

            for epoch in range(done.epoch + 1, budget.epochs + 1):
                start = time.process_time()  # not when others have the machine
                weight = budget.likelihood_weight(epoch)
                for rows in torch.randperm(len(train))[:whole].split(size):
                    out = model({"data": train[rows]}, epoch=epoch)
                    loss = weight * out.nll_loss + model.model_config.beta * out.recon_loss
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    if schedule:
                        schedule.step()
                    done.steps += 1
                    found = getattr(model, "cg_iterations", None)
                    done.iterations += 0.0 if found is None else found.double().mean().item()
                done.epoch, done.seconds = epoch, done.seconds + time.process_time() - start
                share = (member + epoch / budget.epochs) / len(models)
                folder.tell("running", "training", share)
                if time.monotonic() - kept >= CHECKPOINT_SECONDS:
                    keep()
                    kept = time.monotonic()
                try:
                    check_interrupt()
                except KeyboardInterrupt:
                    keep()
                    raise
    return done


def _splits_of(job: Job[TabularSpec, TabularRecord]) -> Splits:
    spec, where = job.spec, job.environment
    splits = load_tabular(
        spec.dataset, where.data_root, data=where.data, latent_dim=spec.latent_dim
    )
    require_planned(f"the table {spec.dataset}", splits.content_hash, spec.data_hash)
    return splits


@torch.no_grad()
def _scores(model: FIF, splits: Splits, seed: int) -> dict[str, float]:
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
        return float(squared_error(model.reconstruct(rows), rows).mean())

    torch.manual_seed(seed)
    test, val = torch.from_numpy(splits.test), torch.from_numpy(splits.val)
    return {
        "wasserstein": distance(test),
        "reconstruction": error(test),
        "validation_wasserstein": distance(val),
        "validation_reconstruction": error(val),
        "code_square": float(model.embed(val).square().mean()),
        "log_likelihood": finite(lambda: float(model.log_prob(test[:LIKELIHOOD_ROWS]).mean())),
    }


TABULAR = Kind("tabular", SCHEMA, TabularSpec.model_validate, TabularRecord, work)
"""Runs of tables 1, 5, 6 and 7."""
