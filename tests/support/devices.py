"""The devices that a test runs on: the CPU always, and CUDA where it is there."""

import pytest
import torch

ON_GPU = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))
DEVICES = ["cpu", pytest.param("cuda", marks=ON_GPU)]
