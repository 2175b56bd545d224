"""Training of densities of codes, for a given number of steps or until they stop improving."""

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pythae_fif.device import fork_rng

FIT_BATCH = 100
"""Codes in a gradient step."""

FIXED_LENGTH_RATE = 1e-3
"""Initial learning rate of a training with a given number of steps."""

LEARNING_RATES = (3e-3, 1e-3, 3e-4)
"""Learning rates of an automatic training, one after the other."""

HELD_OUT_SHARE = 0.1
"""Share of the codes that an automatic training holds out."""

MIN_CHECK_INTERVAL = 50
MAX_CHECK_INTERVAL = 200
"""An automatic training computes its held-out loss once in each pass over the codes, but at least
and at most so many steps apart."""

PATIENCE = 4
"""Checks without improvement after which an automatic training goes on to the next rate."""

MAX_STEPS_PER_RATE = 2_000
"""Steps after which it goes on at the latest."""


def train_density(
    module: nn.Module, loss: Callable[..., Tensor], data: Sequence[Tensor], steps: int | None
) -> None:
    """Trains a density with Adam on random batches of data.

    With a given number of steps the learning rate falls from 1e-3 to 0 by a cosine. Otherwise see
    :func:`train_until_converged`.

    Args:
        module: The density.
        loss: From a batch of each tensor of ``data`` to a number.
        data: Tensors (N, ...), such as codes and conditions.
        steps: Number of gradient steps, with :data:`FIT_BATCH` codes each; None for an automatic
            number.
    """
    if steps is None:
        train_until_converged(module, loss, data)
        return

    optimizer = torch.optim.Adam(module.parameters(), lr=FIXED_LENGTH_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    module.train()
    for _ in range(steps):
        _take_step(optimizer, loss, data)
        schedule.step()


def train_until_converged(
    module: nn.Module, loss: Callable[..., Tensor], data: Sequence[Tensor]
) -> int:
    """Trains a density with Adam until its loss on held-out data stops improving.

    A tenth of the data is held out. The training starts with a large learning rate. When the
    held-out loss has not improved for four checks, the density returns to its best weights and goes
    on from there with the next smaller learning rate. It ends with the weights of the lowest
    held-out loss. A loss that draws random numbers draws the same ones in each check.

    Args:
        module: The density.
        loss: From a batch of each tensor of ``data`` to a number.
        data: Tensors (N, ...), such as codes and conditions.

    Returns:
        The number of gradient steps taken.
    """
    train_data, held_out_data = _split(data)
    steps_per_pass = round(len(train_data[0]) / FIT_BATCH)
    interval = min(max(steps_per_pass, MIN_CHECK_INTERVAL), MAX_CHECK_INTERVAL)
    seed = int(torch.randint(2**31, ()))

    best_loss = _validate(module, loss, held_out_data, seed)
    best_weights = copy.deepcopy(module.state_dict())
    total_steps = 0
    for learning_rate in LEARNING_RATES:
        module.load_state_dict(best_weights)
        optimizer = torch.optim.Adam(module.parameters(), lr=learning_rate)
        failed_checks = 0
        steps = 0
        while failed_checks < PATIENCE and steps < MAX_STEPS_PER_RATE:
            module.train()
            for _ in range(interval):
                _take_step(optimizer, loss, train_data)
            steps += interval

            held_out_loss = _validate(module, loss, held_out_data, seed)
            if held_out_loss < best_loss:
                best_loss = held_out_loss
                best_weights = copy.deepcopy(module.state_dict())
                failed_checks = 0
            else:
                failed_checks += 1
        total_steps += steps

    module.load_state_dict(best_weights)
    return total_steps


def _split(data: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Splits data at random into a part to train on and a part to hold out.

    A single data point is in both parts.
    """
    count = len(data[0])
    order = torch.randperm(count, device=data[0].device)
    held_out_count = max(1, int(HELD_OUT_SHARE * count))
    train_indices = order[held_out_count:] if count > 1 else order
    train_data = [tensor[train_indices] for tensor in data]
    held_out_data = [tensor[order[:held_out_count]] for tensor in data]
    return train_data, held_out_data


def _take_step(
    optimizer: torch.optim.Optimizer, loss: Callable[..., Tensor], data: Sequence[Tensor]
) -> None:
    """Takes a step of an optimizer on a random batch."""
    batch_size = min(FIT_BATCH, len(data[0]))
    indices = torch.randint(len(data[0]), (batch_size,), device=data[0].device)
    batch = [tensor[indices] for tensor in data]
    with torch.enable_grad():
        optimizer.zero_grad()
        loss(*batch).backward()
        optimizer.step()


def _validate(
    module: nn.Module, loss: Callable[..., Tensor], data: Sequence[Tensor], seed: int
) -> float:
    """Returns the loss of held-out data in evaluation mode, and infinity in place of NaN."""
    module.eval()
    with fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        value = loss(*data).item()
    return math.inf if math.isnan(value) else value
