"""Which number of a trained model finds images that it has not seen? On MNIST's digits 0 to 4.

    OMP_NUM_THREADS=1 python benchmarks/outliers.py --data-root DIR [--seeds 0 1 2] [--results DIR]

FIF, a VAE and an AE of the same nets, batches and steps see training images of the digits 0 to 4.
Then test images of these are told from six other sets by one number each (area under the ROC curve;
0.5 is chance, below it the unseen images look the more usual). FIF's numbers are the exact
log-likelihood at the projection, the squared distance to the projection, and their sum: the
log-density of a Gaussian around the manifold, once with the variance that beta stands for, 1 / (2
beta), once with that of the distances of validation images. The VAE's decoder has the variance 1 /
(2 beta), too. The linear counterpart is a mixture of ten Gaussians on as many principal components.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from machine import publish
from pythae.models import AE, AEConfig, BaseAE, BetaVAE, BetaVAEConfig
from sklearn.datasets import load_digits, load_sample_images
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from pythae_fif import FIF, FIFConfig
from pythae_fif.data import ImageDataset, Splits, load_images, to_float
from pythae_fif.pictures import new_figure
from pythae_fif.reports.grid import Cell, Grid, spread
from pythae_fif.runs.provenance import processor
from pythae_fif.studies.output import Drawing
from pythae_fif.training import BatchLoader, keep_freed_memory

KNOWN = 5  # the digits below it are
SHAPE, LATENT_DIM, BETA, NOISE = (1, 28, 28), 16, 10.0, 0.01
BATCH, STEPS, LEARNING_RATE = 100, 600, 1e-3
COUNT, PCA_IMAGES = 500, 5000  # images a set, and for the linear model
DRAWS = 8  # codes an image, for the VAE's bound
REST = SHAPE[1] * SHAPE[2] - LATENT_DIM  # dimensions off the manifold

CAPTION = (
    f"Models of MNIST's digits 0 to 4 after {STEPS:,} steps of {BATCH} images (Pythae's MLPs, d = "
    f"{LATENT_DIM}, beta {BETA:g}, one core), and six other sets of {COUNT} images. Left: both "
    "numbers of FIF for every image, first seed. Right: how well a number tells a set from unseen "
    "images of the digits 0 to 4, a point a seed: area under the ROC curve, 0.5 is chance; left of "
    "it the unseen images look the more usual. One data set, small nets and a short training: "
    "others may order the numbers otherwise."
)

Scores = dict[str, Callable[[Tensor], Tensor]]
"""Name of a number -> the number of images (B, 1, 28, 28), (B,), higher for what is less usual."""
Measured = dict[str, dict[str, np.ndarray]]
"""Name of a number -> name of a set -> its values, (500,)."""


def seen(splits: Splits, part: str) -> Tensor:
    """The images of the digits 0 to 4, uint8."""
    return torch.from_numpy(splits[part][splits.labels[part] < KNOWN])


def image_sets(splits: Splits) -> dict[str, Tensor]:
    """The sets by name, float (500, 1, 28, 28) in [0, 1]; the first is what was seen."""
    first, other, *_ = to_float(seen(splits, "test")).split(COUNT)  # no image is in two sets
    unseen = splits.test[splits.labels["test"] >= KNOWN]
    generator = torch.Generator().manual_seed(0)
    scans = load_digits()
    small = torch.tensor(scans.images[scans.target < KNOWN][:COUNT] / 16, dtype=torch.float32)
    small = F.interpolate(small[:, None], size=20, mode="bilinear").clamp(0, 1)
    photographs = [torch.tensor(p).float().mean(2) / 255 for p in load_sample_images().images]
    corners = torch.rand(COUNT, 2, generator=generator)
    patches = []
    for number, corner in enumerate(corners):
        image = photographs[number % len(photographs)]
        top, left = (corner * (torch.tensor(image.shape) - 28)).int().tolist()
        patches.append(image[None, top : top + 28, left : left + 28])
    return {
        "digits 0 to 4": first,
        "digits 5 to 9": to_float(unseen[:COUNT]),
        "a quarter turn": other.rot90(1, (2, 3)),
        "noise": (other + 0.2 * torch.randn(other.shape, generator=generator)).clamp(0, 1),
        "half the contrast": other / 2,
        "other scans": F.pad(small, (4, 4, 4, 4)),
        "photographs": torch.stack(patches),
    }


def train(model: BaseAE, images: Tensor) -> BaseAE:
    """Trains any of the models, on images with the noise that FIF would add by itself."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    schedule = OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    loader, step = BatchLoader(ImageDataset(images), BATCH, shuffle=True), 0
    model.train()
    while step < STEPS:
        for batch in loader:
            optimizer.zero_grad()
            x = batch.data if isinstance(model, FIF) else noisy(batch.data)
            model({"data": x}).loss.backward()
            optimizer.step()
            if (step := step + 1) == STEPS:
                break
            schedule.step()
    return model.eval()


