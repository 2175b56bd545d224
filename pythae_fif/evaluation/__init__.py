"""Scores of images: feature extractors, distances, the inception score, and a pipeline.

The names below are imported when they are first used, because the command line needs only the
torch-free :mod:`~pythae_fif.evaluation.catalog` at its start.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pythae_fif.evaluation.distances import frechet_distance
    from pythae_fif.evaluation.extractors import Extractor, Features
    from pythae_fif.evaluation.load import load_extractor
    from pythae_fif.evaluation.pipeline import EvaluationPipeline
    from pythae_fif.evaluation.scores import Scores
    from pythae_fif.evaluation.scoring import score_codes, score_samples

__all__ = [
    "EvaluationPipeline", "Extractor", "Features", "Scores", "frechet_distance",
    "load_extractor", "score_codes", "score_samples",
]  # fmt: skip

_MODULES = {
    "EvaluationPipeline": "pipeline",
    "Extractor": "extractors",
    "Features": "extractors",
    "Scores": "scores",
    "frechet_distance": "distances",
    "load_extractor": "load",
    "score_codes": "scoring",
    "score_samples": "scoring",
}
"""Public name -> the module that defines it."""


def __getattr__(name: str) -> Any:  # PEP 562
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
