"""Starts processes from a fork server that has imported the package once."""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import filelock

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["pythae_fif.benchmark.job", "matplotlib.figure", "torch._dynamo"])


def start_process(target: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Starts a process that calls a function, and returns it."""
    process = CONTEXT.Process(target=target, args=arguments)
    process.start()
    return process


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Waits until a condition holds, and fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition does not hold after {seconds} seconds"
        time.sleep(0.02)


def is_locked(folder: Path) -> bool:
    """Returns whether a process is executing the run in a folder."""
    try:
        with filelock.FileLock(folder / ".run.lock", timeout=0):
            return False
    except filelock.Timeout:
        return True
