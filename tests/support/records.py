"""Specifications and results of the image benchmark, made up: no model is behind them."""

from pythae_fif.benchmark.image_run import ImageSpec
from pythae_fif.benchmark.models import read_entry
from pythae_fif.benchmark.record import DataUsed, Evaluation, ImageResult, Training
from pythae_fif.benchmark.settings import Settings
from pythae_fif.evaluation.scores import Scores
from pythae_fif.runs.record import Provenance, Record
from support.experiments import PROFILE

SETTINGS = Settings(**{key: PROFILE[key] for key in PROFILE.keys() & Settings.model_fields.keys()})


def spec_of(**changes) -> ImageSpec:
    base = {
        "dataset": "digits", "arch": "convnet", "model": "fif",
        "classes": read_entry("fif").classes,
        "parameters": {"beta": 10.0, "hutchinson_samples": 1},
        "varied": ["beta", "hutchinson_samples"], "latent_dim": 8, "image_size": None, "seed": 0,
        "extractor": "pixels", "samplers": ["normal", "gmm"], "profile": "tiny",
        "settings": SETTINGS, "data_hash": "0123456789abcdef",
    }  # fmt: skip
    return ImageSpec(**{**base, **changes})


def scores_of(val: float, test: float) -> Scores:
    return Scores(
        num_samples=20, extractor="pixels", extractor_hash="e" * 16, distance_name="FD-pixels",
        score_name=None, rounded=True, seed=0, score=None,
        frechet={"val": val, "test": test}, kernel={}, neighbours={},
    )  # fmt: skip


def result_of(
    spec: ImageSpec, distances: dict[str, tuple[float, float]] | None = None
) -> ImageResult:
    """A run with given (validation, test) distances of each sampler."""
    distances = distances or dict.fromkeys(spec.samplers, (1.0, 2.0))
    evaluation = Evaluation(
        reconstruction_mse={"val": 0.1, "test": 0.2},
        parameters=7,
        data=DataUsed(source="made up", partial=False, sizes={}),
    )

    def record(result):
        return Record[type(result)](
            run_id=spec.run_id, result=result, provenance=Provenance(command="a command")
        )

    scores = {sampler: record(scores_of(*pair)) for sampler, pair in distances.items()}
    return ImageResult(spec, record(Training(seconds=3.0)), record(evaluation), scores)
