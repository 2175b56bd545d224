"""The pretended GPU refuses and counts as CUDA would."""

import pytest
import torch
from support.pretended_gpu import counting

ON = {"device": "cuda"}


def _of_cpu_times():
    return torch.ones(2, **ON) * torch.ones(2)


def _network():
    return torch.nn.Linear(2, 2)(torch.ones(1, 2, **ON))


def _numpy():
    return torch.ones(2, **ON).numpy()


def _generator_of_cpu():
    return torch.randn(2, generator=torch.Generator(), **ON)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (_of_cpu_times, "same device"),
        (_network, "same device"),
        (_numpy, "to numpy"),
        (_generator_of_cpu, "device type for generator"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_mistake_is_refused(gpu, mistake, message):
    with pytest.raises((RuntimeError, TypeError), match=message):
        gpu(mistake)


def _item():
    torch.ones(1, **ON).item()


def _mask():
    x = torch.ones(3, **ON)
    x[x > 0]


def _to_cpu():
    torch.ones(3, **ON).cpu()


def _made_of_a_list():
    torch.tensor([1.0, 2.0], **ON)


def _inverse():
    torch.linalg.inv(torch.eye(2, **ON))


def _waits_of(function):
    with counting() as counts:
        function()
    return dict(counts.waits)


@pytest.mark.parametrize(
    "function", [_item, _mask, _to_cpu, _made_of_a_list, _inverse], ids=lambda f: f.__name__
)
def test_wait_is_counted_with_its_place(gpu, function):
    ((place, count),) = gpu(_waits_of, function).items()
    assert count == 1
    assert f"gpu/{__file__.rpartition('/')[2]}:" in place
