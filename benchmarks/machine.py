"""What the benchmarks share: a timed call, the memory it took, and a table of the results."""

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

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


def peak_memory_mb(device: str, reset: bool = False) -> float:
    """The largest memory of the process, or of the GPU since the last reset, in MB."""
    if device == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / 2**20
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 2**10


def markdown(rows: list[dict[str, str]]) -> str:
    """A table of rows with the same keys."""
    lines = [
        list(rows[0]),
        ["---"] + ["--:"] * (len(rows[0]) - 1),
        *(list(row.values()) for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def command(output: str) -> str:
    """This program's command without the file that it writes and the place of the data."""
    words = " ".join(["python", *sys.argv]).replace(f" --output {output}", "")
    return re.sub(r"(--data-root)[ =]\S+", r"\1 DIR", words)
