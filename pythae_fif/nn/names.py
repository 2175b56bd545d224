"""The architectures by name."""

__all__ = ["ARCHITECTURES"]

ARCHITECTURES: dict[str, str] = {
    "convnet": "Pythae's ConvNet for MNIST, CIFAR-10 and CelebA; a small one for other images",
    "resnet": "Pythae's ResNet for MNIST, CIFAR-10 and CelebA; a small one for other images",
    "fif_convnet": "the FIF-ConvNet of the FIF paper's table 11, for MNIST and CelebA; a small one "
    "of the same kind for other images",
    "tabular": "the feed-forward nets of the FIF paper's appendix E.2, for tables of numbers",
}
"""Name of an architecture -> one line on it."""
