"""The devices that a test runs on: always the CPU, and CUDA if it is available."""

import pytest
import torch

ON_GPU = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))
DEVICES = ["cpu", pytest.param("cuda", marks=ON_GPU)]
