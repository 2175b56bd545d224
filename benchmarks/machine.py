"""What the benchmarks share: a timed call, and a table of the results."""

import sys
import time
from collections.abc import Callable

import torch


def seconds(function: Callable[[], object], device: str) -> float:
    """One timed call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def markdown(rows: list[dict[str, str]]) -> str:
    """A table of rows with the same keys."""
    lines = [
        list(rows[0]),
        ["---"] + ["--:"] * (len(rows[0]) - 1),
        *(list(row.values()) for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def command(output: str) -> str:
    """This program's command without the file that it writes."""
    return " ".join(["python", *sys.argv]).replace(f" --output {output}", "")
