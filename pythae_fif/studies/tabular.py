"""Tables 1 and 5, and 6 and 7: FIF against rectangular flows on tabular data, and its parts."""

__all__ = ["TABLE_ONE", "ablation", "run"]

import math
import statistics
import time
from collections.abc import Mapping, Sequence

import pandas as pd
import torch

from pythae_fif.data.locations import data_home
from pythae_fif.data.tables import ARCHIVE_FILES
from pythae_fif.errors import ConfigError, DataError, did_you_mean
from pythae_fif.evaluation import Features, frechet_distance
from pythae_fif.reports.published import published
from pythae_fif.reports.tables import DASH, number
from pythae_fif.runs.launch import OnChange
from pythae_fif.runs.provenance import provenance
from pythae_fif.runs.record import Record
from pythae_fif.runs.store import Store
from pythae_fif.studies.spec import finish
from pythae_fif.studies.study import Finding, StudyOptions
from pythae_fif.studies.tabular_models import CONFIGURATIONS, SOURCES_NOTE, Nets
from pythae_fif.studies.tabular_run import LIKELIHOOD_ROWS, RowScores, Table, TabularModels

TABLE_ONE = ("fif", "fif_silu", "rectangular_flow", "rectangular_flow_published")
TIMED_BATCH = 512
ROUNDS = 15  # timed steps of each configuration; the first is not counted
Runs = Mapping[str, tuple[TabularModels, list[Record[RowScores]]]]
"""Name of a configuration -> a run of its seeds, and the record of each seed's."""


def run(options: StudyOptions, on_change: OnChange) -> list[Finding]:
    """Tables 1 and 5 of a data set: the models of `TABLE_ONE` that are asked for, or known.

    Raises:
        ConfigError: An unknown data set, model or profile.
        DataError: The data are missing or not what they should be.
        RunsLeftError: Runs failed, or go on elsewhere.
    """
    assert options.dataset is not None  # run_study has chosen
    table = Table.load(options.dataset, options)
    names = options.models or ["fif", "rectangular_flow"]
    runs = _train(names, TABLE_ONE, [table], options, on_change)[0]
    times = _step_seconds(runs, table)
    frame = _frame(runs, times)
    slow = times.get("rectangular_flow", math.nan)
    frame["speedup ↑"] = [
        DASH if name.startswith("rect") else number(slow / times.get(name, math.nan))
        for name in runs
    ]
    if options.data is None:
        dataset = options.dataset
        printed_as = {"fif": "fif", "rectangular_flow_published": "rf"}
        of = [{"dataset": dataset, "model": printed_as.get(name, name)} for name in runs]
        frame["published FID-like"] = [_published(1, **at, metric="FID-like") for at in of]
        frame["published speedup"] = [
            _published(1, dataset=dataset if at["model"] == "fif" else "", metric="speedup")
            for at in of
        ]
        frame["published min"] = [_published(5, **at, metric="training time") for at in of]
    return [
        Finding(
            f"tabular-{table.name}-{options.profile}",
            f"{table.splits.name}, profile {options.profile}: FIF and rectangular flows",
            "Models of a table's rows after the same training, unless a row says otherwise; the "
            "speedup is the quotient of ms a step of rectangular flow and model. Published "
            "numbers are of the full data and the full training, on a GPU.",
            frame.drop(columns=["Jacobian"]),
            _each(runs, options.seeds),
            None,
            _notes(runs, table),
        )
    ]


def ablation(options: StudyOptions, on_change: OnChange) -> list[Finding]:
    """Tables 6 and 7 of a data set, or of all that are found.

    Raises:
        ConfigError: An unknown data set or configuration, or a profile that one of the data sets
            has not; nothing is trained then.
        DataError: No data set is found.
        RunsLeftError: Runs failed, or go on elsewhere.
    """
    root = data_home(options.data_root)
    found = [
        name for name, files in ARCHIVE_FILES.items() if all((root / f).is_file() for f in files)
    ]
    datasets = [options.dataset] if options.dataset else found
    if not datasets:
        raise DataError(f"no tabular data below {root}: give --data-root, or --dataset and --data")
    tables = [Table.load(name, options) for name in datasets]  # one may lack the profile
    names = options.models or list(CONFIGURATIONS)
    findings = []
    trained = _train(names, tuple(CONFIGURATIONS), tables, options, on_change)
    for table, runs in zip(tables, trained, strict=True):
        frame, dataset = _frame(runs, _step_seconds(runs, table)), table.splits.name
        if options.data is None:
            frame["published FID-like"] = [
                _published(
                    6,
                    dataset=dataset,
                    model="fif" if of.model == "fif" else "rf",
                    net="coupling flow" if of.net == "coupling" else of.net,
                    estimator=of.place,
                )
                for of in (CONFIGURATIONS[name] for name in runs)
            ]
        title = f"{dataset}, profile {options.profile}"
        name = f"ablation-{table.name}-{options.profile}"
        six = Finding(
            name,
            f"{title}: ablation (table 6)",
            "FIF estimates with the encoder's Jacobian (eqs. 10 and 15), RF by conjugate gradients "
            "(eq. 6). On manifold the Jacobian is taken at the projection; off manifold at the "
            "data point, for which RF, as we read the paper, takes the encoder's volume change.",
            frame,
            _each(runs, options.seeds),
            None,
            _notes(runs, table),
        )
        findings.append(six)
        errors = {key: [r.result.reconstruction for r in of] for key, (_, of) in runs.items()}
        if rows := _reconstructions(errors, dataset):
            findings.append(
                Finding(
                    f"{name}-reconstruction",
                    f"{title}: reconstruction of free-form FIF (table 7)",
                    "Squared error a row of models trained on and off manifold. Outliers removed: "
                    "without the largest of the seeds.",
                    pd.DataFrame(rows),
                    None,
                    None,
                    six.notes,
                )
            )
    return findings


