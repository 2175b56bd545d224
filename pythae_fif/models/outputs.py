"""What networks take and give, checked; and what is computed when it is read."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from pythae.models.base.base_utils import ModelOutput
from torch import Tensor

from pythae_fif.errors import ConfigError, DataError

T = TypeVar("T")
Labels = int | Sequence[Any] | np.ndarray | Tensor | None
"""Class indices (B,), one index for all, or condition vectors (B, c)."""


def as_data(x: Any, model: Any) -> Tensor:
    """Data (B, ...), of whatever numpy makes an array of, as a tensor in the type of the weights.

    Raises:
        DataError: They are no floating-point numbers, or not of the model's `input_dim`, if any.
    """
    name, dim = model.model_name, model.model_config.input_dim
    like = next(model.parameters())
    data: Any = x if isinstance(x, Tensor) else np.asarray(x)
    if not isinstance(data, Tensor) and data.dtype.kind == "f":  # of objects torch makes none
        data = np.array(data, data.dtype.newbyteorder("="), order="C")  # torch takes no other
        data = torch.from_numpy(data).to(like.device)
    if not isinstance(data, Tensor) or not data.is_floating_point():
        raise DataError(
            f"{name}: data must be floating-point numbers as in training, not {data.dtype}"
        )
    if dim is not None and tuple(data.shape[1:]) != tuple(dim):
        raise DataError(f"{name}: data of shape {tuple(data.shape)} for input_dim={tuple(dim)}")
    return data.to(like.dtype)


def as_condition(labels: Labels, condition_dim: int, like: Tensor) -> Tensor | None:
    """Labels as vectors, (B, c), one-hot for class indices; None if ``condition_dim``, c, is 0.

    They are of the device and type of ``like``, (B, ...). On a GPU, where looking at labels would
    make the host wait, the vector of an unknown class is NaN.

    Raises:
        ConfigError: Labels for a model that takes none, or none for one that needs them.
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
    count, indices = len(like), f"class indices 0 to {condition_dim - 1}"
    if labels is None:
        raise ConfigError(f"a model of condition_dim={condition_dim} needs labels: {indices}")
    given = labels if isinstance(labels, Tensor) else np.array(labels, order="C")
    try:
        labels = torch.as_tensor(given, device=like.device)
    except TypeError as error:  # such as names
        raise DataError(f"labels of type {given.dtype}: {indices} are needed") from error
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


def get_output(output: Any, key: str, model: Any) -> Tensor:
    """The tensor that an encoder (`embedding`) or a decoder (`reconstruction`) of a model gives.

    Raises:
        ConfigError: It is no ModelOutput, or of another shape than codes or data of the model.
    """
    if not isinstance(output, Mapping) or key not in output:
        given = type(output).__name__
        raise ConfigError(f"a network gives a {given}: let it return ModelOutput({key}=...)")
    found: Tensor = output[key]
    shape = (model.latent_dim,) if key == "embedding" else model.model_config.input_dim
    if shape and tuple(found.shape[1:]) != tuple(shape):
        needed = f"(B, {', '.join(map(str, shape))}) is needed"
        raise ConfigError(f"a network gives a {key} of shape {tuple(found.shape)}: {needed}")
    return found


class LazyOutput(ModelOutput):
    """Computes `loss` and `nll_loss` when one is first read: samplers read `z` alone."""

    def __init__(self, losses: Callable[[], dict[str, Tensor]], **values: Tensor) -> None:
        super().__init__(**values)
        self.__dict__["losses"] = losses

    def __getattr__(self, name: str) -> Any:
        if name not in ("loss", "nll_loss"):
            raise AttributeError(name)
        self.update(self.__dict__["losses"]())
        return self.__dict__[name]

    def __getitem__(self, key: Any) -> Any:
        return getattr(self, key) if isinstance(key, str) else super().__getitem__(key)


def without_gradients(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """What a call of a model gives, without gradients unless the model differentiates in it."""
    try:
        with torch.no_grad():
            return call(*args, **kwargs)
    except RuntimeError as error:
        if "require grad" not in str(error):  # such as a lack of memory
            raise
    with torch.enable_grad():
        return call(*args, **kwargs)
