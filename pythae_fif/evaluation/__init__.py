"""Scores of images: feature extractors, distances, the inception score, and a pipeline.

The names below are imported when they are first used, because the command line needs only the
torch-free :mod:`~pythae_fif.evaluation.catalog` at its start.
"""

from typing import TYPE_CHECKING

from pythae_fif.register import lazy_names

if TYPE_CHECKING:
    from pythae_fif.evaluation.distances import frechet_distance
    from pythae_fif.evaluation.extractors import Extractor, Features, load_extractor
    from pythae_fif.evaluation.score_types import Scores
    from pythae_fif.evaluation.scoring import EvaluationPipeline, score_codes, score_samples

__all__ = [
    "EvaluationPipeline", "Extractor", "Features", "Scores", "frechet_distance",
    "load_extractor", "score_codes", "score_samples",
]  # fmt: skip


__getattr__ = lazy_names(
    __name__,
    {
        "EvaluationPipeline": "pythae_fif.evaluation.scoring",
        "Extractor": "pythae_fif.evaluation.extractors",
        "Features": "pythae_fif.evaluation.extractors",
        "Scores": "pythae_fif.evaluation.score_types",
        "frechet_distance": "pythae_fif.evaluation.distances",
        "load_extractor": "pythae_fif.evaluation.extractors",
        "score_codes": "pythae_fif.evaluation.scoring",
        "score_samples": "pythae_fif.evaluation.scoring",
    },
)
