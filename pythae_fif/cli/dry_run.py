"""`run --dry-run`: the plan of a benchmark, and an estimate of its time."""

__all__ = ["networks_line", "print_estimate", "print_plan"]

from collections import Counter

import torch
from rich.console import Console
from rich.table import Table

from pythae_fif.benchmark.config import Experiment, length_of
from pythae_fif.benchmark.display import Display, duration
from pythae_fif.benchmark.estimate import training_seconds
from pythae_fif.benchmark.plan import RunSpec
from pythae_fif.data import Splits
from pythae_fif.data.splits import by_sides
from pythae_fif.errors import counted
from pythae_fif.nn.build import has_pythae_nets
from pythae_fif.runs.engines.common import Engine
from pythae_fif.runs.engines.local import LocalEngine
from pythae_fif.runs.execute import line_of


def networks_line(experiment: Experiment, splits: Splits) -> str:
    """Whose nets are trained: Pythae's for some shapes, small ones for others."""
    pythaes = has_pythae_nets(experiment.arch, splits.input_dim)
    whose = "Pythae's " if pythaes else "small " if experiment.arch != "tabular" else ""
    dims = dict.fromkeys(str(experiment.latent_dim_of(model)) for model in experiment.models)
    data = f"{splits.things} of {by_sides(splits.input_dim)}"
    return f"networks: {whose}{experiment.arch} for {data}, latent dimension {' or '.join(dims)}"


def print_plan(
    console: Console,
    experiment: Experiment,
    splits: Splits,
    plan: list[RunSpec],
    todo: list[RunSpec] | None,
) -> None:
    """Prints the runs of a plan, a line each, and what is the same for all.

    Args:
        console: Where.
        experiment, splits, plan: As of the plan.
        todo: Those of them that the store lacks; None where that is not known.
    """
    runs = counted(len(plan), "run")
    title = runs if todo is None else f"{runs}, {len(todo)} of them to do"
    table = Table(title=title, box=None, padding=(0, 2))
    for heading in ("run id", "model", "configuration", "seed", ""):
        table.add_column(heading, overflow="fold")
    left = {spec.run_id for spec in (plan if todo is None else todo)}
    for spec in plan:
        there = "" if spec.run_id in left else "there"
        table.add_row(spec.run_id, spec.model, spec.configuration, str(spec.seed), there)
    console.print(table)
    settings = experiment.settings
    console.print(
        f"{experiment.dataset}, {experiment.arch}, profile {experiment.profile}: "
        f"{len(splits.train):,} training {splits.things} of shape {splits.input_dim}, "
        f"{length_of(settings)}, samplers {', '.join(experiment.samplers)}, "
        f"extractor {experiment.extractor}",
        markup=False,
    )
    console.print(networks_line(experiment, splits), markup=False)


def print_estimate(
    console: Console,
    display: Display,
    splits: Splits,
    plan: list[RunSpec],
    engine: Engine,
) -> bool:
    """Times a few steps of every model's first configuration and prints what all would take.

    Returns:
        Whether every model could take them.
    """
    slots = (engine if isinstance(engine, LocalEngine) else LocalEngine()).slots()
    threads = torch.get_num_threads()
    torch.set_num_threads(slots[0].threads)
    runs = Counter(spec.model for spec in plan)
    first = {spec.model: spec for spec in reversed(plan)}
    table = Table(box=None, padding=(0, 2))
    for heading in ("model", "runs", "training a run", "all its runs"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    total = longest = 0.0
    all_start = True
    with display.stage("timing a few steps of each model") as progress:
        for done, (model, count) in enumerate(runs.items()):
            progress(done, len(runs))
            try:
                seconds = training_seconds(first[model], splits)
            except Exception as error:  # of somebody's model, anything
                table.add_row(model, str(count), f"fails at once: {line_of(error)}", "")
                all_start = False
                continue
            total, longest = total + seconds * count, max(longest, seconds)
            table.add_row(model, str(count), duration(seconds), duration(seconds * count))
    torch.set_num_threads(threads)
    console.print(table)
    least = max(total / len(slots), longest)
    console.print(
        f"estimate from a few timed steps of each model's first configuration: training takes "
        f"{duration(total)} one after the other, {duration(least)} on this machine's "
        f"{counted(len(slots), 'slot')}; samplers, scores and start of "
        f"each run come on top"
    )
    return all_start
