"""Recipes of networks, from which a saved model is rebuilt without unpickling anything."""

import functools
import json
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from pythae.models.nn import BaseDecoder, BaseEncoder

from pythae_fif.device import fork_rng
from pythae_fif.errors import ConfigError
from pythae_fif.files import digest

Networks = tuple[BaseEncoder, BaseDecoder]
B = TypeVar("B", bound=Callable[..., Networks])

_BUILDERS: dict[str, Callable[..., Networks]] = {}


def records_recipe(build: B) -> B:
    """Decorates a function that builds networks: each network gets a recipe of how it was built.

    Args:
        build: Builds an encoder and a decoder from values that JSON can hold.
    """

    @functools.wraps(build)
    def build_and_record(*args: Any, **kwargs: Any) -> Networks:
        args, kwargs = json.loads(json.dumps([args, kwargs], default=lambda value: value.tolist()))
        networks = build(*args, **kwargs)
        for network in networks:
            network.recipe = {
                "builder": build.__name__,
                "args": args,
                "kwargs": kwargs,
                "structure": _structure(network),
            }
        return networks

    _BUILDERS[build.__name__] = build_and_record
    return cast(B, build_and_record)


def _structure(network: torch.nn.Module) -> str:
    """A digest of the layers and of the names of weights and buffers."""
    with fork_rng():  # the description of zuko's networks draws random numbers
        return digest(network, *network.state_dict())


def get_recipe(network: Any) -> dict[str, Any] | None:
    """Returns how a network was built, for JSON.

    It is None if the network was not built by a recorded function, or was changed since.
    """
    recipe: dict[str, Any] | None = getattr(network, "recipe", None)
    return recipe if recipe and recipe["structure"] == _structure(network) else None


def rebuild(recipe: Any, network_name: str) -> Any:
    """Builds a freshly initialised network from a recipe.

    Args:
        recipe: The result of :func:`get_recipe`, read from JSON.
        network_name: 'encoder' or 'decoder'.

    Raises:
        ConfigError: If it is not a recipe, or if this version builds a different network from it.
    """
    try:
        networks = _BUILDERS[recipe["builder"]](*recipe["args"], **recipe["kwargs"])
        network: Any = networks[("encoder", "decoder").index(network_name)]
        if network.recipe["structure"] != recipe["structure"]:
            raise ValueError("this version builds a different network")
        return network
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"networks.json has no {network_name} of this version: {error}"
        ) from error
