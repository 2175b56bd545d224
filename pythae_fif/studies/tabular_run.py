"""A run of the tabular studies: models of rows, trained and scored, and the data and protocol."""

__all__ = ["LIKELIHOOD_ROWS", "Profile", "RowScores", "Table", "TabularModels", "row_scores"]

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pythae_fif.benchmark.models import configs_dir, read_yaml
from pythae_fif.data.splits import Splits
from pythae_fif.data.tables import load_tabular
from pythae_fif.errors import ConfigError, DataError, NonFiniteError, did_you_mean
from pythae_fif.evaluation import Features, frechet_distance
from pythae_fif.models import FIF, RectangularFlow
from pythae_fif.runs.record import Record
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import Run
from pythae_fif.studies.spec import StudySpec
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
        validation_wasserstein: As `wasserstein`, of validation rows.
        log_likelihood: Mean exact log-likelihood of the first test rows, in nats.
        seconds: Of the training, in processor time.
        cg_iterations: Mean conjugate gradient steps, None for FIF.
    """

    wasserstein: float
    reconstruction: float
    validation_wasserstein: float
    log_likelihood: float
    seconds: float
    cg_iterations: float | None


class TabularModels(StudySpec):
    """Models of one configuration, each with its learning rate, its seed and a record of its own.

    New runs are of one model; some that are committed are of several.
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
        models = zip(self.seeds, self.learning_rates, strict=True)
        return {f"scores/seed{seed}-{rate:g}.json": RowScores for seed, rate in models}

    def records(self, store: Store) -> list[Record[RowScores]]:
        """Those that are there, in the order of the models."""
        found = (store.record(self, name, RowScores) for name in self.outputs)
        return [record for record in found if record is not None]

    def run(self, run: Run) -> None:
        """Trains and scores the models.

        Raises:
            DataError: The table is not that of the plan.
        """
        run.tell("loading data")
        where, budget = self.where, self.budget
        splits = load_tabular(self.dataset, where.data_root, data=where.data)
        if splits.content_hash != self.data_hash:
            raise DataError(
                f"the table {self.dataset} changed since the plan was made: start the command again"
            )
        rows = torch.from_numpy(splits.train[: budget.train_size])
        for name, seed, rate in zip(self.outputs, self.seeds, self.learning_rates, strict=True):
            torch.manual_seed(seed)
            model = self.configuration.build(splits.input_dim, self.latent_dim, budget.nets)
            torch.manual_seed(seed)
            start = time.process_time()  # does not count when others have the machine
            settings, tell = self.configuration.settings, lambda of: run.tell("training", of)
            iterations = train(model, rows, budget, settings, rate, tell)
            seconds, scores = time.process_time() - start, row_scores(model, splits, seed)
            run.save(name, RowScores(**scores, seconds=seconds, cg_iterations=iterations))


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

    torch.manual_seed(seed)
    test, val = torch.from_numpy(splits.test), torch.from_numpy(splits.val)
    return {
        "wasserstein": distance(test),
        "reconstruction": float(squared_error(model.reconstruct(test), test).mean()),
        "validation_wasserstein": distance(val),
        "log_likelihood": finite(lambda: float(model.log_prob(test[:LIKELIHOOD_ROWS]).mean())),
    }


@dataclass(frozen=True)
class Table:
    """A loaded data set with the protocol that it is trained by, for a command's options."""

    splits: Splits
    latent_dim: int
    profile: Profile
    options: StudyOptions

    @classmethod
    def load(cls, options: StudyOptions) -> "Table":
        """The options' data set, by its YAML file in `benchmark_configs/tabular`.

        Raises:
            ConfigError: An unknown profile, or no latent dimension for `csv`.
            DataError: See :func:`~pythae_fif.data.tables.load_tabular`.
        """
        dataset, asked = str(options.dataset), options.profile
        path = configs_dir() / "tabular" / f"{dataset}.yaml"
        file = read_checked(_File, read_yaml(path), path.name)
        if asked not in file.profiles:
            hint = did_you_mean(asked, file.profiles)
            raise ConfigError(f"profile {asked!r} of {dataset}: {hint}")
        latent_dim = file.latent_dim if options.latent_dim is None else options.latent_dim
        if latent_dim is None:
            raise ConfigError(f"--dataset {dataset} needs --latent-dim")
        splits = load_tabular(dataset, options.data_root, data=options.data)
        return cls(splits, latent_dim, file.profiles[asked], options)

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

    def chosen(self, name: str, store: Store) -> list[TabularModels]:
        """All seeds at the best learning rate, once the trials are done."""
        rates, seeds = self.profile.own(name).learning_rates, self.options.seeds
        records = [record for run in self.trials(name, store) for record in run.records(store)]
        scores = [record.result.validation_wasserstein for record in records] or [0.0]
        best = int(np.where(np.isfinite(scores), scores, np.inf).argmin())
        return self.models(name, [rates[best]] * len(seeds), seeds, store)
