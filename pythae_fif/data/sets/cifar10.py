"""CIFAR-10."""

from pythae_fif.data.published import PublishedSet
from pythae_fif.data.source import DataSource

CIFAR10 = PublishedSet(
    name="cifar10",
    title="CIFAR-10",
    sizes="40000/10000/10000",
    folder="cifar-10-batches-py",
    address="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    megabytes=170,
    shape=(3, 32, 32),
    classes=10,
)

DATASET = DataSource(CIFAR10.find)
PLACEHOLDER = DataSource(CIFAR10.find_placeholder, is_cached=False)
