"""Tables 1 and 5: free-form injective flows against rectangular flows on tabular data."""

__all__ = ["learning_rate", "protocol_notes", "run", "write_table"]

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.evaluation.frechet import squared_wasserstein
from pythae_fif.reports.grid import DASH, Cell, Grid, number, spread, write_grid
from pythae_fif.reports.published import load_published, printed
from pythae_fif.studies import OnProgress, StudyOptions
from pythae_fif.studies.tabular_plan import (
    STEP_NOTE,
    Trained,
    step_seconds,
    train_configurations,
)
from pythae_fif.studies.tabular_protocol import (
    APPENDIX,
    RF_CODE,
    SOURCES_NOTE,
    TABLE_ONE,
    Profile,
    Table,
    load_table,
)
from pythae_fif.studies.tabular_run import LIKELIHOOD_ROWS


def run(options: StudyOptions, on_progress: OnProgress) -> list[Path]:
    """Trains the models on one data set and writes their table.

    Args:
        options: ``dataset`` is the table's name; ``models`` are of ``TABLE_ONE``, by default
            ``fif`` and ``rectangular_flow``.
        on_progress: Is told how far it is.

    Returns:
        The table as Markdown and CSV.

    Raises:
        ConfigError: An unknown data set, model or profile.
        DataError: The data are missing or not what they should be.
        RunsLeftError: Runs failed, or go on elsewhere.
    """
    models = options.models or ["fif", "rectangular_flow"]
    for model in models:
        if model not in TABLE_ONE:
            hint = did_you_mean(model, TABLE_ONE)
            raise ConfigError(f"model {model!r} has no tabular study: {hint}")
    dataset = options.dataset
    assert dataset is not None  # run_study has chosen
    table = load_table(dataset, options)
    runs = train_configurations(models, table, options, on_progress)
    times = step_seconds(runs, table)
    slow = times.get("rectangular_flow")
    headings = [
        "Model", "settings of", "FID-like ↓", "recon. ↓", "log-likelihood ↑", "ms a step",
        "speedup ↑", "CG steps", "training CPU s", "learning rate",
        "published FID-like", "published speedup", "published min",
    ]  # fmt: skip
    rows = []
    for trained in runs:
        model, record = trained.spec.configuration, trained.record
        is_flow = trained.configuration.model == "rectangular_flow"
        speedup = slow / times[model] if slow and not is_flow else None
        printed_as = {"fif": "fif", "rectangular_flow_published": "rf"}
        at = {"dataset": dataset, "model": printed_as.get(model, model)}
        minutes = _published(5, **at, metric="training time")[-1:]
        rows.append(
            [
                Cell(trained.configuration.title),
                Cell(trained.configuration.source),
                spread(record.wasserstein),
                spread(record.reconstruction),
                spread(record.log_likelihood),
                number(1e3 * times[model] if times else None),
                Cell(f"{speedup:.1f}×", speedup) if speedup else Cell(DASH),
                number(record.cg_iterations),
                number(record.seconds),
                learning_rate(trained),
                *_published(1, **at, metric="FID-like"),
                *_published(1, dataset=dataset if model == "fif" else "", metric="speedup"),
                *minutes,
            ]
        )
    notes = [
        *protocol_notes(table, runs, options),
        f"{STEP_NOTE} Speedup is the quotient of ms a step. Training CPU s: processor time of all "
        "seeds together, in this profile's sizes.",
        "Published columns: tables 1 and 5 of Sorrenson et al. 2024, full data and training on a "
        "GPU (RF's FID-like by Caterini et al. 2021, its minutes as rerun by the former, both with "
        "RF's code).",
        SOURCES_NOTE,
    ]
    names = " and ".join(dict.fromkeys(run.configuration.title for run in runs))
    title = f"{dataset}, profile {options.profile}: {names}"
    grid = Grid(title, headings, "ll" + "r" * 11, rows, notes)
    return write_table(grid, "-".join(["tabular", table.name, *models, options.profile]), options)


def write_table(grid: Grid, name: str, options: StudyOptions) -> list[Path]:
    """Writes a table; of your own data, of which nothing is published, without what says so."""
    if options.data is not None:
        kept = [i for i, of in enumerate(grid.headings) if not of.startswith("published")]
        grid = replace(
            grid,
            headings=[grid.headings[i] for i in kept],
            align="".join(grid.align[i] for i in kept),
            rows=[[row[i] for i in kept] for row in grid.rows],
            notes=[note for note in grid.notes if not note.startswith("Published")],
        )
    return write_grid(grid, options.results / "tables" / name, ".md", ".csv")


