"""Whitening of FIF's codes after training, and inside it, on digits.

    OMP_NUM_THREADS=1 python benchmarks/whitening.py [--seeds 3] [--output F]

`after` whitens once by `FIF.whiten`: the same networks as `none`. The other two change the codes
after each epoch and train on: `every epoch` whitens, `scale` multiplies the codes by the number
that makes mean |z|^2 equal to mean tr f'(x) g'(z). At rest E z z^T is the symmetric part of
E f'(x) g'(z), for any linear map of the code, and that is the identity only where every direction
of the code is reconstructed. Hypothesis: whitening keeps training from this rest, and so harms it;
the scale, which agrees with it, does not.

Columns are means over seeds, with standard deviations: squared error and log-likelihood on the
manifold in nats a test image, the divergence in nats of one Gaussian fitted to the test codes from
the prior, and mean |z|^2 / d and mean tr f'g' / d on the test data.
"""

import argparse
import platform
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.data import ImageDataset, load_images
from pythae_fif.files import write_text
from pythae_fif.models.whitening import add_code_maps
from pythae_fif.volume_change import exact_surrogate

EPOCHS = (5, 20, 80)
DIM, BETA, BATCH, RATE = 8, 5.0, 50, 1e-3
VARIANTS = ("none", "after", "every epoch", "scale")
COLUMNS = ("squared error", "log-likelihood", "divergence", "code_square", "code_trace")


def trace(model: FIF, x: Tensor) -> float:
    """Mean of tr f'(x) g'(f(x))."""
    value = exact_surrogate(
        lambda x: model.encoder(x)["embedding"], lambda z: model.decoder(z)["reconstruction"], x
    )
    return -value.mean().item()


def match_scale(model: FIF, x: Tensor) -> None:
    """Multiplies the codes by sqrt(E tr f'g' / E |z|^2), and divides them before the decoder."""
    add_code_maps(model)
    square = model.embed(x).square().sum(1).mean().item()
    scale = (trace(model, x) / square) ** 0.5
    for code_map, factor in ((model.encoder.code_map, scale), (model.decoder.code_map, 1 / scale)):
        shift = code_map.shift * (scale if factor == scale else 1)
        code_map.set(code_map.matrix * factor, shift)


@torch.no_grad()
def measure(model: FIF, x: Tensor) -> list[float]:
    z = model.embed(x)
    covariance = torch.cov(z.T.double())
    divergence = 0.5 * (
        z.double().mean(0).square().sum() + covariance.trace() - DIM - covariance.logdet()
    )
    error = (model.reconstruct(x) - x).square().flatten(1).sum(1).mean()
    square = z.square().mean()
    found = [v.item() for v in (error, model.log_prob(x).mean(), divergence, square)]
    return [*found, trace(model, x) / DIM]


def train(variant: str, seed: int, images: Tensor, test: Tensor) -> dict[int, list[float]]:
    torch.manual_seed(seed)
    model = FIF(FIFConfig(input_dim=tuple(images.shape[1:]), latent_dim=DIM, beta=BETA))
    x, found = images.float() / 255, {}

    def on_epoch(epoch: int, *_: object) -> None:
        model.eval()
        if variant == "every epoch":
            model.whiten(x)
        if variant == "scale":
            match_scale(model, x)
        if epoch in EPOCHS:
            found[epoch] = measure(model, test)

    config = FIFTrainerConfig(
        num_epochs=max(EPOCHS),
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        seed=seed,
        no_cuda=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        data = ImageDataset(images)
        trainer = FIFTrainer(
            model, data, training_config=config, run_dir=folder, on_epoch=on_epoch, keep_last=True
        )
        trainer.train()
    model.eval()
    if variant == "none":
        found[-1] = measure(model.whiten(x), test)
    return found


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--output", help="Markdown file to write the table to")
    flags = p.parse_args()
    torch.set_num_threads(1)
    splits = load_images("digits")
    images, test = (torch.tensor(a) for a in (splits.train, splits.test))
    test = test.float() / 255
    found = defaultdict(list)
    for variant in ("none", "every epoch", "scale"):
        for seed in range(flags.seeds):
            for epoch, values in train(variant, seed, images, test).items():
                key = ("after", max(EPOCHS)) if epoch == -1 else (variant, epoch)
                found[key].append(values)
    order = sorted(found, key=lambda key: (VARIANTS.index(key[0]), key[1]))
    lines = [["whitening", "epochs", *COLUMNS], ["---", "--:", *["--:"] * len(COLUMNS)]]
    for variant, epoch in order:
        columns = zip(*found[variant, epoch], strict=True)
        cells = [f"{statistics.mean(c):.2f} ± {statistics.stdev(c):.2f}" for c in columns]
        lines.append([variant, str(epoch), *cells])
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    print(table)
    if flags.output:
        about = (
            f"Made by `python benchmarks/whitening.py --seeds {flags.seeds}`, which says what is "
            f"shown: {len(images)} digits of 8 x 8 pixels, Pythae's MLPs, d = {DIM}, beta = "
            f"{BETA:g}, batch {BATCH}, Adam at {RATE:g}, {flags.seeds} seeds; "
            f"{platform.machine()}, torch {torch.__version__}."
        )
        write_text(Path(flags.output), f"# Whitening\n\n{about}\n\n{table}")


if __name__ == "__main__":
    main()
