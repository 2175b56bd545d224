"""Finds data sets by name.

The module does not import torch: the command line needs it at its start.
"""

from pythae_fif.data.source import DataSource
from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.names import import_object, is_user_object


def find_dataset(name: str) -> DataSource:
    """Returns the record of a data set.

    Args:
        name: A key of :data:`~pythae_fif.data.sets.DATASETS`, or `module:object` for a user's
            :class:`~pythae_fif.data.DataSource`.

    Raises:
        ConfigError: The name is unknown, or the object cannot be imported or is no data set.
    """
    if is_user_object(name):
        source = import_object(name)
        if not isinstance(source, DataSource):
            raise ConfigError(
                f"data set {name!r} is a {type(source).__name__}: a pythae_fif.data.DataSource is "
                "needed"
            )
        return source

    from pythae_fif.data.sets import DATASETS  # imports torch

    if name not in DATASETS:
        raise ConfigError(
            f"data set {name!r} is unknown: {did_you_mean(name, DATASETS)}, or module:object"
        )
    return DATASETS[name]
