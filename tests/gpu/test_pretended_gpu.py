"""The pretended GPU refuses and counts as CUDA would."""

import pytest
import torch
from support.pretended_gpu import counting

CUDA = {"device": "cuda"}


def _count_waits(expression):
    """Evaluates an expression, and returns reason and place -> how often the host waits."""
    with counting() as counts:
        eval(expression, {"torch": torch, "CUDA": CUDA})
    return dict(counts.waits)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("torch.ones(2, **CUDA) * torch.ones(2)", "same device"),
        ("torch.nn.Linear(2, 2)(torch.ones(1, 2, **CUDA))", "same device"),
        ("torch.ones(2, **CUDA).numpy()", "to numpy"),
        ("torch.randn(2, generator=torch.Generator(), **CUDA)", "device type for generator"),
    ],
)
def test_mistake_is_refused(gpu, mistake, message):
    with pytest.raises((RuntimeError, TypeError), match=message):
        gpu(_count_waits, mistake)


@pytest.mark.parametrize(
    "expression",
    [
        "torch.ones(1, **CUDA).item()",
        "torch.ones(3, **CUDA)[torch.ones(3, **CUDA) > 0]",
        "torch.ones(3, **CUDA).cpu()",
        "torch.tensor([1.0, 2.0], **CUDA)",
        "torch.linalg.inv(torch.eye(2, **CUDA))",
    ],
)
def test_wait_is_counted_with_its_place(gpu, expression):
    ((place, count),) = gpu(_count_waits, expression).items()
    assert count == 1
    assert place.endswith(", <string>:1")