def noisy(x: Tensor) -> Tensor:
    return x + NOISE * torch.randn_like(x)


@torch.no_grad()
def distance(model: BaseAE, x: Tensor) -> Tensor:
    """|g(f(x)) - x|^2, (B,)."""
    return (model.reconstruct(x) - x).square().flatten(1).sum(1)


@torch.no_grad()
def bound(vae: BaseAE, x: Tensor) -> Tensor:
    """The negative ELBO but for a constant, (B,), in nats."""
    code = vae.encoder(x)
    mean, variance = code.embedding, code.log_covariance.exp()
    divergence = 0.5 * (mean.square() + variance - 1 - code.log_covariance).sum(1)
    errors = [
        (vae.decoder(mean + variance.sqrt() * torch.randn_like(mean)).reconstruction - x).square()
        for _ in range(DRAWS)
    ]
    return divergence + BETA * torch.stack(errors).mean(0).flatten(1).sum(1)


def numbers_of(splits: Splits, seed: int) -> Scores:
    """Trains a model of each kind, and gives its numbers."""
    images, validation = seen(splits, "train"), to_float(seen(splits, "val"), limit=4 * COUNT)
    options: Any = {"input_dim": SHAPE, "latent_dim": LATENT_DIM}
    torch.manual_seed(seed)
    fif: Any = train(FIF(FIFConfig(**options, beta=BETA, noise=NOISE)), images)
    vae = train(BetaVAE(BetaVAEConfig(**options, beta=0.5 / BETA)), images)
    ae = train(AE(AEConfig(**options)), images)
    rows = to_float(images, limit=PCA_IMAGES).flatten(1).numpy()
    pca = PCA(LATENT_DIM, random_state=seed).fit(rows)
    mixture = GaussianMixture(10, random_state=seed).fit(pca.transform(rows))

    def mixed(x: Tensor) -> Tensor:
        density = mixture.score_samples(pca.transform(x.flatten(1).numpy()))
        return torch.from_numpy(-density)

    def residual(x: Tensor) -> Tensor:
        flat = x.flatten(1).numpy()
        back = pca.inverse_transform(pca.transform(flat))
        return torch.from_numpy(np.square(back - flat).sum(1))

    def weight(of: Callable[[Tensor], Tensor]) -> float:
        """1 / (2 variance) of the distances in each of the dimensions off the manifold."""
        return REST / (2 * float(of(validation).mean()))

    def unlikely(x: Tensor) -> Tensor:
        return -fif.log_prob(x)

    to_fif = partial(distance, fif)
    around, linear = weight(to_fif), weight(residual)
    return {
        "FIF, log-likelihood": unlikely,
        "FIF, distance": to_fif,
        "FIF, sum, variance of beta": lambda x: unlikely(x) + BETA * to_fif(x),
        "FIF, sum, variance of distances": lambda x: unlikely(x) + around * to_fif(x),
        "VAE, bound": partial(bound, vae),
        "AE, distance": partial(distance, ae),
        "PCA with mixture, log-likelihood": mixed,
        "PCA with mixture, distance": residual,
        "PCA with mixture, sum": lambda x: mixed(x) + linear * residual(x),
    }


