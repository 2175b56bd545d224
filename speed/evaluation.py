"""Times the evaluation against pytorch-fid and torch-fidelity, on one machine in one run.

    pip install pytorch-fid torch-fidelity
    python speed/evaluation.py

The Inception weights are random, since time does not depend on them. Programs take turns in each
round, and the tables have medians over the rounds, so that other load of the machine affects all
of them alike.
"""

import argparse
import os
import statistics
import tempfile
import unittest.mock
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

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
BATCH_SIZE = 50


class ResultTable(NamedTuple):
    """A table of measurements.

    Attributes:
        title: The heading above it.
        rows: Heading -> value, for each row.
    """

    title: str
    rows: list[dict[str, Any]]

    def to_markdown(self) -> str:
        """Formats the table, with four digits of each number."""
        formatted = []
        for row in self.rows:
            cells = {
                heading: f"{value:.4g}" if isinstance(value, float) else value
                for heading, value in row.items()
            }
            formatted.append(cells)
        return f"## {self.title}\n\n{markdown(formatted)}"


def time_in_turns(programs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Returns the median seconds of each program.

    Args:
        programs: Name -> what is timed.
        rounds: How often each is timed; the programs take turns.
    """
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            times[name].append(seconds(program, "cpu"))
    return {name: statistics.median(values) for name, values in times.items()}


def random_state() -> dict[str, Tensor]:
    """Returns random weights under the names of pytorch-fid's file."""
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


def random_features(count: int) -> tuple[Features, Features]:
    """Returns two sets of features with a spectrum that decays over four decades."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(FEATURES, FEATURES, generator=generator) / FEATURES**0.5
    scales = torch.logspace(0, -4, FEATURES)

    def draw(shift: float) -> Features:
        noise = torch.randn(count, FEATURES, generator=generator) * scales
        return Features((noise @ mix).relu() + shift)

    return draw(0.0), draw(0.02)


def measure_frechet(count: int, rounds: int) -> ResultTable:
    """Times the Frechet distance of two sets of features.

    Args:
        count: Number of samples in each set.
        rounds: How often each program is timed.
    """
    sets = random_features(count)
    moments = []
    for features in sets:
        root = features.covariance_root
        moments.append((features.mean.numpy(), (root @ root.T).numpy()))
    statistics_of_sets = [{"mu": mean, "sigma": covariance} for mean, covariance in moments]
    distances: dict[str, float] = {}

    def run_pytorch_fid() -> None:
        sqrtm = scipy.linalg.sqrtm
        # pytorch-fid passes an argument that SciPy has removed.
        with unittest.mock.patch.object(
            pytorch_fid.fid_score.linalg, "sqrtm", lambda matrix, disp: (sqrtm(matrix), 0.0)
        ):
            distance = pytorch_fid.fid_score.calculate_frechet_distance(*moments[0], *moments[1])
        distances["pytorch-fid"] = float(distance)

    def run_torch_fidelity() -> None:
        metrics = fid_statistics_to_metric(*statistics_of_sets, verbose=False)
        distances["torch-fidelity"] = metrics["frechet_inception_distance"]

    def run_pythae_fif() -> None:
        # The roots of the covariances are known already.
        distances["pythae-fif"] = frechet_distance(*sets)

    programs = {
        "pythae-fif": run_pythae_fif,
        "pytorch-fid": run_pytorch_fid,
        "torch-fidelity": run_torch_fidelity,
    }
    times = time_in_turns(programs, rounds)
    expected = distances["pythae-fif"]
    rows = []
    for name, time in times.items():
        rows.append({
            "program": name,
            "seconds": time,
            "times ours": time / times["pythae-fif"],
            "distance": distances[name],
            "relative difference": abs(distances[name] - expected) / expected,
        })  # fmt: skip
    return ResultTable(f"Frechet distance, {FEATURES} features, {count:,} samples", rows)


def save_images(images: Tensor, folder: Path) -> list[Path]:
    """Writes images (N, 3, H, W) as PNG files."""
    files = []
    for index, image in enumerate(images):
        path = folder / f"{index:05}.png"
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
        files.append(path)
    return files


def measure_extraction(
    state: dict[str, Tensor], count: int, rounds: int, folder: Path
) -> ResultTable:
    """Times each program's loop over images of 64 x 64.

    Args:
        state: Inception's weights.
        count: Number of images.
        rounds: How often each program is timed.
        folder: Where images and weights are written.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 64, 64), generator=generator, dtype=torch.uint8)
    files = save_images(images, folder)
    weights_file = folder / "weights.pth"
    torch.save(state, weights_file)

    extractor: Extractor = inception(state)
    with unittest.mock.patch.object(
        pytorch_fid.inception, "load_state_dict_from_url", return_value=state
    ):
        pytorch_fid_network = pytorch_fid.inception.InceptionV3([3])
    torch_fidelity_network = FeatureExtractorInceptionV3(
        "bench", ["2048"], feature_extractor_weights_path=str(weights_file)
    )
    features: dict[str, Tensor] = {}

    def run_pythae_fif() -> None:
        parts = [extractor(batch)[0] for batch in images.split(BATCH_SIZE)]
        features["pythae-fif"] = torch.cat(parts)

    def run_pytorch_fid() -> None:
        with unittest.mock.patch.object(pytorch_fid.fid_score, "tqdm", lambda batches: batches):
            values = pytorch_fid.fid_score.get_activations(files, pytorch_fid_network, BATCH_SIZE)
        features["pytorch-fid"] = torch.from_numpy(values)

    def run_torch_fidelity() -> None:
        dataset = Subset(images, range(count))
        values = get_featuresdict_from_dataset(
            dataset, torch_fidelity_network, BATCH_SIZE, False, True, False
        )
        features["torch-fidelity"] = values["2048"]

    programs = {
        "pythae-fif": run_pythae_fif,
        "pytorch-fid": run_pytorch_fid,
        "torch-fidelity": run_torch_fidelity,
    }
    times = time_in_turns(programs, rounds)
    expected = features["torch-fidelity"]
    rows = []
    for name, time in times.items():
        difference = (features[name] - expected).abs().max() / expected.abs().max()
        rows.append({
            "program": name,
            "images a second": count / time,
            "times pytorch-fid": times["pytorch-fid"] / time,
            "times torch-fidelity": times["torch-fidelity"] / time,
            "largest difference, relative to the largest feature": difference.item(),
        })  # fmt: skip
    return ResultTable(f"Inception features of {count} images of 64 x 64", rows)


