"""Checks of what models and networks are given and return, and an output with a lazy loss."""

import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from pythae.models.base.base_utils import ModelOutput
from torch import Tensor

from pythae_fif.errors import ConfigError, DataError, check_choice

T = TypeVar("T")
ENCODE_BATCH_SIZE = 500
MAX_CODE_SCORE = 10
"""Larger codes, in standard deviations of the codes of training data, cause a warning."""
Labels = int | str | Sequence[Any] | np.ndarray | Tensor | None
"""Class indices or names (B,), one of them for all samples, or condition vectors (B, c)."""


def as_data(x: Any, model: Any) -> Tensor:
    """Converts data to a tensor with the type of the model's weights.

    Args:
        x: Data (B, ...), a tensor or anything that numpy converts to an array. A DataFrame is
            standardised by the model's ``columns``; without these, a warning says that it is not.
        model: The model, which names itself in errors.

    Returns:
        The data, (B, ...). Arrays are copied to the model's device.

    Raises:
        DataError: The data are not floating-point numbers, do not have the model's `input_dim`, or
            lack a column or a value.
    """
    if hasattr(x, "columns"):
        x = _standardize_frame(x, model)
    like = next(model.parameters())
    data: Any = x if isinstance(x, Tensor) else np.asarray(x)
    if isinstance(data, np.ndarray) and data.dtype.kind == "f":
        # torch takes neither another byte order nor negative strides.
        native = np.array(data, data.dtype.newbyteorder("="), order="C")
        data = torch.from_numpy(native).to(like.device)
    if not isinstance(data, Tensor) or not data.is_floating_point():
        raise DataError(
            f"{model.model_name}: data must be floating-point numbers as in training, "
            f"not {data.dtype}"
        )

    input_dim = model.model_config.input_dim
    if input_dim is not None and tuple(data.shape[1:]) != tuple(input_dim):
        raise DataError(
            f"{model.model_name}: data of shape {tuple(data.shape)} "
            f"for input_dim={tuple(input_dim)}"
        )
    return data.to(like.dtype)


def _standardize_frame(frame: Any, model: Any) -> Any:
    """Returns the standardised rows of a DataFrame; the DataFrame if the model has no columns."""
    if model.columns is None:
        warnings.warn(
            f"{model.model_name} has no columns, so a DataFrame must be standardised as in "
            "training: set model.columns to pass original units",
            stacklevel=4,
        )
        return frame

    rows = model.columns.transform(frame)
    incomplete = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(incomplete):
        raise DataError(
            f"{len(incomplete)} of {len(rows)} rows have missing or infinite values, the first is "
            f"row {incomplete[0]} (from 0): leave them out"
        )
    return rows


def as_codes(z: Any, model: Any) -> Tensor:
    """Converts codes to a tensor on the device and with the type of the model's weights.

    Args:
        z: Codes (..., d), a tensor or anything that numpy converts to an array.
        model: The model, which names itself in errors.

    Returns:
        The codes, (..., d).

    Raises:
        DataError: The codes have another shape.
    """
    like = next(model.parameters())
    codes = torch.as_tensor(z if isinstance(z, Tensor) else np.array(z), device=like.device)
    if codes.dim() < 2 or codes.shape[-1] != model.latent_dim:
        raise DataError(
            f"{model.model_name}: codes of shape {tuple(codes.shape)}: "
            f"(B, {model.latent_dim}) is needed"
        )
    return codes.to(like.dtype)


def as_shape(num_samples: Any, model: Any) -> tuple[int, ...]:
    """Returns the shape of a batch of samples, (n,) for a number n.

    Args:
        num_samples: n, or a shape such as (n, m).
        model: The model, which names itself in errors.

    Raises:
        ConfigError: A size is not a positive integer, or the shape is empty.
    """
    sizes = num_samples if isinstance(num_samples, Sequence) else [num_samples]
    try:
        shape = tuple(operator.index(size) for size in sizes)
    except TypeError:
        shape = ()
    if not shape or min(shape) < 1:
        raise ConfigError(
            f"{model.model_name}: num_samples={num_samples!r}: use a positive integer, or a shape "
            "of positive integers"
        )
    return shape


