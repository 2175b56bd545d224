"""A small store of made-up results, with pictures, for the tests of reports."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from pythae_fif.benchmark.config import Experiment, load_experiment
from pythae_fif.benchmark.image_run import ImageSpec
from pythae_fif.benchmark.models import read_entry
from pythae_fif.benchmark.record import DataUsed, Evaluation, ImageResult, Training
from pythae_fif.data import Splits
from pythae_fif.evaluation.scores import CodeScores, MeanStd, Memorisation, Neighbours, Scores
from pythae_fif.files import write_bytes, write_json
from pythae_fif.runs.record import Provenance, Record
from pythae_fif.runs.spec import SPEC_FILE
from pythae_fif.runs.store import Store
from pythae_fif.training import EpochRow

MADE = {"versions": {"pythae-fif": "0.1.0", "torch": "2.0"}, "device": "cpu (x86_64)", "cores": 2,
        "threads": 1, "seconds": 36.0, "peak_memory_mb": 404,
        "command": "run_benchmark.py --dataset mnist"}  # fmt: skip


def experiment(profile: str = "quick", dataset: str = "mnist", **flags) -> Experiment:
    flags = {"arch": "resnet", "profile": profile, "seeds": [0, 1], **flags}
    return load_experiment(dataset, flags)


def splits() -> Splits:
    """Noise."""
    draws = np.random.RandomState(0)
    images = {
        name: draws.randint(0, 256, (count, 1, 8, 8)).astype(np.uint8)
        for name, count in (("train", 40), ("val", 10), ("test", 64))
    }
    labels = {name: np.arange(len(split)) % 3 for name, split in images.items()}
    return Splits("mnist", **images, labels=labels, source="noise of the tests", notes=("odd",))


def result(
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
    error: float | None = None,
    made: dict | None = None,
    images: int = 240_000,
    spec: ImageSpec | None = None,
    **of_spec,
) -> ImageResult:
    """A finished run; distances of each sampler are (validation, test)."""
    values = {
        "dataset": "mnist", "arch": "resnet", "model": model, "classes": read_entry(model).classes,
        "parameters": parameters, "varied": list(parameters), "latent_dim": 16, "image_size": None,
        "seed": seed, "extractor": extractor, "samplers": list(distances), "profile": "quick",
        "data_hash": "d" * 16, "settings": experiment().settings_for(model),
    }  # fmt: skip
    spec = spec or ImageSpec(**{**values, **of_spec})
    provenance = Provenance(**{**MADE, **(made or {})})

    def record(found):
        return Record[type(found)](run_id=spec.run_id, result=found, provenance=provenance)

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
            frechet_error=None if error is None else {"val": error, "test": error},
            # the VAE's are records of before
            memorisation=None if model == "vae" else Memorisation({"test": 0.5 + seed / 50}, 0.9),
        )
        for sampler, (val, test) in distances.items()
    }
    log = [
        EpochRow(e, {"loss": 9 / e}, {"loss": 10 / e}, {}, 1.5, share_done=e / 3) for e in (1, 2, 3)
    ]
    training = Training(seconds=20.0 + seed, images=images, images_per_second=1500.0, log=log)
    evaluation = Evaluation(
        reconstruction_mse={"val": 0.01, "test": mse + seed / 1000},
        codes=CodeScores(0.5),
        parameters=105673,
        data=DataUsed(
            source="noise of the tests",
            partial=partial,
            sizes={"train": 1197, "val": 300, "test": 300},
        ),
    )
    by_sampler = {sampler: record(of) for sampler, of in scores.items()}
    return ImageResult(spec, record(training), record(evaluation), by_sampler)


def of_fif(beta: int, vectors: int, seed: int, **distances: tuple[float, float]) -> ImageResult:
    return result("fif", {"beta": beta, "hutchinson_samples": vectors}, seed, distances)


RESULTS = [
    of_fif(10, 1, 0, normal=(5, 6), gmm=(3, 2.5)),
    of_fif(10, 1, 1, normal=(5.5, 7), gmm=(3, 2.75)),
    of_fif(5, 2, 0, normal=(9, 1), gmm=(2, 0.25)),
    of_fif(5, 2, 1, normal=(9, 1), gmm=(2, 0.35)),
    result("ae", {}, 0, {"normal": (140, 150.25), "gmm": (2.4, 2.3), "maf": (4, 5)}, 2.5, mse=0.2),
    result("ae", {}, 1, {"normal": (140, 151.25), "gmm": (2.4, 2.3), "maf": (4, 5)}, 2.5, mse=0.2),
    result("vae", {}, 0, {"normal": (7, 7.5), "gmm": (7, 7.5)}, 1.5),
    result("vae", {}, 1, {"normal": (7, 7.5), "gmm": (7, 7.5)}, 1.5),
]


def fill(root: Path, results=RESULTS) -> Store:
    """A store with the records and sheets of runs: every image's grey is 10 times its number."""
    store = Store(root)
    greys = np.arange(64, dtype=np.uint8).reshape(8, 1, 8, 1) * 3
    sheet = np.broadcast_to(greys, (8, 8, 8, 8)).reshape(64, 64)
    png = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(sheet)).save(png, "PNG")
    for found in results:
        folder = store.folder(found.spec)
        write_json(folder / SPEC_FILE, found.spec.to_dict())
        write_bytes(folder / "training.json", found.training.to_bytes())
        write_bytes(folder / "evaluation.json", found.evaluation.to_bytes())
        for sampler, record in found.scores.items():
            write_bytes(folder / f"scores/{sampler}.json", record.to_bytes())
            write_bytes(folder / f"samples-{sampler}.png", png.getvalue())
    return store
