"""What a conditional model is given: labels as vectors."""

__all__ = ["Labels", "as_condition"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pythae_fif.errors import ConfigError, DataError

Labels = int | Sequence[Any] | Tensor | None
"""Class indices (B,), one index for all, or condition vectors (B, c)."""


def as_condition(labels: Labels, condition_dim: int, like: Tensor) -> Tensor | None:
    """Labels as vectors, (B, c), one-hot for class indices; None if ``condition_dim``, c, is 0.

    They are of the device and type of ``like``, (B, ...). On a GPU, where looking at labels would
    make the host wait, the vector of an unknown class is NaN.

    Raises:
        ConfigError: Labels of a model that takes none, or none of one that does.
        DataError: Another shape, or an unknown class.

    Example:
        >>> as_condition([2, 0], 3, torch.zeros(2, 5))
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
    """
    if condition_dim == 0:
        if labels is not None:
            raise ConfigError("a model of condition_dim=0 takes no labels")
        return None
    indices = f"class indices 0 to {condition_dim - 1}"
    if labels is None:
        raise ConfigError(f"a model of condition_dim={condition_dim} needs labels: {indices}")
    count, labels = len(like), torch.as_tensor(labels, device=like.device)
    if labels.shape == (count, condition_dim):
        return labels.to(like.dtype)
    if labels.dim() == 0:
        labels = labels.expand(count)
    if labels.shape != (count,):
        raise DataError(
            f"labels of shape {tuple(labels.shape)} for {count} samples: {indices}, ({count},), or "
            f"condition vectors ({count}, {condition_dim}) are needed"
        )
    one_hot = labels[:, None] == torch.arange(condition_dim, device=labels.device)
    known = one_hot.any(1, keepdim=True)
    if labels.device.type == "cpu" and not known.all():
        raise DataError(f"label {labels[~known[:, 0]][0].item():g} is none of the {indices}")
    return torch.where(known, one_hot.to(like.dtype), torch.nan)
