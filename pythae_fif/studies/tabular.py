"""Tables 1 and 5: FIF against rectangular flows on tabular data."""

__all__ = ["Trained", "compare", "printed", "run", "spread"]

import math
import statistics
import time
from collections.abc import Sequence

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
from pythae_fif.studies.tabular_run import LIKELIHOOD_ROWS, RowScores, Table, TabularModels

TIMED_BATCH = 512
ROUNDS = 15  # timed steps of each configuration; the first is not counted
SOURCES_NOTE = (
    "Settings of: FIF's text is appendix E.2 of the paper, with ReLU; FIF's code is what its "
    "authors released, with SiLU; which of the two the published numbers are of is not told. RF's "
    "code is what its own authors released; the other RF rows train as FIF does. Epochs and rates "
    "are the profile's. On manifold, eq. 10 as it is written has gradient through the projection, "
    "with ReLU none; to detach it is ours. The released code has no on-manifold training. "
    "Published numbers are of the full data and training, on a GPU; of RF's code those of table 1."
)
Trained = list[tuple[TabularModels, list[Record[RowScores]]]]
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
        RunsLeftError: Runs failed, or go on elsewhere.
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
    times, rows, each = _step_seconds(names, table), [], []
    for of, records in trained:
        configuration, results = of.configuration, [record.result for record in records]
        seconds, name = times[configuration.name], configuration.name
        iterations = [r.cg_iterations for r in results if r.cg_iterations is not None]
        row = {
            "model": "FIF" if configuration.model == "fif" else "RF",
            "net": configuration.net,
            "Jacobian": configuration.place,
            "settings of": configuration.source,
            "FID-like ↓": spread([r.wasserstein for r in results]),
            "recon. ↓": spread([r.reconstruction for r in results]),
            "log-likelihood ↑": spread([r.log_likelihood for r in results]),
            "ms a step": number(1e3 * seconds),
            "speedup ↑": number(times.get("rectangular_flow", math.nan) / seconds),
            "CG steps": number(statistics.fmean(iterations) if iterations else math.nan),
            "training CPU s": number(sum(r.seconds for r in results)),
            "learning rate": f"{of.learning_rates[0]:g}",
        }
        rows.append(row if options.data else row | _published(configuration, table.splits.name))
        for seed, result in zip(options.seeds, results, strict=True):
            each.append({"configuration": name, "seed": seed, **vars(result)})
    finding = Finding(
        f"{study}-{options.dataset}-{options.profile}",
        f"{options.dataset}, profile {options.profile}",
        caption,
        pd.DataFrame(rows),
        pd.DataFrame(each),
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
        f"Mean ± standard deviation over {len(options.seeds)} seeds on the test rows: FID-like is "
        "the squared Wasserstein-2 distance of Gaussian fits with as many samples as test rows, of "
        f"which {len(few):,} training rows have {as_far:.3g}; recon. the "
        "squared error a row; log-likelihood exact, on the manifold, in nats, of the first "
        f"{min(LIKELIHOOD_ROWS, len(test)):,} rows.",
        f"ms a step: median of one step of a fresh model of the paper's size, batch {TIMED_BATCH}, "
        "the models in turns, where this table was drawn; CG steps: mean a Hutchinson vector, of "
        f"at most d; training CPU s: of all seeds, on {', '.join(sorted(machines))}.",
        SOURCES_NOTE,
    ]


def _step_seconds(names: Sequence[str], table: Table) -> dict[str, float]:
    """Median time of a training step of a fresh model of the paper's sizes, by configuration.

    Conjugate gradients need more steps later in training, so a quotient is rather to a rectangular
    flow's advantage.
    """
    x = torch.from_numpy(table.splits.train)[torch.arange(TIMED_BATCH) % len(table.splits.train)]
    models, optimizers = {}, {}
    for name in names:
        torch.manual_seed(0)
        shape = table.splits.input_dim, table.latent_dim
        models[name] = CONFIGURATIONS[name].build(*shape, Nets()).train()
        optimizers[name] = torch.optim.Adam(models[name].parameters(), lr=1e-4, fused=True)
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(ROUNDS):  # in turns
        for name, model in models.items():
            start = time.perf_counter()
            optimizers[name].zero_grad()
            model({"data": x}).loss.backward()
            optimizers[name].step()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds, or how many have no finite value."""
    if diverged := sum(not math.isfinite(value) for value in values):
        return f"diverged ({diverged} of {len(values)})"
    return number(statistics.fmean(values), pd.Series(values).std())


def printed(table: int, **at: str) -> str:
    """The published number, or a dash where the paper has none."""
    cells = published(table)
    for key, value in at.items():
        cells = cells[cells[key] == value]
    return cells.text.iloc[-1] if len(cells) else DASH
