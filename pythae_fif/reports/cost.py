"""What every model of an experiment cost: time, memory, parameters."""

__all__ = ["cost_grid"]

import statistics
from typing import Any

from pythae_fif.benchmark.model_entry import load_model_entry
from pythae_fif.benchmark.selection import Result
from pythae_fif.reports.grid import DASH, Cell, Grid


def cost_grid(results: list[Result]) -> Grid:
    """A row a model; seconds, speed and memory are means over its finished runs.

    Args:
        results: Specification and record of the finished runs; at least one.
    """
    models: dict[str, list[dict[str, Any]]] = {}
    for spec, record in results:
        models.setdefault(spec.model, []).append(record)
    machines = dict.fromkeys(
        f"{p['device']} with {p['cores']} cores; threads of a run: {p.get('threads', DASH)}"
        for _, record in results
        for p in [record["provenance"]]
    )
    return Grid(
        title="Cost",
        headings=["Model", "parameters", "runs", "train s", "images/s", "peak memory MiB", "all h"],
        align="lrrrrrr",
        rows=[_row(name, records) for name, records in models.items()],
        notes=[
            "Means over the finished runs of a model: seconds of training without sampling and "
            "scoring, training images a second, and the largest memory of the process (of the GPU "
            "where there is one). `all h` is the wall-clock time of these runs, with sampling and "
            "scoring, without what attempts took that were cut off.",
            f"On {', '.join(machines)}; what else ran on the machine at the time is not known.",
        ],
    )


def _row(name: str, records: list[dict[str, Any]]) -> list[Cell]:
    training = [record["training"] for record in records]
    provenance = [record["provenance"] for record in records]
    memory = [p.get("peak_gpu_memory_mb") or p.get("peak_memory_mb") for p in provenance]
    hours = sum(p.get("seconds", 0) for p in provenance) / 3600
    return [
        Cell(load_model_entry(name).label),
        Cell(f"{records[0]['parameters']:,}", records[0]["parameters"]),
        Cell(str(len(records)), len(records)),
        _mean([t["seconds"] for t in training]),
        _mean([t.get("images_per_second") for t in training]),
        _mean(memory),
        Cell(f"{hours:.2f}", hours) if hours else Cell(DASH),
    ]


def _mean(values: list[float | None]) -> Cell:
    known = [value for value in values if value is not None]
    if not known:
        return Cell(DASH)
    mean = statistics.fmean(known)
    return Cell(f"{mean:,.0f}", mean)
