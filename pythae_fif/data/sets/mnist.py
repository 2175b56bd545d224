"""MNIST."""

from pythae_fif.data.dataset import Dataset
from pythae_fif.data.published import PublishedSet

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

DATASET = Dataset(MNIST.find)
PLACEHOLDER = Dataset(MNIST.find_placeholder, is_cached=False)
