"""The built-in data sets, one module each."""

from pythae_fif.data.sets import celeba, cifar10, csv, digits, folder, mnist, npz, papamakarios
from pythae_fif.data.source import DataSource

DATASETS: dict[str, DataSource] = {
    "celeba": celeba.DATASET,
    "cifar10": cifar10.DATASET,
    "csv": csv.DATASET,
    "digits": digits.DATASET,
    "folder": folder.DATASET,
    "mnist": mnist.DATASET,
    "npz": npz.DATASET,
    **papamakarios.DATASETS,
}
"""Name of a built-in data set -> its record."""
