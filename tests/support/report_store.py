"""A small store of results, made by code, that the tests of reports draw from.

Renew the stored files after a wanted change, and read the difference before it is committed:

    PYTHONPATH=tests python -m support.report_store
"""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from pythae_fif.benchmark.run import IMAGES

from pythae_fif.benchmark.config import Experiment, load_experiment
from pythae_fif.benchmark.plan import RunSpec
from pythae_fif.benchmark.record import DataUsed, ImageRecord, Training
from pythae_fif.benchmark.selection import Result
from pythae_fif.data import Splits
from pythae_fif.evaluation import CodeScores
from pythae_fif.evaluation.scores import MeanStd, Memorisation, Neighbours, Scores
from pythae_fif.reports.experiment import Failure, constant_error, write_experiment
from pythae_fif.reports.report import Report, build_report
from pythae_fif.runs.record import Provenance
from pythae_fif.runs.store import Store

GOLDEN = Path(__file__).parents[1] / "reports" / "golden"
NAME = "mnist-resnet-quick-own"


def experiment(profile: str = "quick", dataset: str = "mnist", **values) -> Experiment:
    """An experiment whose settings no YAML file can change."""
    flags = {"arch": "resnet", "profile": profile, "seeds": [0, 1]}
    found = load_experiment(dataset, None, flags)
    changes = {"note": "a profile of the tests", "epochs": 60, "batch_size": 50}
    settings = found.settings.model_copy(update=changes)
    return found.model_copy(update={"profiles": {profile: settings}, **values})


def splits() -> Splits:
    draws = np.random.RandomState(0)
    images = {
        name: draws.randint(0, 256, (count, 1, 8, 8)).astype(np.uint8)
        for name, count in (("train", 40), ("val", 10), ("test", 64))
    }
    labels = {name: np.arange(len(split)) % 3 for name, split in images.items()}
    return Splits("mnist", **images, labels=labels, source="noise of the tests")


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
    training: Training | None = None,
    provenance: dict | None = None,
    error: float | None = None,
    codes: CodeScores | None = None,
    **of_spec,
) -> Result:
    """A finished run; distances of each sampler are (validation, test)."""
    spec = RunSpec(
        dataset="mnist", arch="resnet", model=model, parameters=parameters,
        varied=tuple(parameters), latent_dim=16, image_size=None, seed=seed, extractor=extractor,
        samplers=tuple(distances), profile="quick", data_hash="d" * 16,
        settings=experiment().settings.settings_of(model),
    )  # fmt: skip
    spec = dataclasses.replace(spec, **of_spec)
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
            score_with_bias=None,
            frechet={"val": val, "test": test},
            kernel={"test": MeanStd(test / 1e3, 0.001)},
            neighbours={
                "test": Neighbours(precision=0.5, recall=0.75, density=1.25, coverage=0.875)
            },
            frechet_error=None if error is None else {"val": error, "test": error},
            # the VAE's are records of before
            memorisation=None if model == "vae" else Memorisation({"test": 0.5 + seed / 50}, 0.9),
        )
        for sampler, (val, test) in distances.items()
    }
    made = {"versions": {"pythae-fif": "0.1.0", "torch": "2.0"}, "device": "cpu (x86_64)",
            "cores": 2, "threads": 1, "seconds": 36.0, "peak_memory_mb": 404}  # fmt: skip
    record = ImageRecord(
        run_id=spec.run_id,
        scores=scores,
        reconstruction_mse={"val": 0.01, "test": mse + seed / 1000},
        codes=codes,
        training=training or Training(seconds=20.0 + seed, images_per_second=1500.0),
        parameters=105673,
        data=DataUsed(
            source="noise of the tests",
            partial=partial,
            sizes={"train": 1197, "val": 300, "test": 300},
        ),
        extractor_accuracy=0.9967 if score else None,
        provenance=Provenance(**made | (provenance or {})),
    )
    return Result(spec, record)


RESULTS = [
    result("fif", {"beta": 10, "hutchinson_samples": 1}, 0, {"normal": (5, 6), "gmm": (3, 2.5)}),
    result("fif", {"beta": 10, "hutchinson_samples": 1}, 1, {"normal": (5.5, 7), "gmm": (3, 2.75)}),
    result("fif", {"beta": 5, "hutchinson_samples": 2}, 0, {"normal": (9, 1), "gmm": (2, 0.25)}),
    result("fif", {"beta": 5, "hutchinson_samples": 2}, 1, {"normal": (9, 1), "gmm": (2, 0.35)}),
    result("ae", {}, 0, {"normal": (140, 150.25), "gmm": (2.4, 2.3), "maf": (4, 5)}, 2.5, mse=0.2),
    result("ae", {}, 1, {"normal": (140, 151.25), "gmm": (2.4, 2.3), "maf": (4, 5)}, 2.5, mse=0.2),
    result("vae", {}, 0, {"normal": (7, 7.5), "gmm": (7, 7.5)}, 1.5),
    result("vae", {}, 1, {"normal": (7, 7.5), "gmm": (7, 7.5)}, 1.5),
]
FAILURES = [
    Failure("wae_imq", "reg_weight=10", "DivergedError: the loss is <NaN> & no number in epoch 3")
]


def store(root: Path) -> Store:
    return Store(root, IMAGES)


def fill(store: Store, results=RESULTS, size: tuple[int, int] = (8, 8), channels: int = 1) -> None:
    """The pictures and logs of the runs: sheets whose grey tells row, and sampler."""
    for result in results:
        run_dir = store.run_dir(result.spec)
        run_dir.mkdir(parents=True, exist_ok=True)
        for index, sampler in enumerate(result.record.scores):
            sheet(run_dir / f"samples-{sampler}.png", size, channels, 100 * index)
        for name in ("reconstructions", "interpolations", "latents"):
            sheet(run_dir / f"{name}.png", size, channels)
        lines = [f'{{"epoch": {e}, "train_loss": {9 / e}, "eval_loss": {10 / e}, "seconds": 1.5}}'
                 for e in (1, 2, 3)]  # fmt: skip
        (run_dir / "train_log.jsonl").write_text("\n".join([*lines, '{"epoch": 4, "tr']))


def sheet(path: Path, size: tuple[int, int], channels: int = 1, start: int = 0) -> Path:
    """8 x 8 images whose grey is `start` and ten times the number of their row."""
    height, width = size
    rows = np.arange(1, 9)[:, None, None, None] * 10 + start
    pixels = np.broadcast_to(rows, (8, height, 8, width)).reshape(8 * height, 8 * width, 1)
    Image.fromarray(pixels.astype(np.uint8).repeat(channels, axis=2).squeeze()).save(path)
    return path


def report(results=RESULTS, missing: int = 0) -> Report:
    return build_report(experiment(), results, missing, constant_error(splits()))


def write(root: Path) -> dict[str, str]:
    """The tables of the store, by file name, with run ids that no schema changes."""
    fill(store(root))
    paths = write_experiment(store(root), splits(), report(missing=1), FAILURES)
    texts = {p.name: p.read_text("utf-8") for p in paths if p.parent.name == "tables"}
    for number, result in enumerate(RESULTS):
        run_id = result.spec.run_id
        texts = {name: text.replace(run_id, f"run{number}") for name, text in texts.items()}
    return texts


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.mkdir(exist_ok=True)
        for name, text in write(Path(folder)).items():
            (GOLDEN / name).write_text(text, "utf-8")
