"""What networks take and give, checked; and what is computed when it is read."""

__all__ = ["LazyOutput", "as_data", "check_networks", "output_of", "without_gradients"]

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from pythae.models.base.base_utils import ModelOutput
from torch import Tensor, nn

from pythae_fif.errors import ConfigError, DataError

T = TypeVar("T")


def as_data(x: Any, model: Any) -> Tensor:
    """Data as the model takes them: a tensor in the type of the weights.

    Args:
        x: (B, ...): a tensor, or whatever numpy makes an array of, such as a DataFrame.
        model: Whose `input_dim` the rest of the shape is, if it has one.

    Raises:
        DataError: No floating-point numbers, another shape, or fewer numbers than `latent_dim`,
            which span no manifold and have no density on one.
    """
    name, dim = model.model_name, model.model_config.input_dim
    like = next(model.parameters(), torch.zeros(()))
    if not isinstance(x, Tensor) and np.asarray(x).dtype.kind == "f":
        x = torch.tensor(np.asarray(x), device=like.device)
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = getattr(x, "dtype", type(x).__name__)
        raise DataError(f"{name}: data must be floating-point numbers as in training, not {kind}")
    numbers, least = math.prod(x.shape[1:]), model.model_config.latent_dim
    moved = dim is not None and x.dim() == 1 + len(dim) and tuple(x.shape[1:]) != tuple(dim)
    if dim is not None and (moved or numbers != math.prod(dim)):  # moved: channels last, say
        raise DataError(f"{name}: data of shape {tuple(x.shape)} for input_dim={tuple(dim)}")
    if numbers < least:
        raise DataError(
            f"{name}: data of shape {tuple(x.shape)} for latent_dim={least}: each needs at least "
            "as many numbers"
        )
    return x.to(like.dtype)


def output_of(output: Any, key: str, model: Any) -> Tensor:
    """The tensor that an encoder (`embedding`) or a decoder (`reconstruction`) of a model gives.

    Raises:
        ConfigError: It is no ModelOutput, or codes of another width than the latent dimension.
    """
    if not isinstance(output, Mapping) or key not in output:
        side = "encoder" if key == "embedding" else "decoder"
        given = type(output).__name__ + (f" without {key!r}" if isinstance(output, Mapping) else "")
        raise ConfigError(f"the {side} gives a {given}: let it return ModelOutput({key}=...)")
    found: Tensor = output[key]
    if key == "embedding" and found.shape[-1:] != (model.latent_dim,):
        raise ConfigError(
            f"the encoder gives codes of shape {tuple(found.shape)}, needs (B, {model.latent_dim}) "
            f"for latent_dim={model.latent_dim}"
        )
    return found


def check_networks(model: Any, x: Tensor, condition: Tensor | None) -> None:
    """Raises ConfigError for networks of a model that have no volume change of a sample's own.

    Args:
        model: In evaluation mode.
        x: Some data, (B, ...).
        condition: (B, c), or None.
    """
    norms = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    if any(norm.running_mean is None for norm in norms):
        raise ConfigError(
            f"{model.model_name}: with track_running_stats=False BatchNorm makes codes depend on "
            "the batch in evaluation, too: use True, or another norm"
        )
    shape = x.shape
    for name, network in (("encoder", model._encode), ("decoder", model._decode)):
        point = x.detach().clone().requires_grad_()
        x = network(point, condition)
        if not x.requires_grad or torch.autograd.grad(x.sum(), point, allow_unused=True)[0] is None:
            raise ConfigError(
                f"{model.model_name}: the output of the {name} does not depend on its input, so "
                "that it has no volume change"
            )
    if x.shape != shape:
        raise ConfigError(
            f"{model.model_name}: reconstructions of shape {tuple(x.shape)} for data of shape "
            f"{tuple(shape)}"
        )


class LazyOutput(ModelOutput):
    """A ModelOutput whose `loss` and `nll_loss` are computed when one of them is first read."""

    _LAZY = ("loss", "nll_loss")

    def __init__(self, losses: Callable[[], dict[str, Tensor]], **values: Tensor) -> None:
        super().__init__(**values)
        for key, value in values.items():
            setattr(self, key, value)
        self.__dict__["_losses"] = losses

    def __getattr__(self, name: str) -> Tensor:
        if name not in self._LAZY:
            raise AttributeError(name)
        for key, value in self.__dict__["_losses"]().items():
            setattr(self, key, value)
        loss: Tensor = self.__dict__[name]
        return loss

    def __getitem__(self, key: Any) -> Any:
        return getattr(self, key) if key in self._LAZY else super().__getitem__(key)


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
