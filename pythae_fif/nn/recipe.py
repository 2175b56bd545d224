"""How networks were built, noted in them: a saved model is then rebuilt without its pickles."""

import functools
import json
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from pythae.models.nn import BaseDecoder, BaseEncoder

from pythae_fif.errors import ConfigError
from pythae_fif.files import digest

Networks = tuple[BaseEncoder, BaseDecoder]
B = TypeVar("B", bound=Callable[..., Networks])

_BUILDERS: dict[str, Callable[..., Networks]] = {}


def records_recipe(build: B) -> B:
    """A function from plain values to encoder and decoder, which then know how they were built."""

    @functools.wraps(build)
    def build_and_note(*args: Any, **kwargs: Any) -> Networks:
        args, kwargs = json.loads(json.dumps([args, kwargs], default=lambda value: value.tolist()))
        networks = build(*args, **kwargs)
        for network in networks:
            recipe = {"builder": build.__name__, "args": args, "kwargs": kwargs}
            network.recipe = {**recipe, "structure": _structure(network)}
        return networks

    _BUILDERS[build.__name__] = build_and_note
    return cast(B, build_and_note)


def _structure(network: torch.nn.Module) -> str:
    """A digest of the layers, and of the weights' names: buffers do not show among the layers."""
    return digest(network, *network.state_dict())


def get_recipe(network: Any) -> dict[str, Any] | None:
    """How a network was built, for JSON; None if by other means, or if it was changed since."""
    recipe: dict[str, Any] | None = getattr(network, "recipe", None)
    return recipe if recipe and recipe["structure"] == _structure(network) else None


def rebuild(recipe: Any, side: str) -> Any:
    """A freshly initialised 'encoder' or 'decoder', of a :func:`get_recipe` from JSON.

    Raises:
        ConfigError: It is no recipe, or this version builds another network from it.
    """
    try:
        networks = _BUILDERS[recipe["builder"]](*recipe["args"], **recipe["kwargs"])
        network: Any = networks[("encoder", "decoder").index(side)]
        if network.recipe["structure"] != recipe["structure"]:
            raise ValueError("this version builds another network")
        return network
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"networks.json names no {side} of this version: {error}") from error
