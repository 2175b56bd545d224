"""Processes of tests: fresh, from a fork server that has imported the package once."""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

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
