"""Processes of tests: fresh, from a fork server that has imported the package once."""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import filelock

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["pythae_fif.benchmark.image_run", "matplotlib.figure", "torch._dynamo"]
)


def process_of(target: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """A process that is started."""
    process = CONTEXT.Process(target=target, args=arguments)
    process.start()
    return process


def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Waits until a condition holds; fails where it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def is_locked(folder: Path) -> bool:
    """Whether a process works on a run at this moment."""
    try:
        with filelock.FileLock(folder / ".run.lock", timeout=0):
            return False
    except filelock.Timeout:
        return True
