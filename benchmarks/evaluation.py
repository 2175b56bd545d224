"""How fast the evaluation is, against pytorch-fid and torch-fidelity, on one machine in one run.

    pip install pytorch-fid torch-fidelity
    python benchmarks/evaluation.py --out results/evaluation

Random Inception weights stand in for the published ones: time does not depend on them. Programs
alternate within each round, and the table has medians over the rounds, so that what else the
machine does weighs on all alike. `scoring` is this checkout against another one, each time in a
process of its own:

    python benchmarks/evaluation.py --only scoring --against OLD --rounds 2 --markdown FILE
"""

import argparse
import json
import os
import platform
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import unittest.mock
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_fid.fid_score
import pytorch_fid.inception
import scipy.linalg
import torch
from machine import peak_kilobytes, processor
from PIL import Image
from pythae.models import VAE, VAEConfig
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torch_fidelity.utils import get_featuresdict_from_dataset

from pythae_fif.evaluation import (
    EvaluationPipeline,
    FeatureStatistics,
    InceptionExtractor,
    PixelExtractor,
    Reference,
    frechet_distance,
    score_samples,
)

FEATURES = 2048


def alternate(programs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each program."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            start = time.perf_counter()
            program()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def random_state() -> dict[str, Tensor]:
    """Weights under the names of pytorch-fid's file."""
    nothing = unittest.mock.Mock(return_value=None)
    with (
        unittest.mock.patch.object(pytorch_fid.inception, "load_state_dict_from_url", nothing),
        unittest.mock.patch.object(torch.nn.Module, "load_state_dict", nothing),
    ):
        network = pytorch_fid.inception.fid_inception_v3()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.state_dict()


def frechet(samples: int, rounds: int) -> dict[str, Any]:
    """Frechet distance of features with a spectrum that decays over four decades."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(FEATURES, FEATURES, generator=generator) / FEATURES**0.5
    scales = torch.logspace(0, -4, FEATURES)
    sets = []
    for shift in (0.0, 0.02):
        held = FeatureStatistics()
        for _ in range(0, samples, 1000):
            noise = torch.randn(1000, FEATURES, generator=generator) * scales
            held.update((noise @ mix).relu() + shift)
        sets.append(held)
    moments = [(held.mean.numpy(), held.covariance.numpy()) for held in sets]
    theirs = [{"mu": mean, "sigma": covariance} for mean, covariance in moments]
    found: dict[str, float] = {}

    def with_scipy() -> None:
        (mean_a, cov_a), (mean_b, cov_b) = moments
        root = scipy.linalg.sqrtm(cov_a @ cov_b)
        found["scipy.linalg.sqrtm"] = float(
            ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b) - 2 * np.trace(root).real
        )

    def with_pytorch_fid() -> None:
        sqrtm = scipy.linalg.sqrtm
        # it asks for an argument that SciPy has removed
        with unittest.mock.patch.object(
            pytorch_fid.fid_score.linalg, "sqrtm", lambda matrix, disp: (sqrtm(matrix), 0.0)
        ):
            found["pytorch-fid"] = float(
                pytorch_fid.fid_score.calculate_frechet_distance(*moments[0], *moments[1])
            )

    def with_torch_fidelity() -> None:
        found["torch-fidelity"] = fid_statistics_to_metric(*theirs, verbose=False)[
            "frechet_inception_distance"
        ]

    def ours() -> None:
        found["pythae-fif"] = frechet_distance(*sets)

    seconds = alternate(
        {
            "pythae-fif": ours,
            "scipy.linalg.sqrtm": with_scipy,
            "pytorch-fid": with_pytorch_fid,
            "torch-fidelity": with_torch_fidelity,
        },
        rounds,
    )
    own = found["pythae-fif"]
    rows = [
        {
            "program": name,
            "seconds": seconds[name],
            "times ours": seconds[name] / seconds["pythae-fif"],
            "distance": found[name],
            "relative difference": abs(found[name] - own) / own,
        }
        for name in seconds
    ]
    return {"title": f"Frechet distance, {FEATURES} features, {samples:,} samples", "rows": rows}


class InMemory(torch.utils.data.Dataset):
    """Images as torch-fidelity takes them."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def extraction(state: dict[str, Tensor], count: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Images a second of each program's own loop, images of 64 x 64."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 64, 64), generator=generator, dtype=torch.uint8)
    files = []
    for index, image in enumerate(images):
        files.append(folder / f"{index:05}.png")
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(files[-1])
    torch.save(state, folder / "weights.pth")
    with unittest.mock.patch.object(
        pytorch_fid.inception, "load_state_dict_from_url", return_value=state
    ):
        pytorch_fid_network = pytorch_fid.inception.InceptionV3([3])
    torch_fidelity_network = FeatureExtractorInceptionV3(
        "bench", ["2048"], feature_extractor_weights_path=str(folder / "weights.pth")
    )
    full = InceptionExtractor(state)
    halved = InceptionExtractor(state, precision="bfloat16")
    held: dict[str, Tensor] = {}

    def run(name: str, extractor: InceptionExtractor) -> Callable[[], None]:
        def program() -> None:
            held[name] = torch.cat([extractor(batch)[0] for batch in images.split(50)])

        return program

    def with_torch_fidelity() -> None:
        held["torch-fidelity"] = get_featuresdict_from_dataset(
            InMemory(images), torch_fidelity_network, 50, False, True, False
        )["2048"]

    def with_pytorch_fid() -> None:
        with unittest.mock.patch.object(pytorch_fid.fid_score, "tqdm", lambda batches: batches):
            pytorch_fid.fid_score.get_activations(files, pytorch_fid_network, min(50, count))

    seconds = alternate(
        {
            "pythae-fif": run("pythae-fif", full),
            "pythae-fif, bfloat16": run("pythae-fif, bfloat16", halved),
            "pytorch-fid": with_pytorch_fid,
            "torch-fidelity": with_torch_fidelity,
        },
        rounds,
    )
    expected = held["torch-fidelity"]
    rows = []
    for name, spent in seconds.items():
        row = {
            "program": name,
            "images a second": count / spent,
            "times pytorch-fid": seconds["pytorch-fid"] / spent,
            "times torch-fidelity": seconds["torch-fidelity"] / spent,
        }
        if name in held:
            off = (held[name] - expected).abs().max() / expected.abs().max()
            row["largest difference, relative to the largest feature"] = float(off)
        rows.append(row)
    return {"title": f"Inception features of {count} images of 64 x 64", "rows": rows}


