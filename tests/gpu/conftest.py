"""The pretended GPU, in a process that the tests of this folder share."""

from collections.abc import Iterator

import pytest
from support.gpu_process import GpuProcess


@pytest.fixture(scope="session")
def gpu() -> Iterator[GpuProcess]:
    """Calls functions where `cuda` is a pretended GPU."""
    try:
        from torch.utils.backend_registration import (
            _setup_privateuseone_for_python_backend,  # noqa: F401
        )
    except ImportError:
        pytest.skip("this torch has no devices in Python (2.10 has), so that none can be pretended")
    process = GpuProcess()
    yield process
    process.end()
