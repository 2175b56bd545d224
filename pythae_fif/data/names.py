"""The names of the data sets, known without importing torch."""

__all__ = ["DATASETS", "TABULAR_DATASETS"]

DATASETS = {
    "digits": "1,797 digits of 1x8x8 that come with scikit-learn; nothing to download",
    "mnist": "70,000 digits of 1x28x28; the last 10,000 training images are validation",
    "cifar10": "60,000 photographs of 3x32x32; the last 10,000 training images are validation",
    "celeba": "202,599 faces of 3x64x64, cropped as the profile says; the official partition",
    "folder": "your images: a folder (--data), in train/ val/ test/ or split 80/10/10",
    "npz": "your images: an .npz file (--data) with train, val and test, or data",
}
"""Name of a data set of images -> one line about it."""

TABULAR_DATASETS = {
    "power": "household electricity, 6 columns, 2,049,280 rows; latent dimension 3",
    "gas": "gas sensors, 8 columns, 1,052,065 rows; latent dimension 2",
    "hepmass": "particle collisions, 21 columns, 525,123 rows; latent dimension 10",
    "miniboone": "neutrino events, 43 columns, 36,488 rows; latent dimension 21",
    "csv": "your table of numbers: a .csv, .npy or .parquet file (--data), with --latent-dim",
}
"""Name of a table -> one line about it."""
