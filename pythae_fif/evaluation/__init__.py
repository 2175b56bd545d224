"""Scores of images: feature extractors, distances, inception score, pipeline.

A name is imported when it is first asked for: `EXTRACTORS` needs no torch, and no extractor needs
the packages of another.
"""

__all__ = [
    "EXTRACTORS",
    "CodeScores",
    "EvaluationOutput",
    "EvaluationPipeline",
    "Extractor",
    "Features",
    "LabelledImages",
    "MeanStd",
    "Memorisation",
    "Neighbours",
    "SampleCountWarning",
    "Scores",
    "frechet_distance",
    "frechet_error",
    "inception_score",
    "kernel_distance",
    "load_extractor",
    "memorisation",
    "neighbour_scores",
    "score_codes",
    "score_samples",
    "train_classifier",
]

from typing import TYPE_CHECKING

from pythae_fif.lazy import lazily

if TYPE_CHECKING:
    from pythae_fif.evaluation.classifier import LabelledImages, train_classifier
    from pythae_fif.evaluation.codes import CodeScores, score_codes
    from pythae_fif.evaluation.extractors import Extractor, load_extractor
    from pythae_fif.evaluation.features import Features
    from pythae_fif.evaluation.frechet import frechet_distance, frechet_error
    from pythae_fif.evaluation.kernel import kernel_distance
    from pythae_fif.evaluation.names import EXTRACTORS
    from pythae_fif.evaluation.neighbours import memorisation, neighbour_scores
    from pythae_fif.evaluation.pipeline import EvaluationOutput, EvaluationPipeline
    from pythae_fif.evaluation.scores import MeanStd, Memorisation, Neighbours, Scores
    from pythae_fif.evaluation.scoring import SampleCountWarning, inception_score, score_samples
else:
    __getattr__ = lazily(__name__)
