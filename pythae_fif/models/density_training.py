"""Training of densities of codes, for a given number of steps or until they stop improving."""

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pythae_fif.device import fork_rng

FIT_BATCH = 100
"""Codes in a step of a fit by Adam."""

FIXED_RATE = 1e-3
LEARNING_RATES = (3e-3, 1e-3, 3e-4)
"""The learning rate at the start of a fit of a given length, and those of an automatic fit."""

HELD_OUT_SHARE = 0.1
MIN_INTERVAL, MAX_INTERVAL = 50, 200
PATIENCE = 4
MAX_STEPS = 10_000
"""An automatic fit checks its held-out loss after every pass over the codes, but at least
`MIN_INTERVAL` and at most `MAX_INTERVAL` steps apart. It gives up a learning rate after `PATIENCE`
checks without improvement, and ends after `MAX_STEPS` steps at the latest."""


def train_density(
    module: nn.Module, loss: Callable[..., Tensor], data: Sequence[Tensor], steps: int | None
) -> None:
    """Trains a density by Adam on random batches of data.

    With a number of steps the learning rate falls from 1e-3 to 0 along a cosine. Without one the
    length of the training follows the data: see :func:`train_until_converged`.

    Args:
        module: The density.
        loss: Called with a batch of each of the data, returns a scalar.
        data: Tensors (N, ...) that belong together, such as codes and their condition.
        steps: Number of steps, of 100 data points each; None for an automatic number.
    """
    if steps is None:
        train_until_converged(module, loss, data)
        return

    optimizer = torch.optim.Adam(module.parameters(), lr=FIXED_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    module.train()
    for _ in range(steps):
        _take_step(optimizer, loss, data)
        schedule.step()


def train_until_converged(
    module: nn.Module, loss: Callable[..., Tensor], data: Sequence[Tensor]
) -> int:
    """Trains a density until its loss on held-out data stops improving.

    A tenth of the data is held out. The learning rate starts at 3e-3. When the held-out loss has
    not improved for four checks, the weights return to the best ones, and the training goes on from
    them with the next of three learning rates, each about a third of the one before. At the end the
    module has the weights of the lowest held-out loss. The held-out loss may be random: each check
    draws the same random numbers.

    Args: See :func:`train_density`.

    Returns:
        The number of steps taken.
    """
    training_data, held_out = _split(data)
    passes = round(len(training_data[0]) / FIT_BATCH)
    interval = min(max(passes, MIN_INTERVAL), MAX_INTERVAL)
    seed = torch.randint(2**31, ()).item()

    best_loss = _validate(module, loss, held_out, seed)
    best_weights = copy.deepcopy(module.state_dict())
    steps = 0
    for learning_rate in LEARNING_RATES:
        module.load_state_dict(best_weights)
        optimizer = torch.optim.Adam(module.parameters(), lr=learning_rate)
        checks_without_improvement = 0
        while checks_without_improvement < PATIENCE and steps < MAX_STEPS:
            module.train()
            for _ in range(interval):
                _take_step(optimizer, loss, training_data)
            steps += interval

            held_out_loss = _validate(module, loss, held_out, seed)
            if held_out_loss < best_loss:
                best_loss = held_out_loss
                best_weights = copy.deepcopy(module.state_dict())
                checks_without_improvement = 0
            else:
                checks_without_improvement += 1

    module.load_state_dict(best_weights)
    return steps


def _split(data: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Random parts of the data to train on and to hold out; one data point is in both parts."""
    count = len(data[0])
    order = torch.randperm(count, device=data[0].device)
    held_out = max(1, int(HELD_OUT_SHARE * count))
    training = order[held_out:] if count > 1 else order
    return [part[training] for part in data], [part[order[:held_out]] for part in data]


def _take_step(
    optimizer: torch.optim.Optimizer, loss: Callable[..., Tensor], data: Sequence[Tensor]
) -> None:
    """One step of an optimizer on a random batch."""
    size = min(FIT_BATCH, len(data[0]))
    batch = torch.randint(len(data[0]), (size,), device=data[0].device)
    with torch.enable_grad():
        optimizer.zero_grad()
        loss(*(part[batch] for part in data)).backward()
        optimizer.step()


def _validate(
    module: nn.Module, loss: Callable[..., Tensor], data: Sequence[Tensor], seed: int
) -> float:
    """The loss of held-out data in evaluation mode; infinity in place of NaN."""
    module.eval()
    with fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        value = loss(*data).item()
    return math.inf if math.isnan(value) else value
