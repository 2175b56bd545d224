"""A small store of made-up results, with pictures, for the tests of reports."""

import functools
import io
from pathlib import Path

import numpy as np
from PIL import Image

from pythae_fif.benchmark.config import Experiment
from pythae_fif.benchmark.job import Job
from pythae_fif.benchmark.load import load_experiment
from pythae_fif.benchmark.models import read_entry
from pythae_fif.benchmark.record import DataUsed, Evaluation, ScoringResult
from pythae_fif.benchmark.results import Result
from pythae_fif.benchmark.scoring import Scoring
from pythae_fif.benchmark.training import Training
from pythae_fif.data import Splits
from pythae_fif.evaluation.score_types import CodeScores, MeanStd, Memorisation, Neighbours, Scores
from pythae_fif.files import write_bytes, write_json
from pythae_fif.runs.store import SPEC_FILE, Provenance, Record, Store
from pythae_fif.training import EpochRow, TrainingResult

PROVENANCE = {
    "versions": {"pythae-fif": "0.1.0", "torch": "2.0"},
    "device": "cpu (x86_64)", "cores": 2, "threads": 1, "seconds": 36.0,
    "command": "run_benchmark.py --dataset mnist",
}  # fmt: skip


def make_experiment(profile: str = "quick", dataset: str = "mnist", **flags) -> Experiment:
    """Loads an experiment of ResNets with two seeds."""
    flags = {"arch": "resnet", "profile": profile, "seeds": [0, 1], **flags}
    return load_experiment(dataset, flags)


@functools.cache
def model_fields(model: str) -> dict:
    """Returns the fields of a training that come from a model's file."""
    entry = read_entry(model)
    names = {"variational", "networks", "discriminator", "keep_last"}
    classes = {
        "model_class": entry.model,
        "config_class": entry.config,
        "trainer_class": entry.trainer,
    }
    return {**classes, **entry.model_dump(include=names)}


PROFILE = {
    "epochs": 3, "batch_size": 50, "learning_rate": 3e-4, "train_size": 8000, "val_size": 2000,
    "test_size": 2000,
}  # fmt: skip
"""Fields of a training that come from MNIST's profile `quick`."""


def make_splits() -> Splits:
    """Makes images of noise, with labels."""
    rng = np.random.RandomState(0)
    images = {
        name: rng.randint(0, 256, (count, 1, 8, 8)).astype(np.uint8)
        for name, count in (("train", 40), ("val", 10), ("test", 64))
    }
    labels = {name: np.arange(len(split)) % 3 for name, split in images.items()}
    return Splits("mnist", **images, labels=labels, source="noise of the tests", notes=("odd",))


