"""A run of the tabular studies: models of rows, trained and scored, and the data and protocol."""

__all__ = ["LIKELIHOOD_ROWS", "Profile", "RowScores", "Table", "TabularModels", "row_scores"]

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pythae_fif.benchmark.models import configs_dir, names_in, read_yaml
from pythae_fif.data.splits import Splits
from pythae_fif.data.tables import load_tabular
from pythae_fif.errors import ConfigError, DataError, NonFiniteError, did_you_mean
from pythae_fif.evaluation import Features, frechet_distance
from pythae_fif.files import checksum
from pythae_fif.models import FIF, RectangularFlow
from pythae_fif.runs.record import Record
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import Run
from pythae_fif.studies.spec import StudySpec, Tell
from pythae_fif.studies.study import StudyOptions
from pythae_fif.studies.tabular_models import CONFIGURATIONS, Budget, Configuration, train
from pythae_fif.validation import AtLeastOne, Checked, Each, name_of, read_checked
from pythae_fif.volume_change import squared_error

LIKELIHOOD_ROWS = 1000


class Profile(Budget):
    """How long every configuration trains, and at which learning rates.

    Attributes:
        note: What this is, and is not.
        learning_rates: The cycle's highest learning rate, ascending. Of several, each configuration
            takes the one at which its first seed has the lowest FID-like score on validation rows.
        of: Configuration -> keys of this class that are others for it.
    """

    note: str
    learning_rates: Each[float]
    of: dict[Annotated[str, name_of(lambda: CONFIGURATIONS)], dict[str, Any]] = Field(default={})

    def own(self, configuration: str) -> "Profile":
        """That of one configuration."""
        return Profile(**{**dict(self), **self.of.get(configuration, {})})


class _File(Checked):
    latent_dim: AtLeastOne | None
    profiles: dict[str, Profile]


@dataclass(frozen=True)
class RowScores:
    """What a model reached; NaN where it diverged.

    Attributes:
        wasserstein: Squared W2, with as many samples as test rows.
        reconstruction: Squared error a test row.
        validation_wasserstein, validation_reconstruction: The same on validation rows.
        code_square: Mean |z|^2 / d of the codes of validation rows; the prior's is 1.
        log_likelihood: Mean exact log-likelihood of the first test rows, in nats.
        steps: Of the training.
        seconds: Processor time of the training.
        cg_iterations: Mean conjugate gradient steps, None for FIF.
        parameters: Of the model.
    """

    wasserstein: float
    reconstruction: float
    validation_wasserstein: float
    validation_reconstruction: float
    code_square: float
    log_likelihood: float
    steps: int
    seconds: float
    cg_iterations: float | None
    parameters: int


