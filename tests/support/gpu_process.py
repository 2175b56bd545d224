"""A process that sees a pretended GPU, and does there what tests send it."""

import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from support.processes import CONTEXT, process_of


class GpuProcess:
    """Functions called one after another in a process of their own, on a pretended GPU."""

    def __init__(self) -> None:
        self._ours, theirs = CONTEXT.Pipe()
        self._process = process_of(_serve, theirs)
        theirs.close()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function of a module gives there, with its counts where it takes them."""
        self._ours.send((function, arguments))
        result, error = self._ours.recv()
        assert error is None, error
        return result

    def end(self) -> None:
        """Ends the process."""
        self._ours.close()
        self._process.join()


def _serve(pipe: Connection) -> None:
    from support.pretended_gpu import pretended, register

    register()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            torch.manual_seed(0)
            with pretended():
                result = function(*arguments)
            pipe.send((result, None))
        except BaseException:
            pipe.send((None, traceback.format_exc()))
