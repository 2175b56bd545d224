"""The pretended GPU, in a process that the tests of this folder share."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import pytest
from support.pretended_gpu import register, there
from support.processes import CONTEXT
from torch.utils import backend_registration


@pytest.fixture(scope="session")
def gpu() -> Iterator[Callable[..., Any]]:
    """Calls functions of a module where `cuda` is a pretended GPU."""
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch has no devices in Python (2.10 has), so that none can be pretended")
    with ProcessPoolExecutor(1, CONTEXT, register) as process:
        submit = partial(process.submit, there)
        yield lambda *call: submit(*call).result()
