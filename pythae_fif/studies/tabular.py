"""Tables 1 and 5: FIF against rectangular flows on tabular data."""

__all__ = ["Trained", "compare", "printed", "run", "spread"]

import math
import statistics
import time
from typing import Any

import numpy as np
import pandas as pd
import torch

from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.evaluation import Features, frechet_distance
from pythae_fif.reports.compared import published
from pythae_fif.reports.tables import DASH, number
from pythae_fif.runs.launch import OnChange
from pythae_fif.runs.record import Record
from pythae_fif.runs.store import Store
from pythae_fif.studies.spec import Finding, finish
from pythae_fif.studies.study import StudyOptions
from pythae_fif.studies.tabular_models import CONFIGURATIONS, RF_CODE, Configuration, Nets
from pythae_fif.studies.tabular_run import LIKELIHOOD_ROWS, Table, TabularModels

TIMED_BATCH = 512
ROUNDS = 15  # timed steps of each configuration; the first is not counted
SOURCES_NOTE = (
    "Settings are of appendix E.2, with ReLU; FIF's released code has SiLU, and which of the two "
    "the published numbers are of is not told. The net with tanh has the settings of RF's own "
    "code; the other RF rows train as FIF does. Eq. 10 has gradient through the projection; to "
    "detach it is ours. Published numbers are of the full data and training, on a GPU."
)
Trained = list[tuple[TabularModels, list[Record[dict[str, Any]]]]]
"""Of every configuration a run, and the record of each seed."""


def run(options: StudyOptions, on_change: OnChange) -> list[Finding]:
    """Tables 1 and 5 of a data set; see :func:`compare`."""
    caption = (
        "Models of a table's rows after the same training, unless a row says otherwise; the "
        "speedup is the quotient of ms a step of rectangular flow and model."
    )
    return [compare("tabular", ["fif", "rectangular_flow"], caption, options, on_change)[1]]


def compare(
    study: str, usual: list[str], caption: str, options: StudyOptions, on_change: OnChange
) -> tuple[Trained, Finding]:
    """Trains configurations on a data set: the usual ones, or those that are asked for.

    Returns:
        What was trained, and the table of it.

    Raises:
        ConfigError: An unknown configuration or profile; nothing is trained then.
        DataError: The data are missing or not what they should be.
        RunsLeftError: Runs failed.
    """
    table, names, store = Table.load(options), options.models or usual, Store(options.results)
    for name in names:
        if name not in CONFIGURATIONS:
            hint = did_you_mean(name, CONFIGURATIONS)
            raise ConfigError(f"model {name!r} has no tabular study: {hint}")
    finish([run for name in names for run in table.trials(name, store)], options, on_change)
    chosen = [table.chosen(name, store) for name in names]
    finish([run for runs in chosen for run in runs], options, on_change)
    trained = [(runs[0], [r for run in runs for r in run.records(store)]) for runs in chosen]
    times = {name: _step_seconds(CONFIGURATIONS[name], table) for name in names}
    rows, each = [], []
    for of, records in trained:
        configuration, results = of.configuration, pd.DataFrame([r.result for r in records])
        name, rate = configuration.name, of.learning_rates[0]
        row = {
            "model": "FIF" if configuration.model == "fif" else "RF",
            "net": configuration.net,
            "Jacobian": configuration.place,
            "FID-like ↓": spread(results.wasserstein),
            "recon. ↓": spread(results.reconstruction),
            "log-likelihood ↑": spread(results.log_likelihood),
            "ms a step": number(1e3 * times[name]),
            "speedup ↑": number(times.get("rectangular_flow", math.nan) / times[name]),
            "CG steps": number(pd.to_numeric(results.cg_iterations).mean()),
            "training CPU s": number(results.seconds.sum()),
            "learning rate": f"{rate:g}",
        }
        rows.append(row if options.data else row | _published(configuration, table.splits.name))
        each.append(results.assign(configuration=name, learning_rate=rate, seed=options.seeds))
    finding = Finding(
        f"{study}-{options.dataset}-{options.profile}",
        f"{options.dataset}, profile {options.profile}",
        caption,
        pd.DataFrame(rows),
        pd.concat(each),
        None,
        _notes(trained, table),
    )
    return trained, finding


def _published(of: Configuration, dataset: str) -> dict[str, str]:
    """The paper's numbers of a configuration."""
    model, net = "fif" if of.model == "fif" else "rf", of.net.replace("coupling", "coupling flow")
    distance = printed(6, dataset=dataset, model=model, net=net, estimator=of.place)
    printed_as = of.name
    if of.settings == RF_CODE:
        distance, printed_as = printed(1, dataset=dataset, model="rf"), "rf"
    speedup = printed(1, dataset=dataset, metric="speedup")
    return {
        "published FID-like": distance,
        "published speedup": speedup if of.name == "fif" else DASH,
        "published min": printed(5, dataset=dataset, model=printed_as, metric="training time"),
    }


def _notes(trained: Trained, table: Table) -> list[str]:
    """What data, budget, scores and machine the numbers stand for."""
    profile, options, splits = table.profile, table.options, table.splits
    test, train = torch.from_numpy(splits.test), splits.train[: profile.train_size]
    few = torch.from_numpy(train[: len(test)])
    as_far = frechet_distance(Features(few), Features(test))
    machines = {record.provenance.machine for _, records in trained for record in records}
    return [
        f"Data: {splits.source} ({splits.content_hash}); trained on {len(train):,} rows, d = "
        f"{table.latent_dim}. Profile `{options.profile}`: {profile.note}.",
        f"Of several learning rates a row has the one at which seed {options.seeds[0]} has the "
        "lowest FID-like score on the validation rows.",
        f"Over {len(options.seeds)} seeds, on the test rows: FID-like is the squared Wasserstein-2 "
        f"distance of Gaussian fits, {as_far:.3g} of {len(few):,} training rows; log-likelihood is "
        f"exact, on the manifold, in nats, of the first {LIKELIHOOD_ROWS:,} rows at most.",
        f"ms a step: median of a fresh model of the paper's size, batch {TIMED_BATCH}, where this "
        "table was drawn; CG steps: mean a Hutchinson vector; training CPU s: of all seeds, on "
        f"{', '.join(sorted(machines))}.",
        SOURCES_NOTE,
    ]


def _step_seconds(configuration: Configuration, table: Table) -> float:
    """Median time of a training step of a fresh model of the paper's sizes.

    Conjugate gradients need more steps later in training, so a quotient is rather to a rectangular
    flow's advantage.
    """
    x = torch.from_numpy(table.splits.train)[torch.arange(TIMED_BATCH) % len(table.splits.train)]
    torch.manual_seed(0)
    model = configuration.build(table.splits.input_dim, table.latent_dim, Nets()).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        optimizer.zero_grad()
        model({"data": x}).loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def spread(values: "pd.Series[float]") -> str:
    """Mean and standard deviation over seeds, or how many have no finite value."""
    if diverged := (~np.isfinite(values)).sum():
        return f"diverged ({diverged} of {len(values)})"
    return number(values.mean(), values.std())


def printed(table: int, **at: str) -> str:
    """The published number, or a dash where the paper has none."""
    cells = published(table)
    for key, value in at.items():
        cells = cells[cells[key] == value]
    return cells.text.iloc[-1] if len(cells) else DASH
