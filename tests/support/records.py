"""Specifications and records of the image benchmark, made up: no model is behind them."""

import dataclasses
import functools

from pythae_fif.benchmark.config import Profile
from pythae_fif.benchmark.plan import RunSpec
from pythae_fif.benchmark.record import DataUsed, ImageRecord, Training
from pythae_fif.benchmark.selection import Result
from pythae_fif.evaluation.scores import Scores
from pythae_fif.runs.record import Provenance
from support.experiments import PROFILE

SETTINGS = Profile(**PROFILE).settings_of("fif")


def spec_of(**changes) -> RunSpec:
    base = RunSpec(
        dataset="digits", arch="convnet", model="fif",
        parameters={"beta": 10.0, "hutchinson_samples": 1},
        varied=("beta", "hutchinson_samples"), latent_dim=8, image_size=None, seed=0,
        extractor="pixels", samplers=("normal", "gmm"), profile="tiny",
        settings=SETTINGS, data_hash="0123456789abcdef",
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


@functools.cache
def scores_of(val: float, test: float) -> Scores:
    return Scores(
        num_samples=20, extractor="pixels", extractor_hash="e" * 16, distance_name="FD-pixels",
        score_name=None, rounded=True, seed=0, score=None, score_with_bias=None,
        frechet={"val": val, "test": test}, kernel={}, neighbours={},
    )  # fmt: skip


def record_of(
    spec: RunSpec, distances: dict[str, tuple[float, float]] | None = None
) -> ImageRecord:
    """A record with given (validation, test) distances of each sampler."""
    distances = distances or dict.fromkeys(spec.samplers, (1.0, 2.0))
    return ImageRecord(
        run_id=spec.run_id,
        scores={sampler: scores_of(val, test) for sampler, (val, test) in distances.items()},
        reconstruction_mse={"val": 0.1, "test": 0.2},
        training=Training(seconds=3.0),
        parameters=7,
        data=DataUsed(source="made up", partial=False, sizes={}),
        provenance=Provenance(),
    )


def result_of(spec: RunSpec, distances: dict[str, tuple[float, float]] | None = None) -> Result:
    return Result(spec, record_of(spec, distances))