def measure(splits: Splits, sets: dict[str, Tensor], seed: int) -> Measured:
    """Trains, and takes every number of every image."""
    measured = {
        name: {label: of(x).double().detach().numpy() for label, x in sets.items()}
        for name, of in numbers_of(splits, seed).items()
    }
    print(f"seed {seed}: {area(measured['FIF, log-likelihood'])}", flush=True)
    return measured


def area(values: dict[str, np.ndarray]) -> dict[str, float]:
    """Area under the ROC curve of each set that was not seen, by the values of one number."""
    (_, usual), *others = values.items()
    truth = np.repeat([0, 1], COUNT)
    return {label: float(roc_auc_score(truth, np.append(usual, of))) for label, of in others}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--data-root")
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    p.add_argument("--results", type=Path, default=Path("results"))
    flags = p.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    start = time.process_time()
    splits = load_images("mnist", flags.data_root, offline=True)
    sets = image_sets(splits)
    runs = [measure(splits, sets, seed) for seed in flags.seeds]
    minutes = (time.process_time() - start) / 60
    seeds = " ".join(map(str, flags.seeds))
    command = f"python benchmarks/outliers.py --seeds {seeds}"
    areas = {name: [area(run[name]) for run in runs] for name in runs[0]}
    labels = list(sets)[1:]
    rows = []
    for name, found in areas.items():
        means = spread([fmean(of.values()) for of in found])
        rows.append([Cell(name), *(spread([of[la] for of in found]) for la in labels), means])
    notes = [
        f"Area under the ROC curve of {COUNT} unseen images a set against {COUNT} test images of "
        f"the digits 0 to 4; mean ± standard deviation over seeds {seeds}. Below 0.5 the unseen "
        "images have the more usual number.",
        f"Data: {splits.source}, of which the {len(seen(splits, 'train')):,} training images of "
        f"the digits 0 to 4. Pythae's MLPs, d = {LATENT_DIM}, beta {BETA:g}, noise {NOISE:g}, "
        f"{STEPS:,} steps of {BATCH} images, Adam at a rate of {LEARNING_RATE:g} on a one-cycle "
        "schedule. Other scans: scikit-learn's digits 0 to 4, 8 x 8 pixels, enlarged to 20 x 20; "
        "photographs: patches of scikit-learn's two, in grey.",
        f"The linear model sees {PCA_IMAGES:,} of the images. {minutes:.1f} minutes of one core in "
        f"all ({processor()}).",
        f"Made by `{command}`.",
    ]
    grid = Grid(
        "Outliers on MNIST, by the number that is looked at",
        ["number", *labels, "mean"],
        "l" + (len(labels) + 1) * "r",
        rows,
        notes,
    )
    title = "Outliers on MNIST: likelihood, distance, and both"
    drawing = Drawing("outliers-mnist", figure(runs[0], areas), title, CAPTION)
    publish(flags.results, command, grid, drawing)


def figure(run: Measured, areas: dict[str, list[dict[str, float]]]) -> Any:
    """Both numbers of every image with the first seed, and the areas of all seeds."""
    picture = new_figure(12, 4.6)
    left, right = picture.subplots(1, 2, width_ratios=(1, 1.2))
    labels = list(run["FIF, log-likelihood"])
    for place, label in enumerate(labels):
        style: Any = {"color": "0.5" if place == 0 else f"C{place - 1}"}
        left.scatter(
            run["FIF, distance"][label], -run["FIF, log-likelihood"][label], s=3, alpha=0.5,
            label=label, **style
        )  # fmt: skip
        for row, found in enumerate(areas.values() if place else ()):
            at = row + (place - len(labels) / 2) / 12
            right.plot([of[label] for of in found], [at] * len(found), "o", ms=3.5, **style)
    left.set_xscale("log")
    left.set_yscale("symlog", linthresh=100)
    left.set_xlabel("squared distance to the projection")
    left.set_ylabel("log-likelihood of the projection (nats)")
    right.axvline(0.5, color="k", lw=0.8, ls=":")
    right.set_yticks(range(len(areas)), list(areas))
    right.invert_yaxis()
    right.set_xlabel("area under the ROC curve")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    picture.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=7)
    return picture


if __name__ == "__main__":
    main()
