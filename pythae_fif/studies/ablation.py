"""Tables 6 and 7: the estimator, where its Jacobian is taken, and the nets, one by one."""

__all__ = ["run"]

import math
from collections.abc import Mapping
from pathlib import Path

from pythae_fif.data.locations import data_home
from pythae_fif.data.tabular import ARCHIVE_FILES
from pythae_fif.errors import ConfigError, DataError, did_you_mean
from pythae_fif.reports.grid import Cell, Grid, number, spread
from pythae_fif.reports.published import PublishedCell, load_published, printed
from pythae_fif.studies import OnProgress, StudyOptions
from pythae_fif.studies.tabular import learning_rate, protocol_notes, write_table
from pythae_fif.studies.tabular_plan import (
    STEP_NOTE,
    Trained,
    step_seconds,
    train_configurations,
)
from pythae_fif.studies.tabular_protocol import (
    CONFIGURATIONS,
    SOURCES_NOTE,
    Table,
    load_table,
)


def run(options: StudyOptions, on_progress: OnProgress) -> list[Path]:
    """Trains table 6's configurations, with both free-form nets, on one data set or all found.

    Args:
        options: ``dataset`` is one table's name, or None for all that are found; ``models`` are
            the keys of ``CONFIGURATIONS`` to train, or None for all.
        on_progress: Is told how far it is.

    Returns:
        For each data set, tables 6 and, with both free-form trainings, 7, as Markdown and CSV.

    Raises:
        ConfigError: An unknown data set or configuration, or a profile that one of the data sets
            has not; nothing is trained then.
        DataError: No data set is found.
        RunsLeftError: Runs failed, or go on elsewhere.
    """
    for name in options.models or ():
        if name not in CONFIGURATIONS:
            hint = did_you_mean(name, CONFIGURATIONS)
            raise ConfigError(f"configuration {name!r} of the ablation is unknown: {hint}")
    root = data_home(options.data_root)
    found = [
        name for name, files in ARCHIVE_FILES.items() if all((root / f).is_file() for f in files)
    ]
    datasets = [options.dataset] if options.dataset else found
    if not datasets:
        raise DataError(f"no tabular data below {root}: give --data-root, or --dataset and --data")
    tables = [load_table(name, options) for name in datasets]  # one may lack the profile
    paths = []
    for index, table in enumerate(tables):

        def tell(label: str, share: float, index: int = index) -> None:
            on_progress(label, (index + share) / len(tables))

        paths += _one_dataset(table, options, tell)
    return paths


def _one_dataset(table: Table, options: StudyOptions, on_progress: OnProgress) -> list[Path]:
    dataset = table.splits.name
    chosen = [name for name in CONFIGURATIONS if name in (options.models or CONFIGURATIONS)]
    runs = train_configurations(chosen, table, options, on_progress)
    times = step_seconds(runs, table)
    notes = protocol_notes(table, runs, options)
    headings = ["Estimator", "net", "Jacobian", "settings of", "FID-like ↓", "recon. ↓"]
    headings += ["log-likelihood ↑", "ms a step", "CG steps", "learning rate", "published FID-like"]
    rows = [
        [
            Cell(run.configuration.label),
            Cell(run.configuration.net),
            Cell(run.configuration.place),
            Cell(run.configuration.source),
            spread(run.record.wasserstein),
            spread(run.record.reconstruction),
            spread(run.record.log_likelihood),
            number(1e3 * times[run.spec.configuration] if times else None),
            number(run.record.cg_iterations),
            learning_rate(run),
            printed(_published(run)),
        ]
        for run in runs
    ]
    six = Grid(
        f"{dataset}, profile {options.profile}: ablation (table 6)",
        headings,
        "llll" + "r" * 7,
        rows,
        [
            *notes,
            "FIF estimates with the encoder's Jacobian (eqs. 10 and 15), RF by conjugate gradients "
            "(eq. 6). On manifold the Jacobian is taken at the projection; off manifold at the "
            "data point, for which RF, as we read the paper, takes the encoder's volume change.",
            STEP_NOTE,
            "Published: table 6 of Sorrenson et al. 2024, on full data with the full training.",
            SOURCES_NOTE,
        ],
    )
    named = chosen if options.models else []
    name = "-".join(["ablation", table.name, *named, options.profile])
    paths = write_table(six, name, options)
    errors = {run.spec.configuration: run.record.reconstruction for run in runs}
    reconstructions = _reconstructions(errors, dataset)
    if not reconstructions:
        return paths
    seven = Grid(
        f"{dataset}, profile {options.profile}: reconstruction of free-form FIF (table 7)",
        ["Training", "reconstruction loss ↓", "published"],
        "lrr",
        reconstructions,
        [*notes, "Outliers removed: without the largest of the seeds.", SOURCES_NOTE],
    )
    return [*paths, *write_table(seven, f"{name}-reconstruction", options)]


def _reconstructions(errors: Mapping[str, list[float]], dataset: str) -> list[list[Cell]]:
    """Rows of table 7, for the nets that were trained both on and off manifold."""
    published = {cell.row: cell for cell in load_published(7).find(dataset=dataset)}
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
            cell = None if nets else published.get(label)  # printed in ReLU's rows alone
            rows.append([Cell(label + nets), spread(values), printed(cell)])
    return rows


def _published(run: Trained) -> PublishedCell | None:
    configuration = run.configuration
    found = load_published(6).find(
        dataset=run.spec.dataset,
        model="fif" if configuration.model == "fif" else "rf",
        net="coupling flow" if configuration.net == "coupling" else configuration.net,
        estimator=configuration.place,
    )
    return found[0] if found else None