def protocol_notes(table: Table, runs: Sequence[Trained], options: StudyOptions) -> list[str]:
    """What data, budget, scores and machine the numbers stand for."""
    profile, seeds = table.profile, options.seeds
    sizes = ", ".join(
        f"{run.configuration.label} {run.configuration.net} {run.record.parameters:,}"
        for run in {r.configuration.model + r.configuration.net: r for r in runs}.values()
    )
    usual = any(run.configuration.settings is APPENDIX for run in runs)
    chosen = any(len(profile.own(run.spec.configuration).learning_rates) > 1 for run in runs)
    made = {run.record.provenance.machine: run.record.provenance for run in runs}
    machines = "; ".join(
        f"{machine}, {of.threads} thread(s), torch {of.versions.get('torch')}"
        + (f" ({', '.join(_trained_on(runs, machine))})" if len(made) > 1 else "")
        for machine, of in made.items()
    )
    few = table.train[: len(table.test)]
    floor = squared_wasserstein(few, table.test)
    as_many = "as many" if len(few) == len(table.test) else f"{len(few):,}"
    return [
        f"Data: {table.splits.source} ({table.splits.content_hash}); trained on "
        f"{len(table.train):,} rows. Latent dimension {table.latent_dim}.",
        f"Profile `{options.profile}`: {profile.note}. {_length(runs)}, K = 1; parameters: "
        f"{sizes}.",
        *([_appendix(profile)] if usual else []),
        *_rf_code(runs, profile),
        *([_choice(table, seeds[0])] if chosen else []),
        f"Mean ± standard deviation over seeds {', '.join(map(str, seeds))} on the test rows: "
        f"FID-like is the squared Wasserstein-2 distance of Gaussian fits with as many samples as "
        f"test rows ({len(table.test):,}), of which {as_many} training rows have {floor:.3g}; "
        f"recon. the squared error a row; log-likelihood exact, on the manifold, in nats, of the "
        f"first {min(LIKELIHOOD_ROWS, len(table.test)):,} rows.",
        f"Machine: {machines}; times of a machine that does other things too hold as quotients "
        "alone.",
        *([f"Made by `{options.command}`."] if options.command else []),
    ]


def _trained_on(runs: Sequence[Trained], machine: str) -> list[str]:
    """The configurations whose training times are of a machine."""
    return [r.spec.configuration for r in runs if r.record.provenance.machine == machine]


def _listed(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)


def _appendix(profile: Profile) -> str:
    """What the rows with the appendix's settings have."""
    return (
        f"Training: batch {profile.batch_size}, Adam with one cycle of the learning rate (highest: "
        f"{_listed(profile.learning_rates)}), weight decay {APPENDIX.weight_decay:g}, noise "
        f"{APPENDIX.noise:g}, beta {APPENDIX.beta:g}."
    )


def _choice(table: Table, seed: int) -> str:
    """How one of several learning rates was chosen."""
    return (
        f"Of several learning rates a row has the one at which seed {seed}, trained for the whole "
        f"length, has the lowest FID-like score on the {len(table.val):,} validation rows."
    )


def _rf_code(runs: Sequence[Trained], profile: Profile) -> list[str]:
    """What the rows with the settings of rectangular flows' own authors have instead."""
    return [
        f"RF's code: batch {run.spec.budget.batch_size}, Adam at a constant rate (of "
        f"{_listed(profile.own(run.spec.configuration).learning_rates)}), weight decay "
        f"{RF_CODE.weight_decay:g}, noise {RF_CODE.noise:g}, beta {RF_CODE.beta:g}, the weight of "
        f"the likelihood rising from 0 to 1 over epochs {run.spec.budget.warmup}, "
        f"{RF_CODE.hutchinson_kind} Hutchinson vectors, nets of {RF_CODE.data_hidden} and "
        f"{RF_CODE.latent_hidden} hidden units at the paper's size; theirs also stops early, after "
        "20 epochs without a better FID-like score, and its conjugate gradients after 11 steps at "
        "least and at a mean relative residual of 1, here each at 0.001."
        for run in runs
        if run.configuration.settings is RF_CODE
    ]


def _length(runs: Sequence[Trained]) -> str:
    """Epochs and steps, of each configuration where they are not the same."""
    texts = [f"{run.spec.budget.epochs} epochs, {run.record.steps:,} steps" for run in runs]
    if len(set(texts)) == 1:
        return texts[0]
    return "; ".join(
        f"{run.spec.configuration} {text}" for run, text in zip(runs, texts, strict=True)
    )


def learning_rate(run: Trained) -> Cell:
    """A run's learning rate as a cell."""
    rate = run.spec.learning_rates[0]
    return Cell(f"{rate:g}", rate)


def _published(number: int, **at: str) -> list[Cell]:
    """The printed cells, or one dash where the paper has none."""
    found = load_published(number).find(**at)
    return [printed(cell) for cell in found] or [printed(None)]