def as_condition(
    labels: Labels, condition_dim: int, like: Tensor, class_names: Sequence[str] | None = None
) -> Tensor | None:
    """Converts labels to condition vectors, one-hot for class indices.

    On a GPU a check of the classes would make the host wait, so an unknown class becomes a vector
    of NaN there.

    Args:
        labels: Class indices or names (B,), one of them for all samples, or condition vectors
            (B, c).
        condition_dim: c; 0 for an unconditional model.
        like: A tensor (B, ...) with the condition's device and type.
        class_names: Names of the classes; None if they are unknown.

    Returns:
        The condition (B, c); None for an unconditional model.

    Raises:
        ConfigError: Labels for an unconditional model, or none for a conditional one, or an unknown
            name.
        DataError: The labels have another shape, or a class is unknown.

    Example:
        >>> as_condition([2, 0], 3, torch.zeros(2, 5))
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
    """
    if condition_dim == 0:
        if labels is not None:
            raise ConfigError("a model with condition_dim=0 takes no labels")
        return None
    indices = f"class indices 0 to {condition_dim - 1}"
    if class_names:
        indices += f", or the names {', '.join(class_names)}"
    if labels is None:
        raise ConfigError(f"a model with condition_dim={condition_dim} needs labels: {indices}")

    values = labels if isinstance(labels, Tensor) else np.array(labels, order="C")
    if class_names and isinstance(values, np.ndarray) and values.dtype.kind in "UO":
        for name in np.unique(values):
            check_choice(name, class_names, f"class {str(name)!r} is unknown")
        values = np.vectorize(list(class_names).index)(values)
    try:
        labels = torch.as_tensor(values, device=like.device)
    except TypeError as error:  # for example, strings
        raise DataError(f"labels of type {values.dtype}: {indices} are needed") from error

    count = len(like)
    if labels.shape == (count, condition_dim):
        return labels.to(like.dtype)
    if labels.dim() == 0:
        labels = labels.expand(count)
    if labels.shape != (count,):
        raise DataError(
            f"labels of shape {tuple(labels.shape)} for {count} samples: {indices}, ({count},), or "
            f"condition vectors ({count}, {condition_dim}) are needed"
        )

    one_hot = labels[:, None] == torch.arange(condition_dim, device=labels.device)
    valid = one_hot.any(1, keepdim=True)
    if labels.device.type == "cpu" and not valid.all():
        first_invalid = labels[~valid[:, 0]][0].item()
        raise DataError(f"label {first_invalid:g} is not one of the {indices}")
    return torch.where(valid, one_hot.to(like.dtype), torch.nan)


def class_indices(condition: Tensor | None = None) -> Tensor | None:
    """Returns the classes (B,) of one-hot vectors (B, c); None if some are not one-hot."""
    if condition is None:
        return None
    indices = condition.argmax(1)
    one_hot = torch.nn.functional.one_hot(indices, condition.shape[1])
    return indices if torch.equal(condition, one_hot.to(condition)) else None


def batches(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yields batches of :data:`ENCODE_BATCH_SIZE` rows of tensors (N, ...) with the same N."""
    return zip(*(tensor.split(ENCODE_BATCH_SIZE) for tensor in tensors), strict=True)


def warn_if_large(z: Tensor, model: Any) -> None:
    """Warns if codes are much larger than those of training data, or than the prior's.

    Args:
        z: Codes, (B, d).
        model: The model. Its ``code_mean`` and ``code_std`` are those of training data; None for
            the standard prior's.
    """
    scores = z
    if model.code_mean is not None:
        scores = (z - torch.tensor(model.code_mean).to(z)) / torch.tensor(model.code_std).to(z)
    size = scores.abs().median()
    if size > MAX_CODE_SCORE:
        hint = "is the data scaled as in training (for images, to [0, 1])?"
        if model.columns is not None:
            hint = "arrays are standardised rows: pass original units as a DataFrame"
        warnings.warn(
            f"codes are about {size:.0f} times as large as those of training data: {hint}",
            stacklevel=4,
        )


def get_output(output: Any, key: str, model: Any) -> Tensor:
    """Returns one tensor of a network's output, checked.

    Args:
        output: What the network returned.
        key: `embedding` of an encoder, `reconstruction` of a decoder.
        model: The network's model.

    Raises:
        ConfigError: The output is not a ModelOutput with that key, or the tensor's shape differs
            from the model's codes or data.
    """
    if not isinstance(output, Mapping) or key not in output:
        raise ConfigError(
            f"a network returns a {type(output).__name__}: let it return ModelOutput({key}=...)"
        )

    tensor: Tensor = output[key]
    shape = (model.latent_dim,) if key == "embedding" else model.model_config.input_dim
    if shape and tuple(tensor.shape[1:]) != tuple(shape):
        raise ConfigError(
            f"a network returns {key} of shape {tuple(tensor.shape)}: "
            f"(B, {', '.join(map(str, shape))}) is needed"
        )
    return tensor


class LazyOutput(ModelOutput):
    """An output that computes `loss` and its terms when one is first read.

    Samplers read only `z`, and need not wait for a loss.

    Args:
        compute_losses: Returns the loss and its terms by name.
        **values: The outputs that are there at once.
    """

    def __init__(self, compute_losses: Callable[[], dict[str, Tensor]], **values: Tensor) -> None:
        super().__init__(**values)
        self.__dict__["compute_losses"] = compute_losses

    def __getattr__(self, name: str) -> Any:
        if name not in ("loss", "nll_loss", "noise_nll"):
            raise AttributeError(name)
        self.update(self.__dict__["compute_losses"]())
        return self.__dict__[name]

    def __getitem__(self, key: Any) -> Any:
        return getattr(self, key) if isinstance(key, str) else super().__getitem__(key)


def without_gradients(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Calls a model without gradients, or with them if the model differentiates internally.

    Args:
        call: The model or one of its methods.
        *args: Its arguments.
        **kwargs: Its keyword arguments.

    Returns:
        What the call returns.
    """
    try:
        with torch.no_grad():
            return call(*args, **kwargs)
    except RuntimeError as error:
        if "require grad" not in str(error):  # another failure, such as out of memory
            raise
    with torch.enable_grad():
        return call(*args, **kwargs)
