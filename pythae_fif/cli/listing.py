"""What the command line prints of what there is: `--list`, a plan, an estimate of its time."""

__all__ = ["print_estimate", "print_list", "print_plan"]

from collections import Counter

import torch
from rich.console import Console
from rich.table import Table

from pythae_fif import studies
from pythae_fif.benchmark.config import Experiment, length_of
from pythae_fif.benchmark.display import Display, duration
from pythae_fif.benchmark.estimate import training_seconds
from pythae_fif.benchmark.model_entry import ModelEntry, load_model_entry
from pythae_fif.benchmark.plan import RunSpec, shown
from pythae_fif.benchmark.yaml_files import config_file, names_in, read_yaml
from pythae_fif.data import DATASETS, Splits
from pythae_fif.errors import FIFError
from pythae_fif.evaluation import EXTRACTORS
from pythae_fif.nn import ARCHITECTURES
from pythae_fif.reports import load_published
from pythae_fif.runs.engines import Engine, LocalEngine
from pythae_fif.sampling import SAMPLERS


def print_list(console: Console) -> None:
    """Prints what there is to choose from."""
    groups: dict[str, dict[str, str]] = {
        "data sets (--dataset)": {
            name: read_yaml(config_file(name))["description"]
            for name in names_in()
            if name in DATASETS
        },
        "data sets of studies (--dataset)": {
            study: ", ".join(name for name, of in studies.DATASETS.items() if of == study)
            for study in dict.fromkeys(studies.DATASETS.values())
        },
        "studies (--study)": {name: of.description for name, of in studies.STUDIES.items()},
        "tables (--table)": {
            name.removeprefix("table"): load_published(int(name.removeprefix("table"))).title
            for name in names_in("experiments")
        },
        "architectures (--arch)": dict(ARCHITECTURES),
        "models (--models)": {
            name: f"{entry.label}; {_grid_line(entry)}; samplers {', '.join(entry.samplers)}; "
            f"{entry.source}"
            for name in names_in("models")
            for entry in [load_model_entry(name)]
        },
        "samplers (--samplers)": SAMPLERS,
        "extractors (--extractor)": dict(EXTRACTORS),
    }
    for heading, entries in groups.items():
        console.print(f"[bold]{heading}[/]")
        table = Table.grid(padding=(0, 2))
        for name, line in entries.items():
            table.add_row(f"  {name}", line)
        console.print(table)


def _grid_line(entry: ModelEntry) -> str:
    """The number of configurations of a model, and the values that they are made of."""
    choices = entry.choices()
    if len(choices) == 1:
        return "1 configuration"
    grid = entry.grid or {key: [choice[key] for choice in choices] for key in choices[0]}
    values = "; ".join(f"{key} {', '.join(map(shown, v))}" for key, v in grid.items())
    return f"{len(choices)} configurations ({values})"


def print_plan(
    console: Console, experiment: Experiment, splits: Splits, plan: list[RunSpec]
) -> None:
    """Prints the runs of a plan, a line each, and what is the same for all."""
    table = Table(title=f"{len(plan)} runs", box=None, padding=(0, 2))
    for heading in ("run id", "model", "configuration", "seed"):
        table.add_column(heading, justify="left")
    for spec in plan:
        table.add_row(spec.run_id, spec.model, spec.configuration, str(spec.seed))
    console.print(table)
    settings = experiment.settings
    console.print(
        f"{experiment.dataset}, {experiment.arch}, profile {experiment.profile}: "
        f"{len(splits.train):,} training images of shape {splits.input_dim}, "
        f"{length_of(settings)}, samplers {', '.join(experiment.samplers)}, "
        f"extractor {experiment.extractor}",
        markup=False,
    )


def print_estimate(
    console: Console,
    display: Display,
    experiment: Experiment,
    splits: Splits,
    plan: list[RunSpec],
    engine: Engine,
) -> None:
    """Times a few steps of every model's first configuration and prints what all would take."""
    slots = (engine if isinstance(engine, LocalEngine) else LocalEngine()).slots()
    threads = torch.get_num_threads()
    torch.set_num_threads(slots[0].threads)
    runs = Counter(spec.model for spec in plan)
    first = {spec.model: spec for spec in reversed(plan)}
    table = Table(box=None, padding=(0, 2))
    for heading in ("model", "runs", "training a run", "all its runs"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    total = 0.0
    with display.stage("timing a few steps of each model") as progress:
        for done, (model, count) in enumerate(runs.items()):
            progress(done, len(runs))
            try:
                seconds = training_seconds(first[model], splits)
            except (FIFError, ArithmeticError, RuntimeError) as error:
                line = str(error).splitlines()[0]
                table.add_row(model, str(count), f"fails at once: {line}", "")
                continue
            total += seconds * count
            table.add_row(model, str(count), duration(seconds), duration(seconds * count))
    torch.set_num_threads(threads)
    console.print(table)
    console.print(
        f"estimate from a few timed steps of each model's first configuration: training takes "
        f"{duration(total)} one after the other, {duration(total / len(slots))} on this machine's "
        f"{len(slots)} {'slot' if len(slots) == 1 else 'slots'}; samplers, scores and start of "
        f"each run come on top",
        soft_wrap=True,
    )
