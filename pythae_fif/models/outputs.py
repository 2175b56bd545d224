"""What networks take and give, checked; and methods that the compiler leaves alone."""

__all__ = [
    "check_data",
    "check_no_script",
    "evaluated",
    "output_of",
    "uncompiled",
    "without_gradients",
]

import functools
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from pythae_fif.errors import ConfigError, DataError

M = TypeVar("M", bound=Callable[..., Any])
T = TypeVar("T")


def check_data(x: Any, model: Any) -> None:
    """Raises DataError unless x is floating-point data of a model's shape, or flattened.

    Fewer numbers than `latent_dim` span no manifold, and have no density on one.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise DataError(
            f"{model.model_name}: data must be a tensor of floating-point numbers as in training, "
            f"not {kind}"
        )
    dim = model.model_config.input_dim
    numbers, least = math.prod(x.shape[1:]), model.model_config.latent_dim
    moved = dim is not None and x.dim() == 1 + len(dim) and tuple(x.shape[1:]) != tuple(dim)
    if dim is not None and (moved or numbers != math.prod(dim)):  # moved: channels last, say
        raise DataError(
            f"{model.model_name}: data of shape {tuple(x.shape)} for input_dim={tuple(dim)}"
        )
    if numbers < least:
        raise DataError(
            f"{model.model_name}: data of shape {tuple(x.shape)} for latent_dim={least}: each "
            "needs at least as many numbers"
        )


def check_no_script(model: torch.nn.Module, of: str) -> None:
    """Refuses a network in TorchScript for what needs the gradient of a Jacobian-vector product.

    PyTorch's gradient is wrong where a layer norm is hidden in the script.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ConfigError(f"{of}: no right gradient through TorchScript; give the plain module")


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


def evaluated(method: M) -> M:
    """A method of a model that runs in evaluation mode, with gradients where they are on."""

    @functools.wraps(method)
    def run(model: Any, *args: Any, **kwargs: Any) -> Any:
        with model._in_evaluation_mode(gradient=torch.is_grad_enabled()):
            return method(model, *args, **kwargs)

    return cast(M, run)


def uncompiled(method: M) -> M:
    """A method that `torch.compile` of the whole model leaves alone.

    As the decorator `torch.compiler.disable`, which imports the compiler, in two seconds. This one
    waits for somebody else to do so.
    """
    disabled: Callable[..., Any] | None = None

    @functools.wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        nonlocal disabled
        if "torch._dynamo" not in sys.modules:
            return method(*args, **kwargs)
        if disabled is None:
            disabled = torch.compiler.disable(method)
        return disabled(*args, **kwargs)

    return cast(M, run)
