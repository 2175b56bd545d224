"""Where, when and with what a record was made."""

__all__ = ["git_revision", "provenance"]

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch


def provenance(device: str, started: float) -> dict[str, Any]:
    """Where, when and with what a record was made: nothing of it is in the run id."""
    packages = ("pythae-fif", "pythae", "torch", "numpy", "scikit-learn")
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    on_gpu = torch.cuda.max_memory_allocated() / 2**20 if device.startswith("cuda") else None
    return {
        "versions": {p: importlib.metadata.version(p) for p in packages},
        "python": platform.python_version(),
        "git_revision": git_revision(),
        "device": f"{device} ({name})",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 2),
        "peak_memory_mb": _peak_memory_mb(),
        "peak_gpu_memory_mb": None if on_gpu is None else round(on_gpu),
    }


def _peak_memory_mb() -> int | None:
    """The largest resident size of this process so far, in MiB; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


def git_revision() -> str | None:
    """The revision of the checkout that this package runs from, with a + if it was changed."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=folder, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