def make_result(
    model: str,
    parameters: dict,
    seed: int,
    distances: dict[str, tuple[float, float]],
    score: float | None = 8.5,
    *,
    mse: float = 0.0123,
    extractor: str = "classifier",
    extractor_hash: str = "e" * 16,
    num_samples: int = 2000,
    partial: bool = False,
    source: str = "noise of the tests",
    error: float | None = None,
    provenance: dict | None = None,
    images: int = 240_000,
    job: Job | None = None,
    **fields,
) -> Result:
    """Makes the result of a run that never was.

    Args:
        model: Name of the model.
        parameters: Parameters, all of them varied.
        seed: Random seed.
        distances: Sampler -> validation and test distance.
        score: Inception score of seed 0; None if the extractor has none.
        mse: Reconstruction error of test images with seed 0.
        extractor: Name of the extractor.
        extractor_hash: Hash of its weights.
        num_samples: Number of samples scored.
        partial: Whether a part of the data was used.
        source: Description of the data.
        error: Standard deviation of the distances over draws; None if it is missing.
        provenance: Fields of the provenance that differ from `PROVENANCE`.
        images: Number of images that the training used.
        job: The job, in place of the one made of the other arguments.
        fields: Further fields of the training.
    """
    values = {
        "dataset": "mnist", "arch": "resnet", "model": model, **model_fields(model), **PROFILE,
        "parameters": parameters, "latent_dim": 16, "seed": seed, "data_hash": "d" * 16,
    }  # fmt: skip
    scorings = [
        Scoring(sampler=sampler, extractor=extractor, num_samples=num_samples)
        for sampler in distances
    ]
    if job is None:
        job = Job(Training(**{**values, **fields}), tuple(scorings), varied=tuple(parameters))
    run_id = job.training.run_id
    run_provenance = Provenance(**{**PROVENANCE, **(provenance or {})})

    def make_record(content):
        return Record[type(content)](run_id=run_id, result=content, provenance=run_provenance)

    scores = {
        sampler: Scores(
            num_samples=num_samples,
            extractor=extractor,
            extractor_hash=extractor_hash,
            distance_name=f"FD-{extractor}",
            score_name=f"{extractor} score" if score else None,
            rounded=True,
            seed=0,
            score=None if score is None else MeanStd(score + seed / 10, 0.2),
            frechet={"val": val, "test": test},
            kernel={"test": MeanStd(test / 1e3, 0.001)},
            neighbours={"test": Neighbours(0.5, 0.75, 1.25, 0.875)},
            extra={} if error is None else {"frechet_error": {"val": error, "test": error}},
            # the VAE's records lack it
            memorisation=None if model == "vae" else Memorisation({"test": 0.5 + seed / 50}, 0.9),
        )
        for sampler, (val, test) in distances.items()
    }
    log = [
        EpochRow(epoch, {"loss": 9 / epoch}, {"loss": 10 / epoch}, {}, 1.5, share_done=epoch / 3)
        for epoch in (1, 2, 3)
    ]
    training = TrainingResult(
        seconds=20.0 + seed, train_seconds=12.0, images=images, images_per_second=1500.0, log=log
    )
    evaluation = Evaluation(
        reconstruction_mse={"val": 0.01, "test": mse + seed / 1000},
        codes=CodeScores(0.5),
        parameters=105673,
        data=DataUsed(
            source=source,
            partial=partial,
            sizes={"train": 1197, "val": 300, "test": 300},
        ),
    )
    return Result(
        job=job,
        training=make_record(training),
        evaluation=make_record(evaluation),
        scores={
            scoring.sampler: make_record(ScoringResult(scoring, scores[scoring.sampler]))
            for scoring in job.scorings
        },
    )


def make_fif_result(beta: int, vectors: int, seed: int, **distances: tuple[float, float]) -> Result:
    """Makes the result of a FIF with a beta and a number of Hutchinson vectors."""
    return make_result("fif", {"beta": beta, "hutchinson_samples": vectors}, seed, distances)


AE_DISTANCES = {"gmm": (2.4, 2.3), "maf": (4, 5)}
RESULTS = [
    make_fif_result(10, 1, 0, normal=(5, 6), gmm=(3, 2.5)),
    make_fif_result(10, 1, 1, normal=(5.5, 7), gmm=(3, 2.75)),
    make_fif_result(5, 2, 0, normal=(9, 1), gmm=(2, 0.25)),
    make_fif_result(5, 2, 1, normal=(9, 1), gmm=(2, 0.35)),
    make_result("ae", {}, 0, {"normal": (140, 150.25), **AE_DISTANCES}, 2.5, mse=0.2),
    make_result("ae", {}, 1, {"normal": (140, 151.25), **AE_DISTANCES}, 2.5, mse=0.2),
    make_result("vae", {}, 0, {"normal": (7, 7.5), "gmm": (7, 7.5)}, 1.5),
    make_result("vae", {}, 1, {"normal": (7, 7.5), "gmm": (7, 7.5)}, 1.5),
]


def fill_store(root: Path, results=RESULTS) -> Store:
    """Fills a store with the records of runs and a sheet of samples for each sampler.

    The grey value of an image on a sheet is three times its number.
    """
    store = Store(root)
    greys = np.arange(64, dtype=np.uint8).reshape(8, 1, 8, 1) * 3
    sheet = np.broadcast_to(greys, (8, 8, 8, 8)).reshape(64, 64)
    png = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(sheet)).save(png, "PNG")

    for result in results:
        training = result.job.training
        folder = store.folder(training)
        write_json(folder / SPEC_FILE, training.to_dict())
        write_bytes(folder / "training.json", result.training.to_bytes())
        write_bytes(folder / "evaluation.json", result.evaluation.to_bytes())
        for record in result.scores.values():
            scoring = record.result.scoring
            write_bytes(folder / scoring.file, record.to_bytes())
            write_bytes(folder / f"samples-{scoring.name}.png", png.getvalue())
    return store
