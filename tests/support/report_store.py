"""A small store of results, made by code, that the tests of reports draw from.

Renew the stored files after a wanted change, and read the difference before it is committed:

    python tests/report_store.py
"""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from pythae_fif.benchmark import RunSpec, load_experiment
from pythae_fif.benchmark.config import Experiment
from pythae_fif.data import Splits
from pythae_fif.reports import build_report, constant_error, write_experiment
from pythae_fif.runs.store import Store

GOLDEN = Path(__file__).parents[1] / "reports" / "golden"
NAME = "mnist-resnet-quick"


def experiment(profile: str = "quick", dataset: str = "mnist", **values) -> Experiment:
    """An experiment whose settings no YAML file can change."""
    flags = {"arch": "resnet", "profile": profile, "seeds": [0, 1]}
    found = load_experiment(dataset, None, flags)
    settings = dataclasses.replace(
        found.settings, note="a profile of the tests", epochs=60, batch_size=50
    )
    return dataclasses.replace(found, profiles={profile: settings}, **values)


def splits() -> Splits:
    draws = np.random.RandomState(0)
    parts = {
        name: draws.randint(0, 256, (count, 1, 8, 8)).astype(np.uint8)
        for name, count in (("train", 40), ("val", 10), ("test", 64))
    }
    labels = {name: np.arange(len(images)) % 3 for name, images in parts.items()}
    return Splits("mnist", **parts, labels=labels, source="noise of the tests")


def result(
    model: str,
    parameters: dict,
    seed: int,
    distances: dict[str, tuple[float, float]],
    score: float | None = 8.5,
    *,
    mse: float = 0.0123,
    extractor: str = "classifier",
    num_samples: int = 2000,
    partial: bool = False,
):
    """A specification with its record; distances of each sampler are (validation, test)."""
    spec = RunSpec(
        dataset="mnist", arch="resnet", model=model, parameters=parameters,
        varied=tuple(parameters), latent_dim=16, image_size=None, seed=seed, extractor=extractor,
        samplers=tuple(distances), profile="quick", settings={}, data_hash="d" * 16,
    )  # fmt: skip
    scores = {
        sampler: {
            "num_samples": num_samples,
            "extractor": extractor,
            "extractor_hash": "e" * 16,
            "distance_name": f"FD-{extractor}",
            "score_name": f"{extractor} score" if score else None,
            "rounded": True,
            "frechet": {"val": val, "test": test},
            "score": None if score is None else {"mean": score + seed / 10, "std": 0.2},
            "kernel": {"test": {"mean": test / 1e3, "std": 0.001}},
            "neighbours": {
                "test": {"precision": 0.5, "recall": 0.75, "density": 1.25, "coverage": 0.875}
            },
        }
        for sampler, (val, test) in distances.items()
    }
    record = {
        "schema": 2,
        "run_id": spec.run_id,
        "scores": scores,
        "reconstruction_mse": {"val": 0.01, "test": mse + seed / 1000},
        "training": {"seconds": 20.0 + seed, "images_per_second": 1500.0},
        "parameters": 105673,
        "data": {"source": "noise of the tests", "partial": partial,
                 "sizes": {"train": 1197, "val": 300, "test": 300}},
        "extractor_accuracy": 0.9967 if score else None,
        "provenance": {"versions": {"pythae-fif": "0.1.0", "torch": "2.0"}, "cores": 2,
                       "device": "cpu (x86_64)", "threads": 1, "seconds": 36.0,
                       "peak_memory_mb": 404, "peak_gpu_memory_mb": None},
    }  # fmt: skip
    return spec, record


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
FAILURES = [("wae_imq", "reg_weight=10", "DivergedError: the loss is <NaN> & no number in epoch 3")]
COMMAND = "python run_benchmark.py --dataset mnist --seeds 0 1"


def fill(store: Store, results=RESULTS, size: tuple[int, int] = (8, 8), channels: int = 1) -> None:
    """The pictures and logs of the runs: sheets whose grey tells row, and sampler."""
    for spec, record in results:
        run_dir = store.run_dir(spec)
        run_dir.mkdir(parents=True, exist_ok=True)
        for index, sampler in enumerate(record["scores"]):
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


def report(store: Store, results, command="c", missing=0, failures=()) -> list[Path]:
    """Writes the report of results; the files."""
    built = build_report(experiment(), results, command, missing, constant_error(splits()))
    return write_experiment(store, experiment(), splits(), results, built, failures)


def write(root: Path) -> dict[str, str]:
    """The tables of the store, by file name, with run ids that no schema changes."""
    store = Store(root)
    fill(store)
    paths = report(store, RESULTS, COMMAND, missing=1, failures=FAILURES)
    texts = {p.name: p.read_text("utf-8") for p in paths if p.parent.name == "tables"}
    for number, (spec, _) in enumerate(RESULTS):
        texts = {name: text.replace(spec.run_id, f"run{number}") for name, text in texts.items()}
    return texts


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.mkdir(exist_ok=True)
        for name, text in write(Path(folder)).items():
            (GOLDEN / name).write_text(text, "utf-8")
