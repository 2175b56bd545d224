"""Arrays from files, checked: images become uint8 of shape (N, C, H, W), labels int64."""

__all__ = ["read_npz", "to_labels", "to_uint8"]

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from pythae_fif.data.locations import LIMIT_VARIABLE, unpacked_limit
from pythae_fif.errors import DataError, FIFError, one_line

ROUNDING = 1e-3
"""Floats may leave their range by so much, as a resize lets them."""
FAINT = 16
"""Values from 0 to so many are of another scale, such as scikit-learn's digits, than 0 to 255."""
_CHUNK = 1024


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file.

    Args:
        path: The file.

    Returns:
        Key -> array.

    Raises:
        DataError: The file is missing, no .npz, damaged, holds pickled objects, or unpacks to more
            than `unpacked_limit` allows.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file, needs an .npz file")
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: holds one bare array, needs an .npz file with named arrays")
        with archive:
            packed = archive.zip.infolist() if archive.zip is not None else []
            more = sum(member.file_size - member.compress_size for member in packed)
            if more > unpacked_limit():
                raise DataError(
                    f"{path}: unpacks to {more / 1e9:.1f} GB more than it has, above the limit of "
                    f"{unpacked_limit() / 1e9:g} GB; if it is yours, raise {LIMIT_VARIABLE}"
                )
            return {key: archive[key] for key in archive.files}
    except FIFError:
        raise
    # Of a header that claims more than there is, a MemoryError.
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        # NumPy takes what is no archive for a pickle, and advises to open it.
        whole = isinstance(error, OSError) or zipfile.is_zipfile(path)
        reason = one_line(error) if whole else "it is no whole zip archive"
        raise DataError(f"{path}: not a readable .npz file ({reason})") from error


def to_uint8(
    arrays: Mapping[str, np.ndarray], where: str | Path, *, faint: bool = False
) -> dict[str, np.ndarray]:
    """Brings image arrays of one data set to uint8, (N, C, H, W).

    Integers are taken as 0..255. Floats are taken as 0..1 if no value in any of the arrays
    exceeds 1 (by more than rounding), else as 0..255, and are rounded; an array in 0..1 with
    fractions is then refused. A four-dimensional array with 1 or 3 at its second place is
    N x C x H x W, otherwise N x H x W x C.

    Args:
        arrays: Key -> images (N, C, H, W), (N, H, W, C) or (N, H, W).
        where: The file, for error lines.
        faint: Whether images may be almost black, as samples may.

    Returns:
        Key -> uint8 images (N, C, H, W).

    Raises:
        DataError: A shape, type or range that is none of these, arrays of two scales, no value
            above `FAINT` of 0..255, or a NaN or infinite value.

    Example:
        >>> to_uint8({"data": np.full((5, 8, 8), 0.5)}, "a.npz")["data"].shape
        (5, 1, 8, 8)
    """
    checked = {
        key: _channels_first(array, f"{where}, key {key!r}") for key, array in arrays.items()
    }
    ranges = {key: _value_range(array, f"{where}, key {key!r}") for key, array in checked.items()}
    low, high = min(low for low, _ in ranges.values()), max(high for _, high in ranges.values())
    integers = any(array.dtype.kind in "iu" for array in checked.values())
    # Integers 0..1 are masks or already binarised images, floats a little above 1 may be of either
    # scale: neither reading of them is safe.
    ambiguous = high <= 1 if integers else 1 + ROUNDING < high < 2
    if low < -ROUNDING or high > 255 or ambiguous:
        kind = "integer " if integers and ambiguous else ""
        raise DataError(
            f"{where}: {kind}values from {low:g} to {high:g}, needs integers in 0..255, "
            "or floats in 0..1 or 0..255"
        )
    scale = 255.0 if high <= 1 + ROUNDING else 1.0
    if scale == 1 and high <= FAINT and not faint:
        raise DataError(
            f"{where}: no value above {high:g}, so that the images would be almost black: scale "
            "them to 0..255, or as floats to 0..1"
        )
    for key, array in checked.items():
        if scale == 1 and array.dtype.kind == "f" and ranges[key][1] <= 1 + ROUNDING:
            whole = all((values == np.rint(values)).all() for _, values in _chunks(array))
            if integers or not whole:  # whole floats beside floats may be images that are all dark
                raise DataError(
                    f"{where}, key {key!r}: floats in 0..1 beside values up to {high:g}, "
                    "needs one scale"
                )
    return {key: _rounded(array, scale) for key, array in checked.items()}


def to_labels(labels: np.ndarray, count: int, where: str) -> np.ndarray:
    """Class indices of N images as int64 (N,).

    Args:
        labels: Integers (N,).
        count: N.
        where: The file and key, for error lines.

    Raises:
        DataError: They are no integers from 0 up, or not N.
    """
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or (labels < 0).any():
        raise DataError(
            f"{where}: {labels.dtype} of shape {labels.shape}, needs integers from 0 up of shape "
            f"({count},)"
        )
    return labels.astype(np.int64)


def _channels_first(array: np.ndarray, where: str) -> np.ndarray:
    if array.dtype.kind not in "iuf":
        raise DataError(f"{where}: type {array.dtype}, needs uint8 or floats")
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or 0 in array.shape:
        raise DataError(
            f"{where}: shape {array.shape}, needs N x C x H x W or N x H x W x C "
            "with 1 or 3 channels, or N x H x W"
        )
    return array


def _chunks(array: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(0, len(array), _CHUNK):
        rows = slice(start, start + _CHUNK)
        yield rows, array[rows]


def _value_range(array: np.ndarray, where: str) -> tuple[float, float]:
    low, high = np.inf, -np.inf
    bad: list[int] = []
    for rows, images in _chunks(array):
        if array.dtype.kind == "f":
            finite = np.isfinite(images).all(axis=(1, 2, 3))
            bad.extend((rows.start + np.flatnonzero(~finite)).tolist())
            if bad:
                continue
        low, high = min(low, float(images.min())), max(high, float(images.max()))
    if bad:
        raise DataError(
            f"{where}: NaN or infinite values in {len(bad)} of {len(array)} images, the first at "
            f"index {bad[0]}"
        )
    return low, high


def _rounded(array: np.ndarray, scale: float) -> np.ndarray:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    images = np.empty(array.shape, np.uint8)
    # By chunks, for float copies of a whole data set are several times its size.
    for rows, values in _chunks(array):
        if array.dtype.kind == "f":
            values = np.rint(values * scale).clip(0, 255)
        images[rows] = values
    return images
