"""What the benchmarks share: the machine's name, time and memory, and a table of the results."""

import platform
import time
from collections.abc import Callable
from pathlib import Path


def processor() -> str:
    """Its model, where Linux tells it: bfloat16 is twice as fast on some."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def peak_kilobytes() -> int:
    """The largest resident size so far; `getrusage` would count the process that started this."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def seconds(function: Callable[[], object], device: str) -> float:
    """One timed call."""
    import torch  # which benchmarks of the start bring in later

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
