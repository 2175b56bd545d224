"""Whitening of FIF's codes after training, and inside it, on digits, MNIST and POWER.

    OMP_NUM_THREADS=1 python benchmarks/whitening.py [--dataset mnist] [--seeds 3] [--output F]

`after` whitens once by `FIF.whiten`: the same networks as `none`. The other two change the codes
after each epoch and train on: `every epoch` whitens, `scale` multiplies the codes by the number
that makes mean |z|^2 equal to mean tr f'(x) g'(z). At rest E z z^T is the symmetric part of
E f'(x) g'(z), for any linear map of the code, and that is the identity only where every direction
of the code is reconstructed. Hypothesis: whitening keeps training from this rest, and so harms it;
the scale, which agrees with it, does not.

Columns are means over seeds, with standard deviations: squared error and log-likelihood on the
manifold in nats a test image, the divergence in nats of one Gaussian fitted to the test codes from
the prior, and mean |z|^2 / d and mean tr f'g' / d on the test data. Likelihood, trace and the
scale are of the first 2,000 data points, on MNIST of the first 500.
"""

import argparse
import math
import platform
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.data import ImageDataset, load_images, to_float
from pythae_fif.evaluation import score_codes
from pythae_fif.files import write_text
from pythae_fif.models.whitening import add_code_maps
from pythae_fif.nn import build_networks
from pythae_fif.nn.tabular import TabularDecoder, TabularEncoder
from pythae_fif.reports.grid import spread
from pythae_fif.studies import StudyOptions
from pythae_fif.studies.tabular_protocol import load_table
from pythae_fif.volume_change import volume_surrogate

VARIANTS = ("none", "after", "every epoch", "scale")
COLUMNS = ("squared error", "log-likelihood", "divergence", "code_square", "code_trace")


@dataclass(frozen=True)
class Data:
    """What is trained on, and how.

    Attributes:
        about: A sentence.
        train, test: Images as uint8 or rows, (N, ...).
        networks: Encoder and decoder, or neither for Pythae's MLPs.
        dim, beta, batch, rate, epochs: Of the training; it is measured after each of the epochs.
        limit: Data points of what is costly.
    """

    about: str
    train: Tensor
    test: Tensor
    networks: Callable[[], tuple[Any, ...]]
    dim: int
    beta: float
    batch: int
    rate: float
    epochs: tuple[int, ...]
    limit: int = 2000

    @property
    def input_dim(self) -> tuple[int, ...]:
        return tuple(self.train.shape[1:])


def digits(data_root: str | None) -> Data:
    train, test = (torch.tensor(load_images("digits")[part]) for part in ("train", "test"))
    about = f"{len(train)} digits of 8 x 8 pixels, Pythae's MLPs"
    return Data(about, train, test, lambda: (), 8, 5.0, 50, 1e-3, (5, 20, 80))


def mnist(data_root: str | None) -> Data:
    """As profile `quick` of the benchmark."""
    splits = load_images("mnist", data_root, offline=True).subset(train=8000, test=2000)
    train, test = (torch.tensor(part) for part in (splits.train, splits.test))
    about = "8,000 images of MNIST, Pythae's ResNet"
    nets = lambda: build_networks("resnet", (1, 28, 28), 16)  # noqa: E731
    return Data(about, train, test, nets, 16, 10.0, 50, 3e-4, (1, 3), 500)


def power(data_root: str | None) -> Data:
    """As FIF of the tabular study's profile `quick`, at a constant rate."""
    options = StudyOptions(results=Path(), data_root=data_root, dataset="power")
    table = load_table("power", options)
    shape: Any = (table.splits.input_dim, table.latent_dim, table.profile.nets.hidden_dim)
    about = f"{len(table.train):,} rows of POWER's part, nets of appendix E.2 of width {shape[-1]}"
    nets = lambda: (TabularEncoder(*shape), TabularDecoder(*shape))  # noqa: E731
    return Data(about, table.train, table.test, nets, shape[1], 10.0, 128, 1e-3, (1, 5))


SETS = {"digits": digits, "mnist": mnist, "power": power}


