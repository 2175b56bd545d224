"""A model's training loss, compiled where it can be."""

__all__ = ["compiled_loss"]

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from pythae.models import BaseAE
from torch import Tensor

from pythae_fif.errors import first_line
from pythae_fif.volume_change import FIFLoss

logger = logging.getLogger(__name__)

BACKEND: Any = "inductor"


@contextlib.contextmanager
def compiled_loss(model: BaseAE, device: str) -> Iterator[None]:
    """Within it the model's `training_loss` is compiled, for every batch size by itself.

    On the CPU by inductor, which needs a C++ compiler; on CUDA with graphs as well, so that the
    host starts a step's kernels at once. Random numbers are drawn outside, as ever. Where something
    cannot be compiled, one line in the log says what, and training goes on without.

    Args:
        model: FIF; any other model trains as ever.
        device: Of the training, 'cpu' or 'cuda'.
    """
    eager = getattr(model, "training_loss", None)
    if eager is None:
        logger.warning("compile: %s trains uncompiled (only FIF can be)", type(model).__name__)
        yield
        return

    def traced(*arguments: Tensor | None) -> tuple[Tensor, ...]:
        loss, *terms = eager(*arguments)
        return (loss, *(term.detach() for term in terms))  # no gradient flows but the loss's

    # The compiler keeps a few graphs for each code object: another training starts with none.
    traced.__code__ = traced.__code__.replace()
    mode = "reduce-overhead" if device == "cuda" else None
    compiled: Any = torch.compile(traced, fullgraph=True, dynamic=False, backend=BACKEND, mode=mode)

    def training_loss(x: Tensor, condition: Tensor | None, eps: Tensor, beta: float) -> FIFLoss:
        nonlocal compiled
        if compiled is not None:
            # As a number, each beta of a schedule would be compiled anew.
            weight = torch.full((), beta, dtype=x.dtype, device=x.device)
            try:
                torch.compiler.cudagraph_mark_step_begin()
                return FIFLoss(*compiled(x, condition, eps, weight))
            except Exception as error:
                if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                    raise
                compiled = None
                name = type(model).__name__
                logger.warning("compile: %s trains uncompiled (%s)", name, first_line(error))
        loss: FIFLoss = eager(x, condition, eps, beta)
        return loss

    model.training_loss = training_loss
    try:
        yield
    finally:
        del model.training_loss
