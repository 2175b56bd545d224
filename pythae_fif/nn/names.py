"""The architectures by name."""

__all__ = ["ARCHITECTURES", "split_arch"]

ARCHITECTURES: dict[str, str] = {
    "convnet": "Pythae's ConvNet for MNIST, CIFAR-10 and CelebA; a small one for other images",
    "resnet": "Pythae's ResNet for MNIST, CIFAR-10 and CelebA; a small one for other images",
    "fif_convnet": "the FIF-ConvNet of the FIF paper's table 11, for MNIST and CelebA; a small one "
    "of the same kind for other images",
    "tabular": "the feed-forward nets of the FIF paper's appendix E.2, for tables of numbers",
}
"""Name of an architecture -> one line on it."""

ARCHITECTURES |= {
    f"{arch}_fc{count}": f"{arch} with {count} fully connected residual blocks behind the encoder "
    f"and {count} before the decoder"
    for arch in ("convnet", "resnet")
    for count in (2, 4)
}


def split_arch(arch: str) -> tuple[str, int]:
    """The architecture without latent blocks, and the number of those on each side.

    Example:
        >>> split_arch("resnet_fc4"), split_arch("resnet")
        (('resnet', 4), ('resnet', 0))
    """
    base, _, count = arch.partition("_fc")
    return base, int(count or 0)
