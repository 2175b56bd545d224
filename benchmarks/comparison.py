"""Compares arms of `paired`: paired differences, their noise, and tables.

All differences are of log-densities of the same test points, with the same seeds.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from paired import PRIORS, Arm, Records, Task, has_failed, read_folder, run_all
from scipy.stats import t as student_t
from scipy.stats import ttest_1samp

from pythae_fif.files import write_bytes
from pythae_fif.reports.tables import DASH, Table, number

PRIOR_LABELS = {"mixture": "mixture", "normal": "N"}
CONFIDENCE = 0.9


class Difference(NamedTuple):
    """The mean difference of two arms' likelihoods, in nats.

    Attributes:
        mean: Mean over seeds and test points.
        seeds: Number of seeds for which neither arm failed.
        failures: Number of failed runs of each arm.
        seed_error: Standard error over seeds; NaN for one seed.
        point_error: Standard error over test points, of differences averaged over seeds.
        p: Two-sided p-value of a paired t-test over seeds; NaN for one seed.
    """

    mean: float
    seeds: int
    failures: tuple[int, int]
    seed_error: float
    point_error: float
    p: float

    @property
    def margin(self) -> float:
        """Half the length of the 90 % interval, from the noise of seeds and of test points."""
        quantile = student_t.ppf((1 + CONFIDENCE) / 2, self._freedom)
        return float(quantile) * self._standard_error

    @property
    def p_with_points(self) -> float:
        """Two-sided p-value of a t-test with the noise of seeds and of test points."""
        return float(2 * student_t.sf(abs(self.mean) / self._standard_error, self._freedom))

    @property
    def _standard_error(self) -> float:
        return math.hypot(self.seed_error, self.point_error)

    @property
    def _freedom(self) -> float:
        """Satterthwaite's degrees of freedom, with those of the points taken as infinite."""
        return (self.seeds - 1) * self._standard_error**4 / self.seed_error**4


