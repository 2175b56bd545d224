"""Scores of images: feature extractors, distances, inception score, reconstruction, pipeline."""

__all__ = [
    "EXTRACTORS",
    "ClassifierExtractor",
    "EfficientNetExtractor",
    "EvaluationOutput",
    "EvaluationPipeline",
    "Extractor",
    "FeatureStatistics",
    "InceptionExtractor",
    "Interval",
    "Intervals",
    "MeanStd",
    "Neighbours",
    "PixelExtractor",
    "SampleCountWarning",
    "Scores",
    "TFInceptionExtractor",
    "bootstrap_frechet",
    "bootstrap_inception",
    "bootstrap_kernel",
    "build_extractor",
    "content_hash",
    "find_inception_weights",
    "frechet_at_infinity",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "load_inception",
    "load_or_train_classifier",
    "neighbour_scores",
    "reconstruction_mse",
    "reference_features",
    "reference_statistics",
    "score_samples",
    "train_classifier",
]

from pythae_fif.evaluation.classifier import (
    ClassifierExtractor,
    load_or_train_classifier,
    train_classifier,
)
from pythae_fif.evaluation.distances import kernel_distance, neighbour_scores
from pythae_fif.evaluation.efficientnet import EfficientNetExtractor
from pythae_fif.evaluation.evaluate import (
    SampleCountWarning,
    content_hash,
    reference_features,
    reference_statistics,
    score_samples,
)
from pythae_fif.evaluation.extractors import (
    EXTRACTORS,
    Extractor,
    PixelExtractor,
    build_extractor,
)
from pythae_fif.evaluation.frechet import FeatureStatistics, frechet_distance
from pythae_fif.evaluation.inception import (
    InceptionExtractor,
    find_inception_weights,
    load_inception,
)
from pythae_fif.evaluation.inception_score import inception_score, reconstruction_mse
from pythae_fif.evaluation.output import EvaluationOutput
from pythae_fif.evaluation.pipeline import EvaluationPipeline
from pythae_fif.evaluation.scores import Interval, Intervals, MeanStd, Neighbours, Scores
from pythae_fif.evaluation.tf_inception import TFInceptionExtractor
from pythae_fif.evaluation.uncertainty import (
    bootstrap_frechet,
    bootstrap_inception,
    bootstrap_kernel,
    frechet_at_infinity,
)
