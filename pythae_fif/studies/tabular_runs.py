"""Trains, scores and times the tabular configurations; a finished one is never trained again."""

__all__ = [
    "CONFIGURATIONS",
    "Configuration",
    "Nets",
    "Profile",
    "Run",
    "Table",
    "load_table",
    "run_configurations",
    "step_seconds",
]

import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR

from pythae_fif.benchmark.config import configs_dir, read_yaml
from pythae_fif.benchmark.provenance import provenance
from pythae_fif.data.tabular import TabularSplits, load_tabular
from pythae_fif.errors import ConfigError, NonFiniteError, did_you_mean
from pythae_fif.evaluation.wasserstein import squared_wasserstein
from pythae_fif.models import FIF, FIFConfig, RectangularFlow, RectangularFlowConfig
from pythae_fif.nn.coupling import build_coupling
from pythae_fif.nn.tabular import TabularDecoder, TabularEncoder
from pythae_fif.studies import StudyOptions
from pythae_fif.trainers.checkpoint import write_whole
from pythae_fif.trainers.ensemble import Ensemble
from pythae_fif.trainers.stacked import StackedFlows

SCHEMA = 1
SEEDS = [0, 1, 2, 3, 4]
BETA, NOISE, WEIGHT_DECAY = 10.0, 0.01, 1e-4  # appendix E.2
TIMED_BATCH = 512
LIKELIHOOD_ROWS = 1000


@dataclass(frozen=True)
class Configuration:
    """A row of tables 1 and 6.

    Attributes:
        label: Its name in tables.
        model: ``fif`` or ``rectangular_flow``, whose estimator it uses.
        net: ``free-form`` or ``coupling``.
        jacobian_at: ``data`` (off-manifold) or ``reconstruction`` (on-manifold).
    """

    label: str
    model: str
    net: str
    jacobian_at: str

    def build(self, input_dim: tuple[int, ...], latent_dim: int, nets: "Nets") -> FIF:
        """A freshly initialised model; seed torch before calling."""
        shape: dict[str, Any] = {"input_dim": input_dim, "latent_dim": latent_dim}
        choices: dict[str, Any] = {"beta": BETA, "noise": NOISE, "jacobian_at": self.jacobian_at}
        if self.net == "free-form":
            networks = (
                TabularEncoder(**shape, hidden_dim=nets.hidden_dim),
                TabularDecoder(**shape, hidden_dim=nets.hidden_dim),
            )
            return FIF(FIFConfig(**shape, **choices), *networks)
        flow = build_coupling(
            **shape,
            data_blocks=nets.data_blocks,
            latent_blocks=nets.latent_blocks,
            hidden_dim=nets.block_dim,
        )
        if self.model == "rectangular_flow":
            return RectangularFlow(RectangularFlowConfig(**shape, **choices), *flow)
        return FIF(FIFConfig(**shape, **choices), *flow)


CONFIGURATIONS = {
    "fif": Configuration("FIF", "fif", "free-form", "data"),
    "fif_on": Configuration("FIF", "fif", "free-form", "reconstruction"),
    "fif_coupling": Configuration("FIF", "fif", "coupling", "data"),
    "rectangular_flow_off": Configuration("RF", "rectangular_flow", "coupling", "data"),
    "fif_coupling_on": Configuration("FIF", "fif", "coupling", "reconstruction"),
    "rectangular_flow": Configuration("RF", "rectangular_flow", "coupling", "reconstruction"),
}
"""In the order of table 6; ``fif`` and ``rectangular_flow`` are table 1's."""


class Nets(BaseModel):
    """Sizes of the free-form and the coupling nets; the defaults are the paper's.

    Attributes:
        hidden_dim: Width of the free-form nets.
        data_blocks, latent_blocks, block_dim: Of the coupling flow, about as many parameters.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    hidden_dim: int = 256
    data_blocks: int = 10
    latent_blocks: int = 5
    block_dim: int = 160


class Profile(BaseModel):
    """How long every configuration trains: Adam with one cycle of the learning rate.

    Attributes:
        note: What this is, and is not.
        epochs, batch_size, learning_rate: The learning rate is the cycle's highest.
        coupling_learning_rate: Of configurations with the coupling flow, if another one.
        train_size: First training rows that are used; all if None.
        nets: Sizes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    note: str
    epochs: int
    batch_size: int
    learning_rate: float
    coupling_learning_rate: float | None = None
    train_size: int | None = None
    nets: Nets = Nets()


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str
    latent_dim: int | None
    profiles: dict[str, Profile]


