"""The devices that a test runs on: the CPU always, and CUDA where it is there."""

import pytest
import torch

ON_GPU = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
)
ON_GPUS = (
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two GPUs"),
)
DEVICES = ["cpu", pytest.param("cuda", marks=ON_GPU)]
PLACES_OF_TWO = ["cpu", pytest.param("cuda", marks=ON_GPUS)]
"""Of two processes, which have a GPU each."""
