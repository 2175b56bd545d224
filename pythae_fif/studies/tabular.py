"""Tables 1, 5, 6 and 7: FIF and rectangular flows on tabular data."""

import math
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field

from pythae_fif.benchmark.models import configs_dir, read_yaml
from pythae_fif.data.splits import Splits
from pythae_fif.data.tables import load_tabular
from pythae_fif.errors import ConfigError, did_you_mean, pluralized
from pythae_fif.reports.compared import read_published_table
from pythae_fif.reports.tables import DASH, number
from pythae_fif.runs.launch import OnChange
from pythae_fif.runs.store import Store
from pythae_fif.studies.spec import StudyReport, collect_results
from pythae_fif.studies.study import StudyOptions
from pythae_fif.studies.tabular_models import CONFIGURATIONS, RF_CODE, TabularBudget, TabularModels
from pythae_fif.validation import UniqueList, one_of, read_checked

MODELS = {"fif": "FIF", "rectangular_flow": "RF", "flow_matching": "flow matching"}
NOTES = (
    "Of several learning rates a row has the one at which the first seed has the lowest FID-like "
    "score on the validation rows. FID-like is the squared Wasserstein-2 distance of Gaussian "
    "fits; log-likelihood is exact, on the manifold, in nats, of the first 1,000 test rows.",
    "CPU ms a step: in training at this profile's sizes; CG steps: mean a Hutchinson vector.",
    "Settings are of appendix E.2, with ReLU; FIF's released code has SiLU, and which of the two "
    "the published numbers are of is not told. The net with tanh has the settings of RF's own "
    "code; the other RF rows train as FIF does. Eq. 10 has gradient through the projection; to "
    "detach it is ours. Published numbers are of the full data and training, on a GPU.",
)


class TabularProfile(TabularBudget):
    """How long every configuration trains, and at which learning rates.

    Attributes:
        note: What this is, and is not.
        learning_rates: The cycle's highest learning rate, ascending.
        overrides: Configuration -> keys of this class that are others for it.
    """

    note: str
    learning_rates: UniqueList[float]
    overrides: dict[Annotated[str, one_of(lambda: CONFIGURATIONS)], dict[str, Any]] = Field(
        default={}
    )

    def for_configuration(self, configuration: str) -> "TabularProfile":
        """That of one configuration."""
        return TabularProfile(**{**dict(self), **self.overrides.get(configuration, {})})


@dataclass(frozen=True)
class TabularProtocol:
    """A loaded data set with the protocol that it is trained by, for a command's options."""

    splits: Splits
    latent_dim: int
    profile: TabularProfile
    options: StudyOptions

    @classmethod
    def load(cls, options: StudyOptions) -> "TabularProtocol":
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
        splits = load_tabular(dataset, options.location.data_root, data=options.location.data)
        if latent_dim > (dims := splits.input_dim[0]):
            raise ConfigError(f"--latent-dim {latent_dim}: {dataset} has {dims} columns")
        profile = read_checked(TabularProfile, profiles[asked], path.name)
        return cls(splits, latent_dim, profile, options)

    def runs(self, models: list[tuple[str, float, int]]) -> list[TabularModels]:
        """Runs of models, given by configuration, learning rate and seed: of each model one, or
        the one of all models of a configuration where the store has that."""
        store, runs, keys = Store(self.options.results), [], TabularBudget.model_fields
        for name, group in groupby(models, lambda model: model[0]):
            of, own = [*group], self.profile.for_configuration(name)
            together = TabularModels(
                dataset=self.splits.name,
                configuration=CONFIGURATIONS[name],
                data_hash=self.splits.content_hash,
                latent_dim=self.latent_dim,
                budget=TabularBudget(**{key: getattr(own, key) for key in keys}),
                learning_rates=[rate for _, rate, _ in of],
                seeds=[seed for _, _, seed in of],
                location=self.options.location,
            )
            each = [{"learning_rates": [rate], "seeds": [seed]} for _, rate, seed in of]
            done = store.is_done(together)
            runs += [together] if done else [together.model_copy(update=one) for one in each]
        return runs


def train_configurations(
    table: TabularProtocol, names: list[str], on_change: OnChange
) -> pd.DataFrame:
    """Trains all seeds of configurations, of each at the best of its learning rates; a row a model:
    `configuration`, `learning_rate`, `seed`, and its scores."""

    def scores(models: list[tuple[str, float, int]]) -> pd.DataFrame:
        found = collect_results(table.runs(models), table.options, on_change)
        of = pd.DataFrame(models, columns=["configuration", "learning_rate", "seed"])
        return of.join(pd.DataFrame(found))

    rates = {name: table.profile.for_configuration(name).learning_rates for name in names}
    chosen, seeds = {name: of[0] for name, of in rates.items()}, table.options.seeds
    trials = [(name, rate, seeds[0]) for name, of in rates.items() if len(of) > 1 for rate in of]
    if trials:
        tried = scores(trials).fillna({"validation_wasserstein": np.inf})
        best = tried.loc[tried.groupby("configuration").validation_wasserstein.idxmin()]
        chosen |= dict(zip(best.configuration, best.learning_rate, strict=True))
    return scores([(name, chosen[name], seed) for name in names for seed in seeds])


def run_tabular(options: StudyOptions, on_change: OnChange) -> list[StudyReport]:
    """Tables 1 and 5: FIF against rectangular flows, or the models that are asked for."""
    caption = (
        "Models of a table's rows after the same training, unless a row says otherwise; the "
        "speedup is the quotient of CPU ms a step of rectangular flow and model."
    )
    return [
        _compare_with_published("tabular", ["fif", "rectangular_flow"], caption, options, on_change)
    ]


