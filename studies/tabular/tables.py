"""Tables 1 and 5: FIF and rectangular flows on tabular data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from pydantic import Field

from pythae_fif.benchmark.models import configs_dir, read_yaml
from pythae_fif.data.sets.papamakarios import load_tabular
from pythae_fif.data.splits import Splits
from pythae_fif.errors import ConfigError, check_choice, pluralized
from pythae_fif.evaluation.distances import energy_distance
from pythae_fif.reports.compared import read_published_table
from pythae_fif.reports.tables import DASH, number
from pythae_fif.study import StudyOptions, StudyReport, collect_results
from pythae_fif.validation import UniqueList, one_of, read_checked
from studies.tabular.models import (
    CONFIGURATIONS,
    RF_CODE,
    TabularBudget,
    TabularModel,
)
from studies.tabular.scores import SCORED_ROWS, fid_like

MODELS = {
    "fif": "FIF",
    "rectangular_flow": "RF",
    "flow_matching": "flow matching",
    "gaussian": "one Gaussian",
    "ppca": "probabilistic PCA",
}
CLOSED_FORM = ["gaussian", "ppca"]
"""Configurations that are fitted without training steps, and have no learning rate."""
FURTHER_COLUMNS = {
    "FID-like, with noise ↓": ("noisy_wasserstein", 1.0),
    "1,000 × energy distance ↓": ("energy", 1e3),
    "1,000 × energy distance, with noise ↓": ("noisy_energy", 1e3),
    "log-likelihood in data space ↑": ("data_log_likelihood", 1.0),
}
"""Heading -> score that not every model has, and a factor."""

ModelPlan = tuple[str, float, int]
"""Configuration, learning rate and seed of one model."""


class TabularProfile(TabularBudget):
    """The length of every configuration's training, and its learning rates.

    Attributes:
        note: What the profile is for and what it leaves out.
        learning_rates: Peaks of the one-cycle schedule, ascending.
        overrides: Configuration -> keys of this class with other values for it.
    """

    note: str
    learning_rates: UniqueList[float]
    overrides: dict[Annotated[str, one_of(lambda: CONFIGURATIONS)], dict[str, Any]] = Field(
        default={}
    )

    def for_configuration(self, configuration: str) -> "TabularProfile":
        """Returns the profile with the overrides of one configuration."""
        return TabularProfile(**{**dict(self), **self.overrides.get(configuration, {})})


@dataclass(frozen=True)
class TabularProtocol:
    """A loaded data set and its training protocol.

    Attributes:
        splits: The data.
        latent_dim: Latent dimension of all models.
        profile: The chosen profile.
        options: The study's options.
    """

    splits: Splits
    latent_dim: int
    profile: TabularProfile
    options: StudyOptions

    @classmethod
    def load(cls, options: StudyOptions) -> "TabularProtocol":
        """Loads the data set of the options and its YAML file in `benchmark_configs/tabular`.

        Raises:
            ConfigError: An unknown profile, or no latent dimension for `csv`.
            DataError: See :func:`~pythae_fif.data.sets.papamakarios.load_tabular`.
        """
        dataset = str(options.dataset)
        path = configs_dir() / "tabular" / f"{dataset}.yaml"
        file = read_yaml(path)
        profiles = file["profiles"]
        check_choice(options.profile, profiles, f"profile {options.profile!r} of {dataset}")

        latent_dim = options.latent_dim or file["latent_dim"]
        if latent_dim is None:
            raise ConfigError(f"--dataset {dataset} needs --latent-dim")

        splits = load_tabular(dataset, options.location.data_root, data=options.location.data)
        (columns,) = splits.input_dim
        if latent_dim > columns:
            raise ConfigError(f"--latent-dim {latent_dim}: {dataset} has {columns} columns")

        profile = read_checked(TabularProfile, profiles[options.profile], path.name)
        return cls(splits, latent_dim, profile, options)

    def plan_run(self, name: str, learning_rate: float, seed: int) -> TabularModel:
        """Returns the run of one model.

        Args:
            name: A key of `CONFIGURATIONS`.
            learning_rate: Its learning rate.
            seed: Its seed.
        """
        profile = self.profile.for_configuration(name)
        return TabularModel(
            dataset=self.splits.name,
            configuration=CONFIGURATIONS[name],
            data_hash=self.splits.content_hash,
            latent_dim=self.latent_dim,
            budget=TabularBudget(
                **{key: getattr(profile, key) for key in TabularBudget.model_fields}
            ),
            learning_rate=learning_rate,
            seed=seed,
            location=self.options.location,
        )


def train_configurations(protocol: TabularProtocol, names: list[str]) -> pd.DataFrame:
    """Trains all seeds of configurations, each at the best of its learning rates.

    Args:
        protocol: The data set and its protocol.
        names: Keys of `CONFIGURATIONS`.

    Returns:
        One row for each model: `configuration`, `learning_rate`, `seed`, and its scores.
    """

    def score(models: list[ModelPlan]) -> pd.DataFrame:
        specs = [protocol.plan_run(*model) for model in models]
        results = collect_results(specs, protocol.options)
        frame = pd.DataFrame(models, columns=["configuration", "learning_rate", "seed"])
        return frame.join(pd.DataFrame(results))

    seeds = protocol.options.seeds
    best_rates = {}
    trials = []
    for name in names:
        rates = [0.0]
        if name not in CLOSED_FORM:
            rates = protocol.profile.for_configuration(name).learning_rates
        best_rates[name] = rates[0]
        if len(rates) > 1:
            trials += [(name, rate, seeds[0]) for rate in rates]

    if trials:
        scores = score(trials).fillna({"validation_wasserstein": np.inf})
        best = scores.loc[scores.groupby("configuration").validation_wasserstein.idxmin()]
        best_rates |= dict(zip(best.configuration, best.learning_rate, strict=True))

    return score([(name, best_rates[name], seed) for name in names for seed in seeds])


def run_tabular(options: StudyOptions) -> list[StudyReport]:
    """Trains the models of tables 1 and 5: FIF, rectangular flows and Gaussians by default."""
    caption = (
        "All models train on the same rows and equally long, unless a row says otherwise. The "
        "speedup is the CPU ms a step of the rectangular flow divided by those of the model."
    )
    models = ["fif", "rectangular_flow", *CLOSED_FORM]
    return [compare_with_published("tabular", models, caption, options)]


def compare_with_published(
    study: str, default: list[str], caption: str, options: StudyOptions
) -> StudyReport:
    """Trains configurations and compares their scores with the published ones.

    Args:
        study: Name of the study.
        default: Keys of `CONFIGURATIONS` that are trained unless the options name others.
        caption: Sentences below the table.
        options: The study's options.

    Raises:
        ConfigError: An unknown configuration, or see :meth:`TabularProtocol.load`.
        DataError: See :func:`~pythae_fif.data.sets.papamakarios.load_tabular`.
        FailedRunsError: Runs failed.
    """
    protocol = TabularProtocol.load(options)
    names = [*(options.models or default)]
    for name in names:
        check_choice(name, CONFIGURATIONS, f"model {name!r} has no tabular study")

    splits = protocol.splits
    scores = train_configurations(protocol, names)
    train_size = len(splits.train[: protocol.profile.train_size])
    step_times = _milliseconds_per_step(protocol, scores, train_size)

    groups = scores.groupby("configuration", sort=False)
    lines = [_score_line(str(name), group, step_times) for name, group in groups]
    table = pd.DataFrame(lines)
    table = table.drop(columns=[name for name in FURTHER_COLUMNS if (table[name] == DASH).all()])
    if not options.location.data:
        published = [_read_published(str(name), splits.name) for name, _ in groups]
        table = table.join(pd.DataFrame(published))

    data_note = (
        f"Data: {splits.source} ({splits.content_hash}); trained on {train_size:,} rows, d = "
        f"{protocol.latent_dim}, {pluralized(len(options.seeds), 'seed')}. "
        f"Profile `{options.profile}`: {protocol.profile.note}."
    )
    return StudyReport(
        f"{study}-{splits.name}-{options.profile}",
        f"{splits.name}, profile {options.profile}",
        caption,
        table,
        scores.drop(columns="errors"),
        notes=[data_note, *splits.notes, _describe_real_rows(splits), *_read_notes()],
    )


def _read_notes() -> list[str]:
    """Returns the notes below every table, a line of the template for each."""
    template = Path(__file__).with_name("notes.txt").read_text(encoding="utf-8")
    return template.format(scored_rows=SCORED_ROWS).splitlines()


def _describe_real_rows(splits: Splits) -> str:
    """Returns a note with the scores of training rows in place of samples."""
    test = torch.from_numpy(splits.test)
    train = torch.from_numpy(splits.train[: len(test)])
    distance, distance_error = fid_like(train, test)
    energy, energy_error = energy_distance(train[:SCORED_ROWS], test[:SCORED_ROWS])
    return (
        f"For comparison: as many training rows in place of samples have an FID-like score of "
        f"{number(distance)} ({number(distance_error)}) and 1,000 times their energy distance is "
        f"{number(1e3 * energy)} ({number(1e3 * energy_error)})."
    )


def _milliseconds_per_step(
    protocol: TabularProtocol, scores: pd.DataFrame, train_size: int
) -> "pd.Series[float]":
    """Returns the mean CPU time of a training step of every trained configuration, in ms."""
    trained = scores[~scores.configuration.isin(CLOSED_FORM)]
    seconds = trained.groupby("configuration").seconds.mean()
    steps = {
        name: protocol.profile.for_configuration(str(name)).steps(train_size)
        for name in seconds.index
    }
    return 1e3 * seconds / pd.Series(steps)


def _score_line(name: str, scores: pd.DataFrame, step_times: "pd.Series[float]") -> dict[str, str]:
    """Returns the line of one configuration, from the scores of its models."""
    configuration = CONFIGURATIONS[name]
    has_manifold = bool(configuration.jacobian_at)
    further_cells = {}
    for heading, (score, factor) in FURTHER_COLUMNS.items():
        has_score = any(score in errors for errors in scores.errors)
        further_cells[heading] = _score_cell(scores, score, factor) if has_score else DASH

    step_time = step_times.get(name, np.nan)
    return {
        "model": MODELS[configuration.model],
        "net": configuration.net,
        "Jacobian": configuration.place,
        "FID-like ↓": _score_cell(scores, "wasserstein"),
        **further_cells,
        "squared error ↓": (
            spread(scores.reconstruction) if has_manifold or name == "ppca" else DASH
        ),
        "log-likelihood on the manifold ↑": (
            _score_cell(scores, "log_likelihood") if has_manifold else DASH
        ),
        "CPU ms a step": number(step_time),
        "speedup ↑": number(step_times.get("rectangular_flow", np.nan) / step_time),
        "CG steps": number(pd.to_numeric(scores.cg_iterations).mean()),
        "learning rate": DASH if name in CLOSED_FORM else f"{scores.learning_rate.iloc[0]:g}",
    }


def _score_cell(scores: pd.DataFrame, score: str, factor: float = 1.0) -> str:
    """Returns a score's mean and spread over seeds, and its standard error by the test rows.

    Args:
        scores: The scores of a configuration's models.
        score: Name of the score.
        factor: Factor of the values.
    """
    errors = [errors[score] for errors in scores.errors if score in errors]
    return f"{spread(factor * scores[score])} ({number(factor * float(np.mean(errors)))})"


def _read_published(name: str, dataset: str) -> dict[str, str]:
    """Returns the paper's numbers for a configuration."""
    configuration = CONFIGURATIONS[name]
    if configuration.settings == RF_CODE:
        published_name = "rf"
        distance = published_value(1, dataset=dataset, model="rf")
    else:
        published_name = name
        distance = published_value(
            6,
            dataset=dataset,
            model="fif" if configuration.model == "fif" else "rf",
            net=configuration.net.replace("coupling", "coupling flow"),
            estimator=configuration.place,
        )

    speedup = published_value(1, dataset=dataset, metric="speedup")
    return {
        "published FID-like": distance,
        "published speedup": speedup if name == "fif" else DASH,
        "published min": published_value(
            5, dataset=dataset, model=published_name, metric="training time"
        ),
    }


def spread(values: "pd.Series[float]") -> str:
    """Returns mean and standard deviation over seeds, or how many values are not finite."""
    diverged = (~np.isfinite(values)).sum()
    if diverged:
        return f"diverged ({diverged} of {len(values)})"
    return number(values.mean(), values.std())


def published_value(table: int, **filters: str) -> str:
    """Returns the published number with these values in its columns, or a dash if none has."""
    cells = read_published_table(table)
    for column, value in filters.items():
        cells = cells[cells[column] == value]
    return cells.text.iloc[-1] if len(cells) else DASH
