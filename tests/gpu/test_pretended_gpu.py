"""The pretended GPU refuses and counts as CUDA would."""

import pytest
import torch
from support.pretended_gpu import counting

ON = {"device": "cuda"}


def _waits_of(expression):
    """Reason and place -> how often the host waits in it."""
    with counting() as counts:
        eval(expression, {"torch": torch, "ON": ON})
    return dict(counts.waits)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("torch.ones(2, **ON) * torch.ones(2)", "same device"),
        ("torch.nn.Linear(2, 2)(torch.ones(1, 2, **ON))", "same device"),
        ("torch.ones(2, **ON).numpy()", "to numpy"),
        ("torch.randn(2, generator=torch.Generator(), **ON)", "device type for generator"),
    ],
)
def test_mistake_is_refused(gpu, mistake, message):
    with pytest.raises((RuntimeError, TypeError), match=message):
        gpu(_waits_of, mistake)


@pytest.mark.parametrize(
    "expression",
    [
        "torch.ones(1, **ON).item()",
        "torch.ones(3, **ON)[torch.ones(3, **ON) > 0]",
        "torch.ones(3, **ON).cpu()",
        "torch.tensor([1.0, 2.0], **ON)",
        "torch.linalg.inv(torch.eye(2, **ON))",
    ],
)
def test_wait_is_counted_with_its_place(gpu, expression):
    ((place, count),) = gpu(_waits_of, expression).items()
    assert count == 1 and place.endswith(", <string>:1")