def trace(model: FIF, x: Tensor) -> float:
    """Mean of tr f'(x) g'(f(x))."""
    dim = model.latent_dim
    eps = dim**0.5 * torch.eye(dim)[:, None].expand(dim, len(x), dim)  # all directions: no noise
    found = volume_surrogate(
        lambda x: model.encoder(x)["embedding"],
        lambda z: model.decoder(z)["reconstruction"],
        x,
        eps,
    )
    return -found.surrogate.mean().item()


def match_scale(model: FIF, x: Tensor) -> None:
    """Multiplies the codes by sqrt(E tr f'g' / E |z|^2), and divides them before the decoder."""
    add_code_maps(model)
    square = model.embed(x).square().sum(1).mean().item()
    scale = (trace(model, x) / square) ** 0.5
    for code_map, factor in ((model.encoder.code_map, scale), (model.decoder.code_map, 1 / scale)):
        shift = code_map.shift * (scale if factor == scale else 1)
        code_map.set(code_map.matrix * factor, shift)


@torch.no_grad()
def measure(model: FIF, x: Tensor, limit: int) -> list[float]:
    z, dim, few = model.embed(x), model.latent_dim, x[:limit]
    codes = score_codes(z)
    divergence = codes.divergence if codes else math.inf
    error = (model.reconstruct(x) - x).square().flatten(1).sum(1).mean()
    square = z.square().mean()
    likelihood = model.log_prob(few).mean()
    return [float(error), float(likelihood), divergence, float(square), trace(model, few) / dim]


def train(variant: str, seed: int, data: Data) -> dict[int, list[float]]:
    torch.manual_seed(seed)
    config = FIFConfig(input_dim=data.input_dim, latent_dim=data.dim, beta=data.beta)
    model = FIF(config, *data.networks())
    x, test = to_float(data.train), to_float(data.test)
    found: dict[int, list[float]] = {}

    def on_epoch(epoch: int, *_: object) -> None:
        model.eval()
        if variant == "every epoch":
            model.whiten(x)
        if variant == "scale":
            match_scale(model, x[: data.limit])
        if epoch in data.epochs:
            found[epoch] = measure(model, test, data.limit)

    config = FIFTrainerConfig(
        num_epochs=max(data.epochs),
        per_device_train_batch_size=data.batch,
        learning_rate=data.rate,
        seed=seed,
        no_cuda=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        FIFTrainer(
            model,
            ImageDataset(data.train),
            training_config=config,
            run_dir=folder,
            on_epoch=on_epoch,
            keep_last=True,
        ).train()
    model.eval()
    if variant == "none":
        found[-1] = measure(model.whiten(x), test, data.limit)
    return found


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--dataset", choices=SETS, default="digits")
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--data-root")
    p.add_argument("--output", type=Path, help="Markdown file that the table is added to")
    flags = p.parse_args()
    torch.set_num_threads(1)
    data = SETS[flags.dataset](flags.data_root)
    found = defaultdict(list)
    for variant in ("none", "every epoch", "scale"):
        for seed in range(flags.seeds):
            for epoch, values in train(variant, seed, data).items():
                key = ("after", max(data.epochs)) if epoch == -1 else (variant, epoch)
                found[key].append(values)
    order = sorted(found, key=lambda key: (VARIANTS.index(key[0]), key[1]))
    lines = [["whitening", "epochs", *COLUMNS], ["---", "--:", *["--:"] * len(COLUMNS)]]
    for variant, epoch in order:
        columns = zip(*found[variant, epoch], strict=True)
        cells = [spread(column).text for column in columns]
        lines.append([variant, str(epoch), *cells])
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    print(table)
    if flags.output:
        about = (
            f"Made by `python benchmarks/whitening.py --dataset {flags.dataset} --seeds "
            f"{flags.seeds}`, which says what is shown: {data.about}, d = {data.dim}, beta = "
            f"{data.beta:g}, batch {data.batch}, Adam at {data.rate:g}, {flags.seeds} seeds; "
            f"{platform.machine()}, torch {torch.__version__}."
        )
        before = flags.output.read_text() if flags.output.exists() else "# Whitening\n"
        write_text(flags.output, f"{before}\n## {flags.dataset}\n\n{about}\n\n{table}")


if __name__ == "__main__":
    main()