class TabularModels(StudySpec):
    """Everything that defines the results of the models of one configuration.

    Each has a record of its own, so that an interrupt loses no model that is trained.

    Attributes:
        dataset: Name of the table.
        configuration: What is trained.
        data_hash: Of the table's rows.
        latent_dim: d.
        budget: Of the training.
        learning_rates: Of each model; a cycle's highest.
        seeds: Of each model's initial weights, data order, noise and Hutchinson vectors.
    """

    kind: ClassVar[str] = "tabular"
    on_cpu: ClassVar[bool] = True

    dataset: str
    configuration: Configuration
    data_hash: str
    latent_dim: int
    budget: Budget
    learning_rates: list[float]
    seeds: list[int]

    @property
    def folder(self) -> str:
        """`studies/tabular/<dataset>/<configuration>`."""
        return f"studies/tabular/{self.dataset}/{self.configuration.name}"

    @property
    def title(self) -> str:
        """Table and configuration."""
        return f"{self.dataset} {self.configuration.name}"

    @property
    def outputs(self) -> Mapping[str, type]:
        """Scores of each model."""
        return dict.fromkeys(self.members, RowScores)

    @property
    def members(self) -> list[str]:
        """The record's name of each model."""
        pairs = zip(self.seeds, self.learning_rates, strict=True)
        return [f"scores/seed{seed}-{rate:g}.json" for seed, rate in pairs]

    def records(self, store: Store) -> list[Record[RowScores]]:
        """Those that are there, in the order of the models."""
        found = (store.record(self, name, RowScores) for name in self.members)
        return [record for record in found if record is not None]

    def run(self, run: Run) -> None:
        """Trains and scores the models that have no record.

        Raises:
            DataError: The table is not that of the plan.
        """
        run.tell("loading data")
        where, count = self.where, len(self.seeds)
        splits = load_tabular(self.dataset, where.data_root, data=where.data)
        if splits.content_hash != self.data_hash:
            raise DataError(
                f"the table {self.dataset} changed since the plan was made: start the command again"
            )
        for number, (name, seed, rate) in enumerate(
            zip(self.members, self.seeds, self.learning_rates, strict=True)
        ):
            if run.load(name, RowScores) is not None:
                continue

            def tell(share: float, number: int = number) -> None:
                run.tell("training", (number + share) / count)

            model, scores = self.trained(splits, seed, rate, tell)
            folder = Path("model", Path(name).stem)
            model.save(str(run.folder / folder))
            saved = sorted((run.folder / folder).iterdir())
            run.save(
                name, scores, {(folder / file.name).as_posix(): checksum(file) for file in saved}
            )

    def trained(
        self, splits: Splits, seed: int, learning_rate: float, tell: Tell = lambda share: None
    ) -> tuple[FIF | RectangularFlow, RowScores]:
        """A model with its scores."""
        budget, settings = self.budget, self.configuration.settings
        torch.manual_seed(seed)
        model = self.configuration.build(splits.input_dim, self.latent_dim, budget.nets)
        rows = torch.from_numpy(splits.train[: budget.train_size])
        torch.manual_seed(seed)
        start = time.process_time()  # of all threads; does not count when others have the machine
        iterations = train(model, rows, budget, settings, learning_rate, tell)
        scores = RowScores(
            seconds=time.process_time() - start,
            cg_iterations=iterations,
            steps=budget.epochs * (len(rows) // min(len(rows), budget.batch_size)),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            **row_scores(model, splits, seed),
        )
        return model, scores


@torch.no_grad()
def row_scores(model: FIF | RectangularFlow, splits: Splits, seed: int) -> dict[str, float]:
    """A model's scores; NaN where it gives no finite numbers."""

    def finite(compute: Callable[[], float]) -> float:
        try:
            return compute()
        except NonFiniteError:
            return math.nan

    def distance(rows: Tensor) -> float:
        samples = model.sample(len(rows))
        return finite(lambda: frechet_distance(Features(samples), Features(rows)))

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


@dataclass(frozen=True)
class Table:
    """A loaded data set with the protocol that it is trained by.

    Attributes:
        splits: Its rows.
        latent_dim: d.
        profile: The protocol.
        name: Of the data in the names of files: with file and content if it is your own, and with d
            if that is not the data set's own.
        options: Of the study.
    """

    splits: Splits
    latent_dim: int
    profile: Profile
    name: str
    options: StudyOptions

    @classmethod
    def load(cls, dataset: str, options: StudyOptions) -> "Table":
        """A data set by its YAML file in `benchmark_configs/tabular` and the command's options.

        Raises:
            ConfigError: An unknown data set or profile, or no latent dimension for `csv`.
            DataError: See :func:`~pythae_fif.data.tables.load_tabular`.
        """
        if dataset not in names_in("tabular"):
            hint = did_you_mean(dataset, names_in("tabular"))
            raise ConfigError(f"table {dataset!r} is unknown: {hint}")
        path = configs_dir() / "tabular" / f"{dataset}.yaml"
        file = read_checked(_File, read_yaml(path), path.name)
        if options.profile not in file.profiles:
            hint = did_you_mean(options.profile, file.profiles)
            raise ConfigError(f"profile {options.profile!r} of {dataset}: {hint}")
        latent_dim = file.latent_dim if options.latent_dim is None else options.latent_dim
        if latent_dim is None:
            raise ConfigError(f"--dataset {dataset} needs --latent-dim")
        splits = load_tabular(dataset, options.data_root, data=options.data)
        if options.data is not None:
            stem = re.sub(r"[^\w.]+", "_", Path(options.data).stem)
            dataset += f"-{stem}-{splits.content_hash[:6]}"
        name = dataset if latent_dim == file.latent_dim else f"{dataset}-d{latent_dim}"
        return cls(splits, latent_dim, file.profiles[options.profile], name, options)

    def models(
        self, name: str, learning_rates: Sequence[float], seeds: Sequence[int], store: Store
    ) -> list[TabularModels]:
        """Runs of a configuration: one a model, or the one of all that a store has."""
        own = self.profile.own(name)

        def run(learning_rates: Sequence[float], seeds: Sequence[int]) -> TabularModels:
            return TabularModels(
                dataset=self.splits.name,
                configuration=CONFIGURATIONS[name],
                data_hash=self.splits.content_hash,
                latent_dim=self.latent_dim,
                budget=Budget(**{key: getattr(own, key) for key in Budget.model_fields}),
                learning_rates=list(learning_rates),
                seeds=list(seeds),
                where=self.options.where,
            )

        together = run(learning_rates, seeds)
        if store.is_done(together):
            return [together]
        return [run([rate], [seed]) for rate, seed in zip(learning_rates, seeds, strict=True)]

    def trials(self, name: str, store: Store) -> list[TabularModels]:
        """The first seed at every learning rate; none where there is one alone."""
        rates = self.profile.own(name).learning_rates
        seeds = [self.options.seeds[0]] * len(rates)
        return self.models(name, rates, seeds, store) if len(rates) > 1 else []

    def chosen(self, name: str, store: Store) -> list[TabularModels] | None:
        """All seeds at the best learning rate; None as long as of several none can be chosen."""
        rates, seeds = self.profile.own(name).learning_rates, self.options.seeds
        best = 0
        if trials := self.trials(name, store):
            records = [record for run in trials for record in run.records(store)]
            if len(records) < len(rates):
                return None
            scores = [record.result.validation_wasserstein for record in records]
            best = int(np.where(np.isfinite(scores), scores, np.inf).argmin())
        return self.models(name, [rates[best]] * len(seeds), seeds, store)
