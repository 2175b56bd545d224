"""Scores of images: feature extractors, Frechet distance, inception score, reconstruction."""

__all__ = [
    "EXTRACTORS",
    "ClassifierExtractor",
    "EfficientNetExtractor",
    "Extractor",
    "FeatureStatistics",
    "PixelExtractor",
    "build_extractor",
    "frechet_distance",
    "inception_score",
    "load_or_train_classifier",
    "reconstruction_mse",
    "reference_statistics",
    "score_samples",
    "train_classifier",
]

from pythae_fif.evaluation.classifier import (
    ClassifierExtractor,
    load_or_train_classifier,
    train_classifier,
)
from pythae_fif.evaluation.efficientnet import EfficientNetExtractor
from pythae_fif.evaluation.evaluate import reference_statistics, score_samples
from pythae_fif.evaluation.extractors import (
    EXTRACTORS,
    Extractor,
    PixelExtractor,
    build_extractor,
)
from pythae_fif.evaluation.frechet import FeatureStatistics, frechet_distance
from pythae_fif.evaluation.scores import inception_score, reconstruction_mse
