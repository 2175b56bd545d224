"""What every model of an experiment cost: time, memory, parameters."""

__all__ = ["cost_grid"]

import statistics
from collections.abc import Iterable, Sequence

from pythae_fif.benchmark.model_entry import read_model_entry
from pythae_fif.benchmark.record import ImageRecord
from pythae_fif.benchmark.selection import Result
from pythae_fif.reports.grid import DASH, Cell, Grid, measured


def cost_grid(results: Sequence[Result]) -> Grid:
    """A row a model; seconds, speed and memory are means over its finished runs.

    Args:
        results: The finished runs; at least one.
    """
    models: dict[str, list[ImageRecord]] = {}
    for result in results:
        models.setdefault(result.spec.model, []).append(result.record)
    machines = dict.fromkeys(
        f"{p.machine}; threads of a run: {p.threads or DASH}"
        for p in (result.record.provenance for result in results)
    )
    things = "rows" if results[0].spec.arch == "tabular" else "images"
    return Grid(
        title="Cost",
        headings=[
            "Model",
            "parameters",
            "runs",
            "train s",
            f"{things}/s",
            "peak memory MiB",
            "all h",
        ],
        align="lrrrrrr",
        rows=[_row(name, records) for name, records in models.items()],
        notes=[
            "Means over the finished runs of a model: seconds of training without sampling and "
            f"scoring, training {things} a second, and the largest memory of the process (of the "
            "GPU where there is one). `all h` is the wall-clock time of these runs, with sampling "
            "and scoring, without what attempts took that were cut off.",
            f"On {', '.join(machines)}; what else ran on the machine at the time is not known.",
        ],
    )


def _row(name: str, records: list[ImageRecord]) -> list[Cell]:
    training = [record.training for record in records]
    provenance = [record.provenance for record in records]
    hours = sum(p.seconds or 0 for p in provenance) / 3600
    return [
        Cell(read_model_entry(name).label),
        measured(records[0].parameters, ",d"),
        measured(len(records), "d"),
        _mean(t.seconds for t in training),
        _mean(t.images_per_second for t in training),
        _mean(p.peak_gpu_memory_mb or p.peak_memory_mb for p in provenance),
        measured(hours or None, ".2f"),
    ]


def _mean(values: Iterable[float | None]) -> Cell:
    known = [value for value in values if value is not None]
    return measured(statistics.fmean(known) if known else None, ",.0f")
