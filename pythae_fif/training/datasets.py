"""Converts what a user passes as data to a data set of Pythae's form."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pythae.data.datasets import BaseDataset
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset

from pythae_fif.data.splits import ImageDataset
from pythae_fif.errors import DataError

REQUIREMENT = (
    "pass a tensor, an array, an ImageDataset, a TensorDataset, or a data set with items "
    "{'data': tensor}"
)


def as_dataset(data: Any, name: str) -> Any:
    """Converts tensors and arrays to a data set; any other data set stays as it is.

    Args:
        data: A tensor or an array: uint8 images (N, C, H, W), which are scaled to [0, 1], or
            floats of any shape (N, ...). A `TensorDataset` of such data, or a `Subset` of it, with
            or without labels. A data set whose items are dictionaries with the key "data". None for
            none.
        name: 'training' or 'evaluation', for errors.

    Returns:
        A data set whose items are dictionaries; None for None.

    Raises:
        DataError: The data are something else, or a value is NaN or infinite.
    """
    place = f"the {name} set"
    if isinstance(data, DataLoader):
        raise DataError(
            f"{place} is a DataLoader: pass its `dataset`, and set the batch size in the "
            "configuration"
        )
    if isinstance(data, np.ndarray | Tensor):
        return _tensors_as_dataset(place, data)
    if isinstance(data, Subset) and isinstance(data.dataset, TensorDataset):
        data = TensorDataset(*data.dataset[data.indices])  # as of `random_split`
    if isinstance(data, TensorDataset):
        if len(data.tensors) > 2:
            raise DataError(
                f"{place} has {len(data.tensors)} tensors: use TensorDataset(data), or "
                "TensorDataset(data, labels)"
            )
        return _tensors_as_dataset(place, *data.tensors)

    if data is not None:
        _check_items(place, data)
    return data


def _tensors_as_dataset(
    place: str, data: np.ndarray | Tensor, labels: Tensor | None = None
) -> ImageDataset | BaseDataset:
    """Returns a data set of tensors, with the fast loader if there is one for them."""
    tensor = data if isinstance(data, Tensor) else _array_as_tensor(place, data)
    if tensor.is_floating_point():
        tensor = tensor.to(torch.float32)
    is_image = tensor.dtype == torch.uint8 and tensor.ndim == 4
    if not is_image and (tensor.dtype != torch.float32 or tensor.ndim < 2):
        raise DataError(
            f"{place} is {tensor.dtype} of shape {tuple(tensor.shape)}: use uint8 images "
            "(N, C, H, W), or floats (N, ...)"
        )
    if is_image or tensor.ndim == 2:
        return ImageDataset(tensor, labels)

    if not tensor.isfinite().all():
        raise DataError(f"{place}: some values are NaN or infinite")
    dataset = BaseDataset(tensor, torch.ones(len(tensor)) if labels is None else labels)
    dataset.labelled = labels is not None
    return dataset


def _array_as_tensor(place: str, array: np.ndarray) -> Tensor:
    """Returns an array as a tensor, which shares its memory."""
    try:
        return torch.as_tensor(array)
    except TypeError as error:
        raise DataError(f"{place} is an array of {array.dtype}: use uint8 or floats") from error


def _check_items(place: str, dataset: Any) -> None:
    """Raises a DataError unless the items of a data set are dictionaries with the key "data"."""
    try:
        item = dataset[0] if len(dataset) else {"data": ()}
    except (KeyError, NotImplementedError, TypeError) as error:
        raise DataError(f"{place} is a {type(dataset).__name__}: {REQUIREMENT}") from error
    if not isinstance(item, Mapping) or "data" not in item:
        raise DataError(
            f"{place} is a {type(dataset).__name__} with items of type {type(item).__name__}: "
            f"{REQUIREMENT}"
        )
