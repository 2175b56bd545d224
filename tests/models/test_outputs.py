"""Calls that may need gradients, and those that may not."""

import pytest
import torch

from pythae_fif.models.outputs import without_gradients


def test_gradients_are_there_only_for_what_differentiates():
    x = torch.ones(3, requires_grad=True)
    assert not without_gradients(torch.exp, x).requires_grad
    (found,) = without_gradients(lambda: torch.autograd.grad(x.exp().sum(), x))
    torch.testing.assert_close(found, x.exp())


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError, RuntimeError])
def test_other_errors_are_raised_at_once(error):
    calls = []

    def call():
        calls.append(error("CUDA out of memory"))
        raise calls[-1]

    with pytest.raises(error, match="out of memory"):
        without_gradients(call)
    assert len(calls) == 1