def measure_evaluation(state: dict[str, Tensor], count: int, folder: Path) -> ResultTable:
    """Times the first evaluation of a model, and a second one with the reference on disk.

    Args:
        state: Inception's weights.
        count: Number of samples and of references.
        folder: Where the features of the reference are kept.
    """
    torch.manual_seed(0)
    model = VAE(VAEConfig(input_dim=(3, 32, 32), latent_dim=16))
    generator = torch.Generator().manual_seed(0)
    held_out = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    os.environ["PYTHAE_FIF_CACHE"] = str(folder / "cache")
    pipeline = EvaluationPipeline(
        model, extractor=inception(state), num_samples=count, batch_size=BATCH_SIZE
    )

    rows = []
    for name in ("first", "second"):
        time = seconds(lambda: pipeline(None, held_out), "cpu")
        rows.append({"evaluation": name, "seconds": time})
    title = f"Evaluation of a VAE, {count} samples and {count} references, one run"
    return ResultTable(title, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=100, help="images that are extracted")
    parser.add_argument(
        "--samples", type=int, default=10_000, help="samples of the Frechet distance"
    )
    choices = ["extraction", "whole", "frechet"]
    parser.add_argument("--only", nargs="+", choices=choices, help="measure only these")
    flags = parser.parse_args()

    print(
        f"{processor()}, {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads of torch, "
        f"load average {os.getloadavg()[0]:.1f} at the start, torch {torch.__version__}, "
        f"SciPy {scipy.__version__}; medians of {flags.rounds} rounds"
    )
    torch.manual_seed(0)
    state = random_state()
    measurements: dict[str, Callable[[Path], ResultTable]] = {
        "extraction": lambda folder: measure_extraction(state, flags.images, flags.rounds, folder),
        "whole": lambda folder: measure_evaluation(state, flags.images, folder),
        "frechet": lambda _: measure_frechet(flags.samples, flags.rounds),
    }
    for name in flags.only or measurements:
        with tempfile.TemporaryDirectory() as folder:
            table = measurements[name](Path(folder))
        print(table.to_markdown(), flush=True)


if __name__ == "__main__":
    main()