@dataclass(frozen=True)
class Table:
    """A loaded data set with the protocol that it is trained by.

    Attributes:
        splits: Its rows.
        latent_dim: d.
        profile: The protocol.
    """

    splits: TabularSplits
    latent_dim: int
    profile: Profile

    @property
    def train(self) -> Tensor:
        """The rows that are trained on, (N, D)."""
        return torch.from_numpy(self.splits.train[: self.profile.train_size])

    @property
    def test(self) -> Tensor:
        """The rows that are scored on."""
        return torch.from_numpy(self.splits.test)

    @property
    def steps(self) -> int:
        """Training steps of a run."""
        rows = len(self.train)
        return self.profile.epochs * (rows // min(rows, self.profile.batch_size))


def load_table(dataset: str, options: StudyOptions) -> Table:
    """A data set by its YAML file in ``benchmark_configs/tabular`` and the command's options.

    Raises:
        ConfigError: An unknown data set or profile, or no latent dimension for ``csv``.
        DataError: See :func:`~pythae_fif.data.tabular.load_tabular`.
    """
    path = configs_dir() / "tabular" / f"{dataset}.yaml"
    if not path.is_file():
        valid = sorted(file.stem for file in path.parent.glob("*.yaml"))
        raise ConfigError(f"table {dataset!r} is unknown: {did_you_mean(dataset, valid)}")
    file = _File(**read_yaml(path))
    if options.profile not in file.profiles:
        raise ConfigError(
            f"profile {options.profile!r} of {dataset}: "
            f"{did_you_mean(options.profile, file.profiles)}"
        )
    latent_dim = options.latent_dim or file.latent_dim
    if latent_dim is None:
        raise ConfigError(f"--dataset {dataset} needs --latent-dim")
    splits = load_tabular(dataset, options.data_root, data=options.data, latent_dim=latent_dim)
    return Table(splits, latent_dim, file.profiles[options.profile])


@dataclass(frozen=True)
class Run:
    """What the seeds of one configuration gave.

    Attributes:
        name: A key of ``CONFIGURATIONS``.
        wasserstein: Squared W2 of each seed, with as many samples as test rows; NaN if diverged.
        reconstruction: Squared error a test row of each seed.
        log_likelihood: Mean exact log-likelihood of the first test rows of each seed, in nats.
        seconds: Training time of all seeds together.
        cg_iterations: Mean conjugate gradient steps, None for FIF.
        parameters: Of one model.
        device: Where it was trained.
    """

    name: str
    wasserstein: list[float]
    reconstruction: list[float]
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
    """Trains what has no record yet, the seeds of a configuration together.

    Args:
        names: Keys of ``CONFIGURATIONS``.
        table: Data and protocol.
        seeds: Of initial weights, data order, noise and Hutchinson vectors.
        results: Folder below which ``runs/`` holds the records.
        on_progress: Is told what is done, and which share.
    """
    runs = []
    for index, name in enumerate(names):
        specification = {
            "schema": SCHEMA,
            "configuration": asdict(CONFIGURATIONS[name]),
            "data": table.splits.content_hash,
            "latent_dim": table.latent_dim,
            "profile": table.profile.model_dump(exclude={"note"}),
            "seeds": list(seeds),
        }
        key = hashlib.sha256(json.dumps(specification, sort_keys=True).encode()).hexdigest()[:12]
        folder = results / "runs" / table.splits.name / name / key
        record = folder / "result.json"
        label = f"{table.splits.name} {name}"
        if not record.is_file():

            def tell(share: float, label: str = label, index: int = index) -> None:
                on_progress(label, (index + share) / len(names))

            content = {"specification": specification, **_train(name, table, seeds, folder, tell)}
            text = json.dumps(content, indent=1, allow_nan=True)
            write_whole(record, lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]
        on_progress(label, (index + 1) / len(names))
        content = json.loads(record.read_text())
        fields = ("wasserstein", "reconstruction", "log_likelihood", "seconds", "cg_iterations")
        runs.append(
            Run(
                name=name,
                parameters=content["parameters"],
                device=content["provenance"]["device"],
                **{field: content[field] for field in fields},
            )
        )
    return runs


def _train(
    name: str,
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
    free_form = configuration.net == "free-form"
    ensemble = (Ensemble if free_form else StackedFlows)(models, seeds)
    learning_rate = profile.learning_rate
    if not free_form:
        learning_rate = profile.coupling_learning_rate or learning_rate
    start = time.perf_counter()
    ensemble.train(
        table.train,
        epochs=profile.epochs,
        batch_size=profile.batch_size,
        learning_rate=learning_rate,
        weight_decay=WEIGHT_DECAY,
        schedule=lambda optimizer, steps: OneCycleLR(
            optimizer, max_lr=learning_rate, total_steps=steps
        ),
        on_epoch=lambda epoch: on_share(epoch / profile.epochs),
    )
    seconds = time.perf_counter() - start
    members = ensemble.members()
    scores = [_scores(model, table.test, seed) for model, seed in zip(members, seeds, strict=True)]
    for model, seed in zip(members, seeds, strict=True):
        model.save(str(folder / "model" / f"seed{seed}"))
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
def _scores(model: FIF, test: Tensor, seed: int) -> dict[str, float]:
    """A model's scores on test rows; NaN where it gives no finite numbers."""

    def finite(compute: Callable[[], float]) -> float:
        try:
            return compute()
        except NonFiniteError:
            return math.nan

    torch.manual_seed(seed)
    samples = model.sample(len(test))
    return {
        "wasserstein": finite(lambda: squared_wasserstein(samples, test)),
        "reconstruction": float((model.reconstruct(test) - test).square().sum(1).mean()),
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

        def step(model: FIF = model, optimizer: Any = optimizer) -> None:
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
