"""From the name of an architecture and an image shape to an encoder and a decoder."""

from typing import Any

from pythae.models import BaseAEConfig
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.models.nn.benchmarks import celeba, cifar, mnist
from torch import nn

from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.names import ARCHITECTURES
from pythae_fif.nn.images import (
    FIFConvDecoder,
    FIFConvEncoder,
    SmallDecoder,
    SmallEncoder,
    latent_blocks,
)
from pythae_fif.nn.recipe import records_recipe
from pythae_fif.nn.tabular import TabularDecoder, TabularEncoder

PYTHAE_NETS: dict[tuple[int, ...], tuple[Any, str]] = {
    (1, 28, 28): (mnist, "MNIST"),
    (3, 32, 32): (cifar, "CIFAR"),
    (3, 64, 64): (celeba, "CELEBA"),
}
"""Image shape (C, H, W) -> where Pythae's nets for it are, and the end of their names."""


@records_recipe
def build_networks(
    arch: str,
    input_dim: tuple[int, ...],
    latent_dim: int,
    *,
    variational: bool = False,
    condition_dim: int = 0,
) -> tuple[BaseEncoder, BaseDecoder]:
    """Builds a freshly initialised encoder and decoder; seed torch before calling.

    `convnet` and `resnet` are the nets of the paper's tables 9 and 10, which are Pythae's own,
    where those exist, and small nets of the same kind for images of other shapes.

    Args:
        arch: A key of `ARCHITECTURES`.
        input_dim: Shape (C, H, W) of an image, H and W at least 4 pixels; (D,) for `tabular`.
        latent_dim: Latent dimension d, at least 1.
        variational: Whether the encoder also gives the `log_covariance` that VAEs need.
        condition_dim: Of a conditional model: the encoder takes that many further channels or
            columns, the decoder as many further columns of its codes.

    Returns:
        An encoder from (B, C, H, W) to `embedding` (B, d), and a decoder from (B, d) to
        `reconstruction` (B, C, H, W) with values in [0, 1]; of `tabular`, rows (B, D) of any value.

    Raises:
        ConfigError: If the architecture is unknown or not defined for the shape.

    Example:
        >>> encoder, decoder = build_networks("convnet", (1, 8, 8), latent_dim=4)
        >>> sum(p.numel() for net in (encoder, decoder) for p in net.parameters())
        104645
    """
    if arch not in ARCHITECTURES:
        raise ConfigError(f"arch {arch!r} is unknown: {did_you_mean(arch, ARCHITECTURES)}")
    shape, code_dim = tuple(input_dim), latent_dim + condition_dim
    joined, residual = (shape[0] + condition_dim, *shape[1:]), arch.startswith("resnet")
    if arch == "tabular":
        if len(shape) != 1:
            raise ConfigError(f"arch 'tabular' takes rows (D,), not {shape}")
        rows = TabularEncoder(joined, latent_dim, variational=variational)
        return rows, TabularDecoder(shape, code_dim)
    if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < 4:
        raise ConfigError(
            f"arch {arch!r} needs images (channels, height, width) of at least 4 x 4 pixels, "
            f"not input_dim {shape}"
        )
    encoder: BaseEncoder
    decoder: BaseDecoder
    if arch == "fif_convnet":
        encoder = FIFConvEncoder(
            shape, latent_dim, variational=variational, condition_dim=condition_dim
        )
        decoder = FIFConvDecoder(shape, latent_dim, condition_dim=condition_dim)
    elif shape in PYTHAE_NETS:
        encoder = pythae_net("Encoder", arch, "VAE" if variational else "AE", shape, latent_dim)
        if condition_dim:  # Pythae's fix the number of input channels
            name, old = next((n, m) for n, m in encoder.named_modules() if isinstance(m, nn.Conv2d))
            sizes: Any = (old.kernel_size, old.stride, old.padding)
            wider = nn.Conv2d(old.in_channels + condition_dim, old.out_channels, *sizes)
            parent, _, child = name.rpartition(".")
            setattr(encoder.get_submodule(parent), child, wider)
        decoder = pythae_net("Decoder", arch, "AE", shape, code_dim)
    else:
        encoder = SmallEncoder(joined, latent_dim, residual=residual, variational=variational)
        decoder = SmallDecoder(shape, code_dim, residual=residual)
    add_latent_blocks(arch, shape, encoder, latent_dim)
    add_latent_blocks(arch, shape, decoder, code_dim)
    return encoder, decoder


def add_latent_blocks(arch: str, input_dim: tuple[int, ...], network: Any, dim: int) -> None:
    """Gives a network the residual blocks on codes that an architecture's name asks for.

    `_fc4` has the blocks of table 11, four behind the encoder's linear layer and four before the
    decoder's; `_fc2` has two and two. They act on the code itself (the mean, where an encoder gives
    a variance too). The last layer of each starts at zero, so that both start as one function.

    Args:
        arch, input_dim: Of the network.
        network: An encoder with a module `embedding`, or a decoder with `layers`.
        dim: Length of the codes that it gives or takes.
    """
    count = arch.partition("_fc")[2]
    if not count:
        return
    blocks: Any = latent_blocks(input_dim, dim, int(count))
    for block in blocks:
        for parameter in block.layers[-1].parameters():
            nn.init.zeros_(parameter)
    if isinstance(network, BaseEncoder):
        network.embedding = nn.Sequential(network.embedding, blocks)
    else:
        network.layers[0] = nn.Sequential(blocks, network.layers[0])


def pythae_net(side: str, arch: str, kind: str, input_dim: tuple[int, ...], latent_dim: int) -> Any:
    """Pythae's 'Encoder' or 'Decoder' for a shape in `PYTHAE_NETS`, of 'AE', 'VAE', 'SVAE', ..."""
    module, dataset = PYTHAE_NETS[input_dim]
    layers = "Conv" if arch.startswith("convnet") else "ResNet"
    net = getattr(module, f"{side}_{layers}_{kind}_{dataset}")
    return net(BaseAEConfig(input_dim=input_dim, latent_dim=latent_dim))