def whole(state: dict[str, Tensor], count: int, folder: Path) -> dict[str, Any]:
    """The first evaluation of a model, and a second one against the reference on disk."""
    torch.manual_seed(0)
    model = VAE(VAEConfig(input_dim=(3, 32, 32), latent_dim=16))
    generator = torch.Generator().manual_seed(0)
    held_out = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    pipeline = EvaluationPipeline(
        model,
        extractor=InceptionExtractor(state),
        num_samples=count,
        batch_size=50,
        cache_dir=folder / "cache",
    )
    rows = []
    for name in ("first", "second"):
        start = time.perf_counter()
        output = pipeline(None, held_out)
        spent = time.perf_counter() - start
        rows.append({"evaluation": name, "seconds": spent, **output.seconds})
    return {
        "title": f"Evaluation of a VAE, {count} samples and {count} references, one run",
        "rows": rows,
    }


def overlap(state: dict[str, Tensor], count: int, rounds: int) -> dict[str, Any]:
    """Samples drawn by a thread while the batch before is scored, against one after the other."""
    torch.manual_seed(0)
    model = VAE(VAEConfig(input_dim=(3, 32, 32), latent_dim=16)).eval()
    extractor = InceptionExtractor(state)

    @torch.no_grad()
    def samples() -> Iterator[Tensor]:
        for _ in range(0, count, 16):
            yield model.decoder(torch.randn(16, 16)).reconstruction.clamp(0, 1)

    def ahead() -> Iterator[Tensor]:
        held: queue.Queue[Tensor | None] = queue.Queue(maxsize=2)

        def draw() -> None:
            for batch in samples():
                held.put(batch)
            held.put(None)

        threading.Thread(target=draw, daemon=True).start()
        while (batch := held.get()) is not None:
            yield batch

    def run(source: Callable[[], Iterator[Tensor]]) -> Callable[[], None]:
        def program() -> None:
            for batch in source():
                extractor(batch)

        return program

    seconds = alternate({"one after the other": run(samples), "ahead": run(ahead)}, rounds)
    rows = [
        {
            "samples are drawn": name,
            "images a second": count / spent,
            "times one after the other": seconds["one after the other"] / spent,
        }
        for name, spent in seconds.items()
    ]
    return {"title": "Sampling ahead by a thread", "rows": rows}


