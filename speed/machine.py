"""What the measurements share: a timed call, the memory it took, and a table of the results."""

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch


def seconds(function: Callable[[], object], device: str) -> float:
    """Times one call.

    Args:
        function: What is timed.
        device: 'cpu' or 'cuda'; a GPU is synchronised before and after the call.

    Returns:
        Seconds of wall-clock time.
    """
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory_mb(device: str, reset: bool = False) -> float:
    """Returns the largest memory of the process, or of the GPU since the last reset, in MB.

    Args:
        device: 'cpu' or 'cuda'.
        reset: Whether to reset the GPU's peak first. A process's peak cannot be reset.
    """
    if device == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / 2**20

    status = Path("/proc/self/status").read_text()
    kilobytes = int(status.partition("VmHWM:")[2].split()[0])
    return kilobytes / 2**10


def markdown(rows: list[dict[str, str]]) -> str:
    """Formats rows with the same keys as a Markdown table."""
    headings = list(rows[0])
    alignments = ["---"] + ["--:"] * (len(headings) - 1)
    lines = [headings, alignments, *(list(row.values()) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def command(output: str) -> str:
    """Returns this program's command without the output file and the folder of the data.

    Args:
        output: The file that the program writes.
    """
    words = " ".join(["python", *sys.argv]).replace(f" --output {output}", "")
    return re.sub(r"(--data-root)[ =]\S+", r"\1 DIR", words)
