"""MNIST."""

from pythae_fif.data.published import PublishedSet
from pythae_fif.data.source import DataSource

MNIST = PublishedSet(
    name="mnist",
    title="MNIST",
    sizes="50000/10000/10000",
    folder="MNIST/raw",
    address="https://ossci-datasets.s3.amazonaws.com/mnist/",
    megabytes=12,
    shape=(1, 28, 28),
    classes=10,
)

DATASET = DataSource(MNIST.find)
PLACEHOLDER = DataSource(MNIST.find_placeholder, is_cached=False)