def features_as_images(count: int, width: int, seed: int) -> np.ndarray:
    """Correlated features in [0, 1], as images whose pixels are the features of `pixels`."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(0))
    mix *= torch.logspace(0, -2, width)[:, None] / width**0.5
    features = (torch.randn(count, width, generator=generator) @ mix).relu() + 0.001 * seed
    return (10 * features).clamp(0, 1).reshape(count, width // 256, 16, 16).numpy()


def score_once(folder: Path) -> dict[str, Any]:
    """Seconds, memory and scores of one scoring in this process."""
    samples, images = (torch.from_numpy(np.load(folder / f"{i}.npy")) for i in range(2))
    shape = (samples.shape[1], 16, 16)
    extractor = PixelExtractor(shape)
    start, cpu = time.perf_counter(), time.process_time()
    reference = Reference.of(images, extractor, cache_dir=folder / "cache", round_to_uint8=False)
    scores = score_samples(samples, extractor, {"test": reference}, round_to_uint8=False)
    return {
        "seconds": time.perf_counter() - start,
        "core seconds": time.process_time() - cpu,
        "peak MiB": peak_kilobytes() / 1024,
        "scores": scores.to_dict(),
    }


def scoring(against: Path, samples: int, width: int, rounds: int) -> dict[str, Any]:
    """All scores with nothing kept on disk (cold), and with what a first scoring kept (warm)."""
    checkouts = {"old": against.resolve(), "new": Path(__file__).resolve().parents[1]}
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as root:
            for name in checkouts:
                (Path(root) / name).mkdir()
                for i in range(2):
                    images = features_as_images(samples, width, seed=i)
                    np.save(Path(root) / name / f"{i}.npy", images)
            for cache in ("cold", "warm"):
                for name, checkout in checkouts.items():
                    printed = subprocess.check_output(
                        [sys.executable, __file__, "--score-once", Path(root) / name],
                        env={**os.environ, "PYTHONPATH": str(checkout)},
                    )
                    found.setdefault(f"{name}, {cache}", []).append(json.loads(printed))
    rows = []
    for name, runs in found.items():
        scores = runs[0]["scores"]
        row: dict[str, Any] = {"scoring": name}
        for key in ("seconds", "core seconds", "peak MiB"):
            row[key] = statistics.median(run[key] for run in runs)
        row["FD"] = repr(scores["frechet"]["test"])
        row["KID"] = repr(scores["kernel"]["test"]["mean"])
        row |= scores["neighbours"]["test"]
        rows.append(row)
    for old, new in zip(rows[::2], rows[1::2], strict=True):
        new["times as fast"] = old["core seconds"] / new["core seconds"]
    title = f"Scoring {samples:,} samples of {width:,} features against {samples:,} references"
    return {"title": title, "rows": rows}


def markdown(table: dict[str, Any]) -> str:
    columns = list(dict.fromkeys(key for row in table["rows"] for key in row))
    lines = [f"## {table['title']}\n", f"| {' | '.join(columns)} |"]
    lines.append(f"|---|{'---:|' * (len(columns) - 1)}")
    for row in table["rows"]:
        cells = [row.get(column, "") for column in columns]
        texts = [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells]
        lines.append(f"| {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=100, help="images of the extraction loops")
    parser.add_argument("--samples", type=int, default=10_000, help="of frechet and scoring")
    parser.add_argument("--width", type=int, default=2048, help="features of scoring")
    parser.add_argument("--against", type=Path, help="another checkout, for scoring")
    parser.add_argument("--score-once", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--markdown", type=Path, help="file for the tables")
    parser.add_argument("--threads", type=int, help="of torch, as set by OMP_NUM_THREADS otherwise")
    parser.add_argument("--out", type=Path, help="folder for speed_*.json")
    choices = ["extraction", "overlap", "whole", "frechet", "scoring"]
    parser.add_argument("--only", nargs="+", choices=choices, default=None)
    arguments = parser.parse_args()
    if "scoring" in (arguments.only or ()) and not arguments.against:
        parser.error("--only scoring needs --against")
    if arguments.score_once:
        print(json.dumps(score_once(arguments.score_once)))
        return
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    machine = (
        f"{processor()}, {os.cpu_count()} CPU cores, "
        f"{torch.get_num_threads()} threads of torch, load average "
        f"{os.getloadavg()[0]:.1f} at the start, torch {torch.__version__}, "
        f"SciPy {scipy.__version__}, {platform.system()} {platform.machine()}; "
        f"medians of {arguments.rounds} rounds"
    )
    print(machine)
    torch.manual_seed(0)
    state = random_state()
    measures: dict[str, Callable[[Path], dict[str, Any]]] = {
        "extraction": lambda folder: extraction(state, arguments.images, arguments.rounds, folder),
        "overlap": lambda _: overlap(state, arguments.images, arguments.rounds),
        "whole": lambda folder: whole(state, arguments.images, folder),
        "frechet": lambda _: frechet(arguments.samples, arguments.rounds),
    }
    if arguments.against:
        measures["scoring"] = lambda _: scoring(
            arguments.against, arguments.samples, arguments.width, arguments.rounds
        )
    tables = []
    for name in arguments.only or measures:
        with tempfile.TemporaryDirectory() as folder:
            table = measures[name](Path(folder))
        tables.append(markdown(table))
        print(tables[-1], flush=True)
        if arguments.out:
            arguments.out.mkdir(parents=True, exist_ok=True)
            record = {"machine": machine, **table}
            path = arguments.out / f"speed_{name}.json"
            path.write_text(json.dumps(record, indent=1) + "\n")
    if arguments.markdown:
        command = " ".join(["python", *sys.argv]).replace(f" --markdown {arguments.markdown}", "")
        if arguments.against:
            words = ["git", "-C", arguments.against, "rev-parse", "--short", "HEAD"]
            old = subprocess.check_output(words, text=True).strip()
            command = command.replace(str(arguments.against), f"CHECKOUT_OF_{old}")
        head = f"# Evaluation\n\nMade by `{command}`; {machine}.\n\n"
        arguments.markdown.write_text(head + "\n".join(tables))


if __name__ == "__main__":
    main()
