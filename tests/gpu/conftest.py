"""The pretended GPU, in a process that the tests of this folder share."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import pytest
from support.pretended_gpu import register, run_on_gpu
from support.processes import CONTEXT
from torch.utils import backend_registration


@pytest.fixture(scope="session")
def gpu() -> Iterator[Callable[..., Any]]:
    """A function that calls functions in the process, in which `cuda` is a pretended GPU."""
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch does not support devices in Python: 2.10 does")
    with ProcessPoolExecutor(1, CONTEXT, register) as process:
        submit = partial(process.submit, run_on_gpu)
        yield lambda *call: submit(*call).result()
