"""A run of the tabular studies: models of rows, trained and scored, and the data and protocol."""

__all__ = ["LIKELIHOOD_ROWS", "Profile", "Table", "TabularModels", "row_scores"]

import math
import time
from collections.abc import Mapping, Sequence
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
from pythae_fif.validation import Each, name_of, read_checked
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


class TabularModels(StudySpec):
    """Models of one configuration, each with its learning rate, its seed and a record of its own.

    New runs are of one model; some that are committed are of several.
    """

    kind: ClassVar[str] = "tabular"

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
    def outputs(self) -> Mapping[str, type]:
        """Scores of each model."""
        models = zip(self.seeds, self.learning_rates, strict=True)
        return {f"scores/seed{seed}-{rate:g}.json": dict for seed, rate in models}

    def records(self, store: Store) -> list[Record[dict[str, Any]]]:
        """Those that are there, in the order of the models."""
        found = (store.record(self, name, dict) for name in self.outputs)
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
            costs = {"seconds": time.process_time() - start, "cg_iterations": iterations}
            run.save(name, row_scores(model, splits, seed) | costs)


@torch.no_grad()
def row_scores(model: FIF | RectangularFlow, splits: Splits, seed: int) -> dict[str, Any]:
    """A model's scores; NaN where it gives no finite numbers.

    Returns:
        `wasserstein` and `validation_wasserstein`, squared W2 with as many samples as test or
        validation rows; `reconstruction`, the squared error a test row; `log_likelihood`, exact, of
        the first test rows, in nats.
    """

    def distance(rows: Tensor) -> float:
        samples = model.sample(len(rows))
        try:
            return frechet_distance(Features(samples), Features(rows))
        except NonFiniteError:
            return math.nan

    torch.manual_seed(seed)
    test, val = torch.from_numpy(splits.test), torch.from_numpy(splits.val)
    try:
        log_likelihood = float(model.log_prob(test[:LIKELIHOOD_ROWS]).mean())
    except NonFiniteError:
        log_likelihood = math.nan
    return {
        "wasserstein": distance(test),
        "reconstruction": float(squared_error(model.reconstruct(test), test).mean()),
        "validation_wasserstein": distance(val),
        "log_likelihood": log_likelihood,
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
        file = read_yaml(path)
        profiles, latent_dim = file["profiles"], options.latent_dim or file["latent_dim"]
        if asked not in profiles:
            raise ConfigError(f"profile {asked!r} of {dataset}: {did_you_mean(asked, profiles)}")
        if latent_dim is None:
            raise ConfigError(f"--dataset {dataset} needs --latent-dim")
        splits = load_tabular(dataset, options.data_root, data=options.data)
        return cls(splits, latent_dim, read_checked(Profile, profiles[asked], path.name), options)

    def models(
        self, name: str, learning_rates: list[float], seeds: Sequence[int], store: Store
    ) -> list[TabularModels]:
        """Runs of a configuration: one a model, or the one of all that a store has."""
        own = self.profile.own(name)
        together = TabularModels(
            dataset=self.splits.name,
            configuration=CONFIGURATIONS[name],
            data_hash=self.splits.content_hash,
            latent_dim=self.latent_dim,
            budget=Budget(**{key: getattr(own, key) for key in Budget.model_fields}),
            learning_rates=learning_rates,
            seeds=list(seeds),
            where=self.options.where,
        )
        if store.is_done(together):
            return [together]
        models = zip(learning_rates, seeds, strict=True)
        each = [{"learning_rates": [rate], "seeds": [seed]} for rate, seed in models]
        return [together.model_copy(update=one) for one in each]

    def trials(self, name: str, store: Store) -> list[TabularModels]:
        """The first seed at every learning rate; none where there is one alone."""
        rates = self.profile.own(name).learning_rates
        seeds = [self.options.seeds[0]] * len(rates)
        return self.models(name, rates, seeds, store) if len(rates) > 1 else []

    def chosen(self, name: str, store: Store) -> list[TabularModels]:
        """All seeds at the best learning rate, once the trials are done."""
        rates, seeds = self.profile.own(name).learning_rates, self.options.seeds
        records = [record for run in self.trials(name, store) for record in run.records(store)]
        scores = [record.result["validation_wasserstein"] for record in records] or [0.0]
        best = int(np.where(np.isfinite(scores), scores, np.inf).argmin())
        return self.models(name, [rates[best]] * len(seeds), seeds, store)
