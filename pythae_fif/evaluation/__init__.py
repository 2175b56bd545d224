"""Scores of images: feature extractors, distances, the inception score, and a pipeline."""

__all__ = [
    "EvaluationPipeline", "Extractor", "Features", "Scores", "frechet_distance",
    "load_extractor", "score_codes", "score_samples",
]  # fmt: skip

from pythae_fif.evaluation.distances import frechet_distance
from pythae_fif.evaluation.extractors import Extractor, Features, load_extractor
from pythae_fif.evaluation.pipeline import EvaluationPipeline
from pythae_fif.evaluation.scores import Scores
from pythae_fif.evaluation.scoring import score_codes, score_samples
