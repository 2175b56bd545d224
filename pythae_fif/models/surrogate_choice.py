"""The choice of the function that computes the volume term of a model's loss."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from pythae_fif.device import fork_rng, full_float32
from pythae_fif.errors import SlowerTrainingWarning, UnsupportedOperationError
from pythae_fif.nn.base import evaluation_mode
from pythae_fif.volume_change import autograd_surrogate, volume_surrogate
from pythae_fif.volume_change.loss import SurrogateOutput
from pythae_fif.volume_change.replay import Tape, check_parts, check_replay

SURROGATES: dict[str, Callable[..., SurrogateOutput]] = {
    "replay": volume_surrogate,
    "published": autograd_surrogate,
    "double backward": partial(autograd_surrogate, forward_mode=False),
}
"""Surrogate mode -> the function that computes the volume term."""


def choose_surrogate(model: Any, x: Tensor, *condition: Tensor) -> str:
    """Returns 'replay' if both networks can be replayed, 'double backward' otherwise.

    The trial changes no state of the model.

    Args:
        model: A :class:`~pythae_fif.models.FIF`.
        x: A batch of data, (B, ...).
        *condition: The condition (B, c) of a conditional model.

    Warns:
        SlowerTrainingWarning: A network cannot be replayed; the message names the operation.
    """
    with fork_rng(), full_float32(), _restore_buffers(model):
        try:
            _try_replay(model, x, *condition)
            return "replay"
        except UnsupportedOperationError as error:
            reason = str(error)
    warnings.warn(
        f"{model.model_name} falls back to double backward, which is slower: {reason}",
        SlowerTrainingWarning,
        stacklevel=2,
    )
    return "double backward"


def _try_replay(model: Any, x: Tensor, *condition: Tensor) -> None:
    """Raises UnsupportedOperationError if a network cannot be replayed."""
    encode, decode = model.networks_at(*condition)
    parts = model.model_config.surrogate_fraction < 1
    with evaluation_mode(model):  # so that two passes give equal values
        check_replay(encode, x, parts=parts)
        check_replay(decode, encode(x), parts=parts)

    # With a gradient, operations that the tape does not see leave a graph, which it detects.
    f = Tape(encode, x.detach().requires_grad_())
    g = Tape(decode, f.value)
    if parts:
        check_parts(f, x)
        check_parts(g, f.value)


@contextmanager
def _restore_buffers(model: nn.Module) -> Iterator[None]:
    """Restores all buffers of a model, and their values, after the block."""
    saved_buffers = []  # the module, the buffer's name, the buffer, a copy of its values
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                saved_buffers.append((module, name, buffer, buffer.clone()))
    try:
        yield
    finally:
        for module, name, buffer, values in saved_buffers:
            module._buffers[name] = buffer  # a module may have assigned another tensor
            buffer.data.copy_(values)