def run_ablation(options: StudyOptions, on_change: OnChange) -> list[StudyReport]:
    """Tables 6 and 7: estimator, network, on or off the manifold; over all configurations."""
    caption = (
        "FIF estimates with the encoder's Jacobian (eqs. 10 and 15), RF by conjugate gradients "
        "(eq. 6). On manifold the Jacobian is taken at the projection; off manifold at the data "
        "point, for which RF, as we read the paper, takes the encoder's volume change."
    )
    names = [name for name, of in CONFIGURATIONS.items() if of.jacobian_at]
    six = _compare_with_published("ablation", names, caption, options, on_change)
    rows = []
    for name, of in six.rows.groupby("configuration", sort=False).reconstruction:
        if not CONFIGURATIONS[name].jacobian_at:  # no autoencoder, such as flow matching
            continue
        net, place = CONFIGURATIONS[name].net, CONFIGURATIONS[name].place.capitalize()
        trainings = {place: of}
        if place != "Off manifold" and len(of) > 1:
            trainings[f"{place} (outliers removed)"] = of.drop(of.fillna(np.inf).idxmax())
        for training, errors in trainings.items() if "free-form" in net else ():
            row = {"Training": training + net.removeprefix("free-form")}
            row["reconstruction loss ↓"] = spread(errors)
            row["published"] = DASH
            if net == "free-form" and not options.location.data:
                row["published"] = _published_value(7, dataset=str(options.dataset), row=training)
            rows.append(row)
    table = pd.DataFrame(rows)
    seven = StudyReport(
        f"{six.name}-reconstruction",
        f"{six.title}: reconstruction of free-form FIF (table 7)",
        "Squared error a row of models trained on and off manifold. Outliers removed: without the "
        "largest of the seeds.",
        table,
        table,
        notes=six.notes,
    )
    return [six, seven] if rows else [six]


def _compare_with_published(
    study: str, usual: list[str], caption: str, options: StudyOptions, on_change: OnChange
) -> StudyReport:
    """A table of configurations, with the rows of :func:`train_configurations`."""
    table, names = TabularProtocol.load(options), [*(options.models or usual)]
    for name in names:
        if name not in CONFIGURATIONS:
            hint = did_you_mean(name, CONFIGURATIONS)
            raise ConfigError(f"model {name!r} has no tabular study: {hint}")
    splits, found = table.splits, train_configurations(table, names, on_change)
    count = len(splits.train[: table.profile.train_size])
    steps = pd.Series({name: table.profile.for_configuration(name).steps(count) for name in names})
    times, rows = 1e3 * found.groupby("configuration").seconds.mean() / steps, []
    for name, of in found.groupby("configuration", sort=False):
        configuration = CONFIGURATIONS[str(name)]
        row = {
            "model": MODELS[configuration.model],
            "net": configuration.net,
            "Jacobian": configuration.place,
            "FID-like ↓": spread(of.wasserstein),
            "recon. ↓": spread(of.reconstruction) if configuration.jacobian_at else DASH,
            "log-likelihood ↑": spread(of.log_likelihood) if configuration.jacobian_at else DASH,
            "CPU ms a step": number(times[name]),
            "speedup ↑": number(times.get("rectangular_flow", math.nan) / times[name]),
            "CG steps": number(pd.to_numeric(of.cg_iterations).mean()),
            "learning rate": f"{of.learning_rate.iloc[0]:g}",
        }
        rows.append(row if options.location.data else row | _read_published(str(name), splits.name))
    data = (
        f"Data: {splits.source} ({splits.content_hash}); trained on {count:,} rows, d = "
        f"{table.latent_dim}, {pluralized(len(options.seeds), 'seed')}. "
        f"Profile `{options.profile}`: "
        f"{table.profile.note}."
    )
    file, notes = f"{study}-{splits.name}-{options.profile}", [data, *splits.notes, *NOTES]
    title = f"{splits.name}, profile {options.profile}"
    return StudyReport(file, title, caption, pd.DataFrame(rows), found, notes=notes)


def _read_published(name: str, dataset: str) -> dict[str, str]:
    """The paper's numbers of a configuration."""
    of = CONFIGURATIONS[name]
    model, net = "fif" if of.model == "fif" else "rf", of.net.replace("coupling", "coupling flow")
    distance = _published_value(6, dataset=dataset, model=model, net=net, estimator=of.place)
    printed_as = name
    if of.settings == RF_CODE:
        distance, printed_as = _published_value(1, dataset=dataset, model="rf"), "rf"
    speedup = _published_value(1, dataset=dataset, metric="speedup")
    return {
        "published FID-like": distance,
        "published speedup": speedup if name == "fif" else DASH,
        "published min": _published_value(
            5, dataset=dataset, model=printed_as, metric="training time"
        ),
    }


def spread(values: "pd.Series[float]") -> str:
    """Mean and standard deviation over seeds, or how many have no finite value."""
    if diverged := (~np.isfinite(values)).sum():
        return f"diverged ({diverged} of {len(values)})"
    return number(values.mean(), values.std())


def _published_value(table: int, **at: str) -> str:
    """The published number, or a dash where the paper has none."""
    cells = read_published_table(table)
    for key, value in at.items():
        cells = cells[cells[key] == value]
    return cells.text.iloc[-1] if len(cells) else DASH