def _train(
    names: Sequence[str],
    valid: Sequence[str],
    tables: Sequence[Table],
    options: StudyOptions,
    on_change: OnChange,
) -> list[Runs]:
    """Chooses the learning rates, trains all seeds, and finds what other commands have trained.

    Returns:
        Of each table, in the order of `valid`.
    """
    for name in names:
        if name not in valid:
            raise ConfigError(f"model {name!r} has no tabular study: {did_you_mean(name, valid)}")
    store = Store(options.results)
    trials = [run for table in tables for name in names for run in table.trials(name, store)]
    finish(trials, options, on_change)
    chosen = [table.chosen(name, store) or [] for table in tables for name in names]
    finish([run for runs in chosen for run in runs], options, on_change)
    found: list[Runs] = []
    for table in tables:
        known = {name: table.chosen(name, store) or [] for name in valid}
        runs = {
            name: (of[0], [record for run in of for record in run.records(store)])
            for name, of in known.items()
            if of
        }
        found.append({n: of for n, of in runs.items() if len(of[1]) == len(options.seeds)})
    return found


def _each(runs: Runs, seeds: Sequence[int]) -> pd.DataFrame:
    """A row a model."""
    return pd.DataFrame(
        [
            {"configuration": name, "learning_rate": run.learning_rates[0], "seed": seed}
            | vars(record.result)
            for name, (run, records) in runs.items()
            for seed, record in zip(seeds, records, strict=True)
        ]
    )


def _frame(runs: Runs, times: Mapping[str, float]) -> pd.DataFrame:
    """A row a configuration: means and standard deviations over seeds, and times."""
    rows = []
    for name, (run, records) in runs.items():
        results, configuration = [record.result for record in records], run.configuration
        iterations = [r.cg_iterations for r in results if r.cg_iterations is not None]
        rows.append(
            {
                "model": configuration.title,
                "net": configuration.net,
                "Jacobian": configuration.place,
                "settings of": configuration.source,
                "FID-like ↓": _spread([r.wasserstein for r in results]),
                "recon. ↓": _spread([r.reconstruction for r in results]),
                "log-likelihood ↑": _spread([r.log_likelihood for r in results]),
                "ms a step": number(1e3 * times.get(name, math.nan)),
                "CG steps": number(statistics.fmean(iterations) if iterations else math.nan),
                "training CPU s": number(sum(r.seconds for r in results)),
                "learning rate": f"{run.learning_rates[0]:g}",
            }
        )
    return pd.DataFrame(rows)


def _reconstructions(errors: Mapping[str, list[float]], dataset: str) -> list[dict[str, str]]:
    """Rows of table 7, for the nets that were trained both on and off manifold."""
    rows = []
    for off, nets in (("fif", ""), ("fif_silu", ", SiLU")):
        if not errors.keys() >= {off, f"{off}_on"}:
            continue
        trainings = {}
        for on, how in (("_on", ""), ("_on_detached", ", detached")):
            if (of_seeds := errors.get(off + on)) is not None:
                ascending = sorted(of_seeds, key=lambda e: e if math.isfinite(e) else math.inf)
                trainings[f"On manifold{how}"] = of_seeds
                if len(of_seeds) > 1:
                    trainings[f"On manifold{how} (outliers removed)"] = ascending[:-1]
        for label, values in (trainings | {"Off manifold": errors[off]}).items():
            printed = DASH if nets else _published(7, dataset=dataset, row=label)
            row = {"Training": label + nets, "reconstruction loss ↓": _spread(values)}
            rows.append(row | {"published": printed})  # in ReLU's rows alone
    return rows


