"""Scores of images: feature extractors, distances, inception score, reconstruction, pipeline.

A name is imported when it is first asked for: `EXTRACTORS` needs no torch, and no extractor needs
the packages of another.
"""

__all__ = [
    "DINOV2",
    "EXTRACTORS",
    "INCEPTION",
    "ClassifierExtractor",
    "CodeScores",
    "DINOv2Extractor",
    "EfficientNetExtractor",
    "EvaluationOutput",
    "EvaluationPipeline",
    "Extracted",
    "Extractor",
    "FeatureStatistics",
    "InceptionExtractor",
    "LabelledImages",
    "MeanStd",
    "Memorisation",
    "Neighbours",
    "OwnExtractor",
    "PixelExtractor",
    "Reference",
    "SampleCountWarning",
    "Scores",
    "TFInceptionExtractor",
    "Weights",
    "build_extractor",
    "frechet_distance",
    "frechet_error",
    "inception_score",
    "kernel_distance",
    "memorisation",
    "neighbour_scores",
    "score_codes",
    "score_samples",
    "train_classifier",
]

from typing import TYPE_CHECKING

from pythae_fif.lazy import lazily

if TYPE_CHECKING:
    from pythae_fif.evaluation.classifier import (
        ClassifierExtractor,
        LabelledImages,
        train_classifier,
    )
    from pythae_fif.evaluation.codes import CodeScores, score_codes
    from pythae_fif.evaluation.copies import memorisation
    from pythae_fif.evaluation.dinov2 import DINOv2Extractor
    from pythae_fif.evaluation.distances import (
        inception_score,
        kernel_distance,
        neighbour_scores,
    )
    from pythae_fif.evaluation.efficientnet import EfficientNetExtractor
    from pythae_fif.evaluation.extractor import Extracted, Extractor, PixelExtractor
    from pythae_fif.evaluation.extractors import build_extractor
    from pythae_fif.evaluation.frechet import FeatureStatistics, frechet_distance, frechet_error
    from pythae_fif.evaluation.inception import InceptionExtractor
    from pythae_fif.evaluation.names import EXTRACTORS
    from pythae_fif.evaluation.own import OwnExtractor
    from pythae_fif.evaluation.pipeline import EvaluationOutput, EvaluationPipeline
    from pythae_fif.evaluation.reference import Reference
    from pythae_fif.evaluation.scores import (
        MeanStd,
        Memorisation,
        Neighbours,
        Scores,
    )
    from pythae_fif.evaluation.scoring import SampleCountWarning, score_samples
    from pythae_fif.evaluation.tf_inception import TFInceptionExtractor
    from pythae_fif.evaluation.weights import DINOV2, INCEPTION, Weights
else:
    __getattr__ = lazily(__name__)
