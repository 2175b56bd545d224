"""A network of the user's own as an extractor: a TorchScript file, or a Python function's."""

__all__ = ["OwnExtractor", "load_network"]

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from pythae_fif.errors import ConfigError
from pythae_fif.evaluation.extractor import Extracted, Extractor
from pythae_fif.evaluation.names import own_extractor
from pythae_fif.evaluation.weights import weights_digest
from pythae_fif.files import checksum, digest
from pythae_fif.lazy import import_named

Network = Callable[[Tensor], Tensor]


class OwnExtractor(Extractor):
    """Features of any network that maps images (N, C, H, W) in [0, 1] to them.

    Args:
        name: `FILE.pt`, which `torch.jit.save` has written, or `module:function`, where the
            function takes nothing and returns the network; modules are found from the working
            directory too.
        image_shape: The (C, H, W) of the images.
        device: Where it runs.

    Attributes:
        name: Of the file without its folder, or of the function.
        hash: Identifies the file, or the function's name, the file of its module, if it has one,
            and its network's weights.

    Raises:
        ConfigError: It cannot be loaded, or does not give features (N, ...) of such images.
    """

    score_name = None

    def __init__(
        self,
        name: str,
        image_shape: tuple[int, int, int],
        *,
        device: str | torch.device = "cpu",
    ) -> None:
        self.image_shape, self.device = image_shape, torch.device(device)
        path, _, found = own_extractor(name).rpartition("@")
        self.name = Path(path).name or name
        self.distance_name = f"FD-{self.name.removesuffix('.pt')}"
        self.network = load_network(name, self.device)
        held = self.network.state_dict() if isinstance(self.network, nn.Module) else {}
        source = [] if path else _source(name)
        self.hash = digest("own/1", found, weights_digest({} if path else held), *source)
        try:
            rows, self.feature_dim = self(torch.zeros(2, *image_shape)).features.shape
            if rows != 2:
                raise ValueError(f"there are {rows} of 2 images")
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ConfigError(
                f"extractor {self.name!r} gives no features (N, ...) of images "
                f"{(2, *image_shape)}: {_reason(error)}"
            ) from error

    def extract(self, images: Tensor) -> Extracted:
        """Features (B, F), and no logits."""
        features = [self.network(part).float().flatten(1) for part in self.chunks(images)]
        return Extracted(torch.cat(features), None)


def load_network(name: str, device: str | torch.device = "cpu") -> Network:
    """The network of an extractor's name, in evaluation mode; see `OwnExtractor`.

    Raises:
        ConfigError: There is none of the name, or it cannot be loaded.
    """
    path, _, _ = own_extractor(name).rpartition("@")
    try:
        if path:
            with warnings.catch_warnings():  # PyTorch deprecates the format, which users have
                warnings.filterwarnings("ignore", ".*torch.jit.load", FutureWarning)
                network: Network = torch.jit.load(path, map_location=device)
        else:
            module, _, function = name.partition(":")
            network = import_named(module, function)()
    except Exception as error:  # the user's own code raises anything
        raise ConfigError(f"extractor {name!r} cannot be loaded: {_reason(error)}") from error
    if isinstance(network, nn.Module):
        network.eval().to(device)
    return network


def _reason(error: Exception) -> str:
    """The last line of its message, where TorchScript says what went wrong."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def _source(name: str) -> list[str]:
    """The checksum of the file of a function's module; none where it has no file."""
    file = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
    return [checksum(Path(file))] if file else []