def _notes(runs: Runs, table: Table) -> list[str]:
    """What data, budget, scores and machine the numbers stand for."""
    profile, options, splits = table.profile, table.options, table.splits
    first = {name: (run, records[0]) for name, (run, records) in runs.items()}
    sizes = {f"{s.configuration.label} {s.configuration.net}": r.result.parameters
             for s, r in first.values()}  # fmt: skip
    lengths = {f"{s.budget.epochs} epochs, {r.result.steps:,} steps of batch {s.budget.batch_size}"
               for s, r in first.values()}  # fmt: skip
    if len(lengths) > 1:
        lengths = {f"{name} {s.budget.epochs} epochs, {r.result.steps:,} steps of batch "
                   f"{s.budget.batch_size}" for name, (s, r) in first.items()}  # fmt: skip
    machines = dict.fromkeys(
        f"{r.provenance.machine}, {r.provenance.threads} thread(s), torch "
        f"{r.provenance.versions.get('torch')}"
        for _, records in runs.values()
        for r in records
    )
    test, train_rows = torch.from_numpy(splits.test), splits.train[: profile.train_size]
    few = torch.from_numpy(train_rows[: len(test)])
    as_many = "as many" if len(few) == len(test) else f"{len(few):,}"
    as_far = frechet_distance(Features(few), Features(test))
    settings: dict[str, list[str]] = {}
    for run, _ in first.values():
        words = [f"{k} {v}" for k, v in run.configuration.settings.to_dict().items() if v]
        words += [f"likelihood rising over epochs {run.budget.warmup}"] * bool(run.budget.warmup)
        settings.setdefault(", ".join(words), []).append(run.configuration.name)
    return [
        f"Data: {splits.source} ({splits.content_hash}); trained on {len(train_rows):,} rows. "
        f"Latent dimension {table.latent_dim}.",
        f"Profile `{options.profile}`: {profile.note}. {'; '.join(sorted(lengths))}; K = 1; "
        f"parameters: {', '.join(f'{k} {v:,}' for k, v in sizes.items())}.",
        *(f"{', '.join(of)}: {text}." for text, of in settings.items()),
        f"Of several learning rates a row has the one at which seed {options.seeds[0]}, trained "
        f"for the whole length, has the lowest FID-like score on the {len(splits.val):,} "
        "validation rows.",
        f"Mean ± standard deviation over seeds {', '.join(map(str, options.seeds))} on the test "
        "rows: FID-like is the squared Wasserstein-2 distance of Gaussian fits with as many "
        f"samples as test rows ({len(test):,}), of which {as_many} training rows have "
        f"{as_far:.3g}; recon. the squared error a row; log-likelihood "
        f"exact, on the manifold, in nats, of the first {min(LIKELIHOOD_ROWS, len(test)):,} rows.",
        f"Machine: {'; '.join(machines)}. ms a step: median of one step of a fresh model of the "
        f"paper's size, batch {TIMED_BATCH}, the models in turns, where this machine has trained "
        "them; CG steps: mean a Hutchinson vector, of at most d; training CPU s: of all seeds.",
        SOURCES_NOTE,
    ]


def _step_seconds(runs: Runs, table: Table) -> dict[str, float]:
    """Median time of one training step of one model of the paper's sizes, in turns.

    Steps are timed when a table is drawn: none where a run was trained on another machine.

    The models are freshly initialised, K is 1 and the batch the paper's 512. Conjugate gradients
    need more steps later in training, so the quotient is rather to a rectangular flow's advantage.

    Returns:
        Name of the configuration -> seconds.
    """
    here = provenance("cpu", time.time(), 0.0, 0, None).machine
    if any(r.provenance.machine != here for _, records in runs.values() for r in records):
        return {}
    x = torch.from_numpy(table.splits.train)[torch.arange(TIMED_BATCH) % len(table.splits.train)]
    models, optimizers = {}, {}
    for name in runs:
        torch.manual_seed(0)
        shape = table.splits.input_dim, table.latent_dim
        models[name] = CONFIGURATIONS[name].build(*shape, Nets()).train()
        optimizers[name] = torch.optim.Adam(models[name].parameters(), lr=1e-4, fused=True)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, model in models.items():
            start = time.perf_counter()
            optimizers[name].zero_grad()
            model({"data": x}).loss.backward()
            optimizers[name].step()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def _spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds, or how many have no finite value."""
    if diverged := sum(not math.isfinite(value) for value in values):
        return f"diverged ({diverged} of {len(values)})"
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return number(statistics.fmean(values), spread)


def _published(table: int, **at: str) -> str:
    """The printed number, or a dash where the paper has none."""
    cells = published(table)
    for key, value in at.items():
        cells = cells[cells[key] == value]
    return cells.text.iloc[-1] if len(cells) else DASH
