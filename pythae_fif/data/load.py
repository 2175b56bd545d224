"""A data set's name becomes training, validation and test images."""

__all__ = ["load_images"]

from pathlib import Path

from pythae_fif.data.images import Progress
from pythae_fif.data.locations import data_home
from pythae_fif.data.names import DATASETS
from pythae_fif.data.published import load_celeba, load_digits, load_torchvision
from pythae_fif.data.splits import Splits
from pythae_fif.data.user_images import load_folder, load_npz
from pythae_fif.errors import ConfigError, did_you_mean

_DEFAULT_SIZE = 64
_RESIZED = ("celeba", "folder")
_OF_USERS = ("folder", "npz")


def load_images(
    name: str,
    data_root: str | Path | None = None,
    *,
    data: str | Path | None = None,
    image_size: int | None = None,
    download: bool = True,
    skip_undecodable: bool = False,
    progress: Progress | None = None,
    seed: int = 0,
) -> Splits:
    """Loads a data set as uint8 images in three splits.

    MNIST, CIFAR-10 and CelebA are looked for below the data root, first in Pythae's layout
    (``<root>/<name>/train_data.npz`` and ``eval_data.npz``), then in torchvision's own, and are
    downloaded by torchvision if neither is there.

    Args:
        name: A key of ``DATASETS``.
        data_root: The folder to look in; None for the environment variable ``PYTHAE_FIF_DATA``,
            else ``~/.cache/pythae-fif/data``.
        data: Your folder or file, for ``folder`` and ``npz``, and for those only.
        image_size: Side in pixels that ``celeba`` and ``folder`` images are resized to (default
            64); the others keep the size they have.
        download: False to never reach for the network.
        skip_undecodable: Leave out the images of a folder that cannot be decoded, and count them
            in ``source``, instead of failing.
        progress: Called as ``progress(done, total)`` while a folder of images is decoded.
        seed: Seed of the 80/10/10 shuffle of ``folder`` and ``npz``; no other data set uses it.

    Returns:
        The splits.

    Raises:
        ConfigError: An unknown name, or an argument that the data set does not take.
        DataError: The data are missing, unreadable, or not what the name promises.

    Example:
        >>> splits = load_images("digits")
        >>> splits.input_dim, splits.source
        ((1, 8, 8), 'digits of scikit-learn, 8x8, 1197/300/300')
    """
    if name not in DATASETS:
        raise ConfigError(f"unknown data set {name!r}: {did_you_mean(name, DATASETS)}")
    if name in _OF_USERS and data is None:
        raise ConfigError(f"data set {name!r} needs the path to your images (--data)")
    if name not in _OF_USERS and data is not None:
        raise ConfigError(
            f"data={str(data)!r} (--data) is for the data sets folder and npz, not for {name!r}"
        )
    if image_size is not None and image_size < 1:
        raise ConfigError(f"image_size={image_size}: needs a positive number of pixels")
    size = _DEFAULT_SIZE if image_size is None else image_size
    path = Path(data).expanduser() if data is not None else Path()
    if name == "digits":
        splits = load_digits()
    elif name == "folder":
        splits = load_folder(
            path,
            image_size=size,
            skip_undecodable=skip_undecodable,
            progress=progress,
            seed=seed,
        )
    elif name == "npz":
        splits = load_npz(path, seed=seed)
    elif name == "celeba":
        splits = load_celeba(
            data_home(data_root),
            image_size=size,
            download=download,
            skip_undecodable=skip_undecodable,
            progress=progress,
        )
    else:
        splits = load_torchvision(name, data_home(data_root), download=download)
    if image_size is not None and splits.input_dim[1:] != (image_size, image_size):
        height, width = splits.input_dim[1:]
        raise ConfigError(
            f"image_size={image_size}: {name} images are {height}x{width} and stay so; "
            f"only {' and '.join(_RESIZED)} are resized"
        )
    return splits
