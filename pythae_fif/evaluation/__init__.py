"""Scores of images: feature extractors, distances, the inception score, and a pipeline.

The names below are imported when they are first used, because the command line needs only the
torch-free :mod:`~pythae_fif.evaluation.catalog` at its start.
"""

from typing import TYPE_CHECKING

from pythae_fif.register import lazy_names

if TYPE_CHECKING:
    from pythae_fif.evaluation.build import load_extractor
    from pythae_fif.evaluation.distances import frechet_distance
    from pythae_fif.evaluation.extractors import Extractor, Features
    from pythae_fif.evaluation.saved_models import export_samples, likelihood_frame, score_files
    from pythae_fif.evaluation.score_types import Scores
    from pythae_fif.evaluation.scoring import EvaluationPipeline, score_codes, score_samples

__all__ = [
    "EvaluationPipeline", "Extractor", "Features", "Scores", "export_samples",
    "frechet_distance", "likelihood_frame", "load_extractor", "score_codes", "score_files",
    "score_samples",
]  # fmt: skip


__getattr__ = lazy_names(
    __name__,
    {
        "EvaluationPipeline": "pythae_fif.evaluation.scoring",
        "Extractor": "pythae_fif.evaluation.extractors",
        "Features": "pythae_fif.evaluation.extractors",
        "Scores": "pythae_fif.evaluation.score_types",
        "export_samples": "pythae_fif.evaluation.saved_models",
        "frechet_distance": "pythae_fif.evaluation.distances",
        "likelihood_frame": "pythae_fif.evaluation.saved_models",
        "load_extractor": "pythae_fif.evaluation.build",
        "score_codes": "pythae_fif.evaluation.scoring",
        "score_files": "pythae_fif.evaluation.saved_models",
        "score_samples": "pythae_fif.evaluation.scoring",
    },
)
