"""How fast the evaluation is, against pytorch-fid and torch-fidelity, on one machine in one run.

    pip install pytorch-fid torch-fidelity
    python benchmarks/evaluation.py

Random Inception weights stand in for the published ones: time does not depend on them. Programs
alternate within each round, and the table has medians over the rounds, so that what else the
machine does weighs on all alike.
"""

import argparse
import os
import statistics
import tempfile
import unittest.mock
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_fid.fid_score
import pytorch_fid.inception
import scipy.linalg
import torch
from machine import markdown, seconds
from PIL import Image
from pythae.models import VAE, VAEConfig
from torch import Tensor
from torch.utils.data import Subset
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torch_fidelity.utils import get_featuresdict_from_dataset

from pythae_fif.evaluation import EvaluationPipeline, Extractor, Features, frechet_distance
from pythae_fif.evaluation.networks import inception
from pythae_fif.runs.provenance import processor

FEATURES = 2048


def alternate(programs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each program."""
    taken: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            taken[name].append(seconds(program, "cpu"))
    return {name: statistics.median(values) for name, values in taken.items()}


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
        noise = torch.randn(samples, FEATURES, generator=generator) * scales
        sets.append(Features((noise @ mix).relu() + shift))
    moments = [(held.mean.numpy(), (held.root @ held.root.T).numpy()) for held in sets]
    named = [{"mu": mean, "sigma": covariance} for mean, covariance in moments]
    found: dict[str, float] = {}

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
        found["torch-fidelity"] = fid_statistics_to_metric(*named, verbose=False)[
            "frechet_inception_distance"
        ]

    def ours() -> None:
        found["pythae-fif"] = frechet_distance(*sets)  # with roots of covariances that are known

    theirs = {"pytorch-fid": with_pytorch_fid, "torch-fidelity": with_torch_fidelity}
    taken = alternate({"pythae-fif": ours, **theirs}, rounds)
    own = found["pythae-fif"]
    rows = [
        {
            "program": name,
            "seconds": taken[name],
            "times ours": taken[name] / taken["pythae-fif"],
            "distance": found[name],
            "relative difference": abs(found[name] - own) / own,
        }
        for name in taken
    ]
    return {"title": f"Frechet distance, {FEATURES} features, {samples:,} samples", "rows": rows}


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
    full = inception(state)
    held: dict[str, Tensor] = {}

    def run(name: str, extractor: Extractor) -> Callable[[], None]:
        def program() -> None:
            held[name] = torch.cat([extractor(batch)[0] for batch in images.split(50)])

        return program

    def with_torch_fidelity() -> None:
        held["torch-fidelity"] = get_featuresdict_from_dataset(
            Subset(images, range(count)), torch_fidelity_network, 50, False, True, False
        )["2048"]

    def with_pytorch_fid() -> None:
        with unittest.mock.patch.object(pytorch_fid.fid_score, "tqdm", lambda batches: batches):
            found = pytorch_fid.fid_score.get_activations(files, pytorch_fid_network, 50)
        held["pytorch-fid"] = torch.from_numpy(found)

    theirs = {"pytorch-fid": with_pytorch_fid, "torch-fidelity": with_torch_fidelity}
    taken = alternate({"pythae-fif": run("pythae-fif", full), **theirs}, rounds)
    expected, rows = held["torch-fidelity"], []
    for name, spent in taken.items():
        off = (held[name] - expected).abs().max() / expected.abs().max()
        rows.append({
            "program": name,
            "images a second": count / spent,
            "times pytorch-fid": taken["pytorch-fid"] / spent,
            "times torch-fidelity": taken["torch-fidelity"] / spent,
            "largest difference, relative to the largest feature": off.item(),
        })  # fmt: skip
    return {"title": f"Inception features of {count} images of 64 x 64", "rows": rows}


def whole(state: dict[str, Tensor], count: int, folder: Path) -> dict[str, Any]:
    """The first evaluation of a model, and a second one against the reference on disk."""
    torch.manual_seed(0)
    model = VAE(VAEConfig(input_dim=(3, 32, 32), latent_dim=16))
    generator = torch.Generator().manual_seed(0)
    held_out = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    os.environ["PYTHAE_FIF_CACHE"] = str(folder / "cache")
    pipeline = EvaluationPipeline(
        model, extractor=inception(state), num_samples=count, batch_size=50
    )
    rows = []
    for name in ("first", "second"):
        taken = seconds(lambda: pipeline(None, held_out), "cpu")
        rows.append({"evaluation": name, "seconds": taken})
    title = f"Evaluation of a VAE, {count} samples and {count} references, one run"
    return {"title": title, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=100, help="images of the extraction loops")
    parser.add_argument("--samples", type=int, default=10_000, help="of frechet")
    choices = ["extraction", "whole", "frechet"]
    parser.add_argument("--only", nargs="+", choices=choices, default=None)
    arguments = parser.parse_args()
    print(
        f"{processor()}, {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads of torch, "
        f"load average {os.getloadavg()[0]:.1f} at the start, torch {torch.__version__}, "
        f"SciPy {scipy.__version__}; medians of {arguments.rounds} rounds"
    )
    torch.manual_seed(0)
    state = random_state()
    measures: dict[str, Callable[[Path], dict[str, Any]]] = {
        "extraction": lambda folder: extraction(state, arguments.images, arguments.rounds, folder),
        "whole": lambda folder: whole(state, arguments.images, folder),
        "frechet": lambda _: frechet(arguments.samples, arguments.rounds),
    }
    for name in arguments.only or measures:
        with tempfile.TemporaryDirectory() as folder:
            table = measures[name](Path(folder))
        rows = [
            {key: f"{of:.4g}" if isinstance(of, float) else of for key, of in row.items()}
            for row in table["rows"]
        ]
        print(f"## {table['title']}\n\n{markdown(rows)}", flush=True)


if __name__ == "__main__":
    main()