def compare(
    first: dict[int, dict[str, Any]], second: dict[int, dict[str, Any]], prior: str
) -> Difference | None:
    """Compares two arms' likelihoods, paired over seeds and test points.

    Args:
        first: Records of the arm that is compared, by seed.
        second: Records of the other arm.
        prior: One of `PRIORS`.

    Returns:
        The first arm's likelihood minus the second's; None without a common seed.
    """
    differences = []
    failures = np.zeros(2, int)
    for seed in sorted(first.keys() & second.keys()):
        pair = (first[seed], second[seed])
        failed = [has_failed(record) for record in pair]
        failures += failed
        if not any(failed):
            values = [record["point_nats"][prior] for record in pair]
            differences.append(values[0] - values[1])
    if not differences:
        return None

    by_point = np.mean(differences, 0)
    by_seed = np.mean(differences, 1)
    seeds = len(by_seed)
    has_spread = seeds > 1
    return Difference(
        mean=float(by_seed.mean()),
        seeds=seeds,
        failures=(int(failures[0]), int(failures[1])),
        seed_error=float(by_seed.std(ddof=1)) / math.sqrt(seeds) if has_spread else math.nan,
        point_error=float(by_point.std(ddof=1)) / math.sqrt(len(by_point)),
        p=float(ttest_1samp(by_seed, 0).pvalue) if has_spread else math.nan,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values for their number by Holm's method; a NaN counts as 1."""
    values = np.nan_to_num(np.asarray(p_values, float), nan=1.0)
    order = np.argsort(values)
    factors = np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.maximum.accumulate(factors * values[order]).clip(max=1)
    return adjusted.tolist()


def level_table(records: Records, tasks: Mapping[str, Task], labels: Mapping[str, str]) -> Table:
    """Makes a table of all arms: means and standard deviations over seeds.

    Args:
        records: The records.
        tasks: The tasks by their names.
        labels: Arm -> its label.
    """
    lines = []
    for task in tasks:
        for arm, label in labels.items():
            runs = list(records.get(task, {}).get(arm, {}).values())
            finished = [record for record in runs if not has_failed(record)]
            if finished:
                line = {"data": task, "arm": label, **_level_cells(finished)}
                lines.append(
                    line | {"seeds (failed)": f"{len(runs)} ({len(runs) - len(finished)})"}
                )
    note = "± is the standard deviation over seeds. Failed runs are left out."
    return Table("All arms", pd.DataFrame(lines), notes=[note, *_describe_runs(records)])


def _describe_runs(records: Records) -> list[str]:
    """Describes the data of all runs, and what made them."""
    runs = [
        record
        for arms in records.values()
        for by_seed in arms.values()
        for record in by_seed.values()
    ]
    data = sorted({record["data"] for record in runs})
    revisions = sorted({str(record["revision"]) for record in runs})
    processors = sorted({record["processor"] for record in runs})
    return [
        f"Data: {'; '.join(data)}.",
        f"Runs of revision {', '.join(revisions)} on {', '.join(processors)}, one thread.",
    ]


def _level_cells(records: list[dict[str, Any]]) -> dict[str, str]:
    cells = {}
    for prior in PRIORS:
        cells[f"nats, {PRIOR_LABELS[prior]} ↑"] = _spread(
            [record["nats"][prior] for record in records]
        )
    for prior in PRIORS:
        cells[f"distance, {PRIOR_LABELS[prior]} ↓"] = _spread(
            [record["distance"][prior] for record in records]
        )
    cells["squared error ↓"] = _spread([record["mse"] for record in records])
    cells["tr f'g'/d"] = _spread([record["trace"] for record in records])
    cells["beta"] = _spread([record["beta"] for record in records if record["beta"] is not None])
    cells["training, CPU s"] = f"{np.mean([record['train_seconds'] for record in records]):.0f}"
    return cells


def _spread(values: list[float]) -> str:
    if not values:
        return DASH
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return number(float(np.mean(values)), deviation)


def difference_cells(difference: Difference | None) -> dict[str, str]:
    """Returns the cells of a difference, by heading."""
    if difference is None:
        headings = ("nats", "± seeds", "± points", "90 %", "p", "pairs", "failed")
        return dict.fromkeys(headings, DASH)

    low = difference.mean - difference.margin
    high = difference.mean + difference.margin
    cells = {
        "nats": f"{difference.mean:.3f}",
        "± seeds": f"{difference.seed_error:.3f}",
        "± points": f"{difference.point_error:.3f}",
        "90 %": f"{low:.3f} to {high:.3f}",
        "p": f"{difference.p:.2g}",
        "pairs": str(difference.seeds),
        "failed": "{} + {}".format(*difference.failures),
    }
    return {heading: DASH if "nan" in text else text for heading, text in cells.items()}


def missing_seeds(
    records: Records, arms: Sequence[str], seeds: Mapping[str, Sequence[int]]
) -> list[str]:
    """Describes the tasks that are not finished, such as 'power 3 of 10 seeds'.

    Args:
        records: The records.
        arms: Names of the arms.
        seeds: Task -> its seeds.
    """
    missing = []
    for task, task_seeds in seeds.items():
        finished = set(task_seeds)
        for arm in arms:
            finished &= records.get(task, {}).get(arm, {}).keys()
        if len(finished) < len(task_seeds):
            missing.append(f"{task} {len(finished)} of {len(task_seeds)} seeds")
    return missing


def restrict(records: Records, seeds: Mapping[str, Sequence[int]]) -> Records:
    """Returns the records of some seeds.

    Args:
        records: The records.
        seeds: Task -> its seeds.
    """
    return {
        task: {
            arm: {seed: record for seed, record in runs.items() if seed in seeds[task]}
            for arm, runs in arms.items()
        }
        for task, arms in records.items()
    }


def run_command(
    description: str | None,
    tasks: Mapping[str, Task],
    arms: Mapping[str, Arm],
    seeds: Mapping[str, Sequence[int]],
    report: Callable[[Records], str],
) -> None:
    """Runs the command line of an experiment.

    Args:
        description: The experiment's docstring.
        tasks: Name -> task.
        arms: Name -> arm.
        seeds: Task -> its seeds.
        report: Makes the tables of the records, in Markdown.
    """
    flags = parse_flags(description, tasks, arms, ["run", "report"])
    if flags.command == "run":
        run_chosen(flags, tasks, arms, seeds)
    else:
        write_report(report(read_folder(flags.records)), flags.output)


def parse_flags(
    description: str | None, tasks: Iterable[str], arms: Iterable[str], commands: Sequence[str]
) -> argparse.Namespace:
    """Parses the command line of an experiment.

    Args:
        description: The experiment's docstring.
        tasks: Names of the tasks.
        arms: Names of the arms.
        commands: Names of the commands.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("command", choices=commands)
    parser.add_argument("records", type=Path, help="folder of the records")
    parser.add_argument("--data-root", default="")
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=list(tasks))
    parser.add_argument("--arms", nargs="+", choices=arms, default=list(arms))
    parser.add_argument("--seeds", nargs="+", type=int, help="default: all")
    parser.add_argument("--output", type=Path, help="Markdown file to write the tables to")
    return parser.parse_args()


def run_chosen(
    flags: argparse.Namespace,
    tasks: Mapping[str, Task],
    arms: Mapping[str, Arm],
    seeds: Mapping[str, Sequence[int]],
) -> None:
    """Makes the runs that the flags of :func:`parse_flags` choose.

    Args:
        flags: The flags.
        tasks: Name -> task.
        arms: Name -> arm.
        seeds: Task -> its seeds.
    """
    chosen_tasks = [tasks[name] for name in flags.tasks]
    chosen_arms = {name: arms[name] for name in flags.arms}
    chosen_seeds = {name: flags.seeds or seeds[name] for name in flags.tasks}
    run_all(chosen_tasks, chosen_arms, chosen_seeds, flags.records, flags.data_root)


def write_report(text: str, path: Path | None) -> None:
    """Prints the tables, and writes them to a file if there is a path."""
    print(text)
    if path:
        write_bytes(path, text.encode())
