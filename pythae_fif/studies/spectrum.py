"""Figures 8 and 9: what a conditional model's decoder spans, against the reconstruction weight."""

__all__ = ["build", "measure", "run", "summarise", "train"]

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.data import ImageDataset, Splits, load_images, to_float
from pythae_fif.errors import ConfigError
from pythae_fif.nn import FIF_CONVNET_SHAPES, FIFConvDecoder, FIFConvEncoder, build_networks
from pythae_fif.studies import OnProgress, StudyOptions
from pythae_fif.studies.output import Drawing, data_name, write_study
from pythae_fif.volume_change import decoder_singular_values

BETAS = (0.1, 1.0, 10.0, 100.0)
LATENT_DIM = 16  # of the conditional MNIST model of figure 6
SHOWN = 10  # samples of a class
TEST_IMAGES = 500


@dataclass(frozen=True)
class Size:
    """How much of the protocol is run.

    Attributes:
        epochs: Passes over the training images.
        models: Trained for every beta.
        samples: Of every class, for the singular values.
        images: First training images that are used; all if None.
        channel_multiplier: Factor on the channels of table 11.
        batch_size, learning_rate: Adam's; ours, since the paper does not tell.
    """

    epochs: int
    models: int
    samples: int
    images: int | None = None
    channel_multiplier: float = 4
    batch_size: int = 128
    learning_rate: float = 1e-3


SIZES = {
    "quick": Size(
        epochs=10, models=2, samples=64, images=6000, channel_multiplier=0.25, batch_size=64
    ),
    "paper": Size(epochs=400, models=5, samples=1024),
}


def build(
    shape: tuple[int, ...], classes: int, beta: float, latent_dim: int, channel_multiplier: float
) -> FIF:
    """A conditional FIF: the nets of table 11, or small ones for images of other shapes."""
    config = FIFConfig(input_dim=shape, latent_dim=latent_dim, beta=beta, condition_dim=classes)
    if shape in FIF_CONVNET_SHAPES:
        options: dict[str, Any] = {
            "condition_dim": classes, "channel_multiplier": channel_multiplier,
        }  # fmt: skip
        networks: Any = (
            FIFConvEncoder(shape, latent_dim, **options),
            FIFConvDecoder(shape, latent_dim, **options),
        )
    else:
        networks = build_networks("convnet", shape, latent_dim, condition_dim=classes)
    return FIF(config, *networks)


def train(
    splits: Splits,
    beta: float,
    seed: int,
    size: Size,
    folder: Path,
    latent_dim: int = LATENT_DIM,
    on_epoch: Callable[[int], None] = lambda _: None,
) -> FIF:
    """Trains a model, or loads the one that was trained before, or goes on where it was cut off.

    Args:
        splits: Labelled images.
        beta, seed, size, latent_dim: What to train.
        folder: Where the models of a study are kept.
        on_epoch: Is told the number of every epoch, from 1.
    """
    assert splits.labels is not None
    classes = int(splits.labels["train"].max()) + 1
    trained = {key: value for key, value in vars(size).items() if key not in ("models", "samples")}
    specification = [splits.content_hash, beta, seed, trained, latent_dim]
    key = hashlib.sha256(json.dumps(specification).encode()).hexdigest()[:12]
    run_dir = folder / f"beta{beta:g}-seed{seed}-{key}"
    if not (run_dir / "model").exists():
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = build(splits.input_dim, classes, beta, latent_dim, size.channel_multiplier)
            FIFTrainer(
                model,
                ImageDataset(splits.train, splits.labels["train"]),
                ImageDataset(splits.val, splits.labels["val"]),
                FIFTrainerConfig(
                    num_epochs=size.epochs,
                    per_device_train_batch_size=size.batch_size,
                    per_device_eval_batch_size=500,
                    learning_rate=size.learning_rate,
                ),
                run_dir=run_dir,
                on_epoch=lambda epoch, *_: on_epoch(epoch),
            ).train()
    return FIF.load_from_folder(str(run_dir / "model")).eval()


def measure(model: FIF, samples: int, seed: int) -> tuple[Tensor, dict[str, float], Tensor]:
    """What the decoder spans at codes from the latent distribution.

    Args:
        model: Conditional on classes.
        samples: Of every class.
        seed: Of the codes.

    Returns:
        The mean singular values over all classes, (d,); means in nats of the log-volume, of the
        entropy by eq. 124 and by the exact log-likelihood of the samples, and `diversity`, the
        variance of the samples within a class, summed over pixels; and the first `SHOWN` samples
        of every class, (classes, SHOWN, C, H, W).
    """
    d, generator = model.latent_dim, torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    values, entropies, variances, shown = [], [], [], []
    for label in range(model.model_config.condition_dim):
        given = model.given(label)
        z = torch.randn(samples, d, generator=generator).to(device)

        def decode(z: Tensor, given: FIF = given) -> Tensor:
            return given.decoder(z).reconstruction

        with torch.no_grad():
            images = decode(z)
        values.append(decoder_singular_values(decode, z))
        entropies.append(-given.log_prob(images))
        variances.append(images.flatten(1).var(0).sum())
        shown.append(images[:SHOWN].cpu())
    spectra = torch.cat(values)
    log_volume = float(spectra.log().sum(1).mean())
    latent_entropy = d / 2 * math.log(2 * math.pi * math.e)
    return (
        spectra.mean(0).cpu(),
        {
            "log_volume": log_volume,
            "entropy": latent_entropy + log_volume,
            "entropy_by_log_prob": float(torch.cat(entropies).mean()),
            "diversity": float(torch.stack(variances).mean()),
        },
        torch.stack(shown),
    )


def summarise(spectra: np.ndarray) -> dict[str, Any]:
    """Mean and standard deviation over models, and the number of singular values of at least one.

    Args:
        spectra: Of every model, in descending order, (M, d).

    Returns:
        `mean` and `std`, (d,); `above`: the number for the mean; `low` and `high`: for the mean
        minus and plus the standard deviation, the error bars of figure 8.
    """
    mean, std = spectra.mean(0), spectra.std(0, ddof=min(1, len(spectra) - 1))
    counts = {
        name: int((mean + sign * std >= 1).sum())
        for name, sign in (("above", 0), ("low", -1), ("high", 1))
    }
    return {"mean": mean, "std": std, **counts}


def run(options: StudyOptions, on_progress: OnProgress) -> list[Path]:
    """Trains and measures, and writes both figures, their captions and two CSV files."""
    size, dataset = SIZES[options.profile], options.dataset or "mnist"
    seeds = options.seeds or list(range(size.models))
    latent_dim = LATENT_DIM if options.latent_dim is None else options.latent_dim
    splits = load_images(dataset, options.data_root, download=not options.offline)
    splits = splits.subset(train=size.images, val=min(len(splits.val), TEST_IMAGES))
    if splits.labels is None:
        raise ConfigError(f"study spectrum needs class labels, which {dataset} has not")
    test = ImageDataset(splits.test, splits.labels["test"]).batch(
        torch.arange(min(len(splits.test), TEST_IMAGES))
    )
    models: list[dict[str, Any]] = []
    spectra: dict[float, np.ndarray] = {}
    sheets: dict[float, Tensor] = {}
    for part, beta in enumerate(BETAS):
        found = []
        for index, seed in enumerate(seeds):

            def tell(epoch: int, beta: float = beta, done: int = part * len(seeds) + index) -> None:
                share = (done + epoch / size.epochs) / (len(BETAS) * len(seeds))
                on_progress(f"beta {beta:g}, epoch {epoch} of {size.epochs}", share)

            folder = options.results / "runs" / "spectrum" / dataset
            model = train(splits, beta, seed, size, folder, latent_dim, tell)
            spectrum, numbers, sheet = measure(model, size.samples, seed)
            error = (model.reconstruct(test.data, test.labels) - test.data).square()
            found.append(spectrum.numpy())
            sheets.setdefault(beta, sheet)
            models.append(
                {
                    "beta": beta,
                    "seed": seed,
                    "above_one": int((spectrum >= 1).sum()),
                    **numbers,
                    "reconstruction": float(error.flatten(1).sum(1).mean().detach()),
                    "nll": -float(model.log_prob(test.data, test.labels).mean()),
                }
            )
        spectra[beta] = np.stack(found)
    summary = {beta: summarise(values) for beta, values in spectra.items()}
    name = f"spectrum-{data_name(dataset, latent_dim, LATENT_DIM)}-{options.profile}"
    budget = (
        f"{len(splits.train):,} images, {size.epochs} epochs, {len(seeds)} models a weight, d = "
        f"{latent_dim}, {size.samples} samples a class"
    )
    data_variance = _data_variance(splits)
    drawings = [
        Drawing(
            name,
            _spectrum_figure(summary),
            "Figure 8: singular values of the decoder, by reconstruction weight",
            _spectrum_caption(summary, models, size, dataset, budget),
        ),
        Drawing(
            f"{name}-samples",
            _sample_figure(sheets),
            "Figure 9: samples of every class, by reconstruction weight",
            _sample_caption(models, data_variance, dataset, budget),
        ),
    ]
    singular_values = [
        {"beta": beta, "seed": seed, "index": i + 1, "singular_value": float(value)}
        for beta, values in spectra.items()
        for seed, row in zip(seeds, values, strict=True)
        for i, value in enumerate(row)
    ]
    return write_study(options, drawings, {name: models, f"{name}-values": singular_values})


def _data_variance(splits: Splits) -> float:
    """The variance of the test images within a class, summed over pixels."""
    assert splits.labels is not None
    images, labels = to_float(splits.test).flatten(1), torch.from_numpy(splits.labels["test"])
    return float(np.mean([float(images[labels == i].var(0).sum()) for i in labels.unique()]))


def _spectrum_figure(summary: dict[float, dict[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.3, 1])
    for colour, (beta, found) in enumerate(summary.items()):
        index = np.arange(1, len(found["mean"]) + 1)
        left.plot(index, found["mean"], color=f"C{colour}", label=f"{beta:g}")
        edges = (np.maximum(found["mean"] + sign * found["std"], 1e-6) for sign in (-1, 1))
        left.fill_between(index, *edges, color=f"C{colour}", alpha=0.25, lw=0)
    left.axhline(1, color="k", ls=":", lw=1)
    left.set_yscale("log")
    smallest = min(found["mean"].min() for found in summary.values())
    left.set_ylim(bottom=max(smallest / 3, 1e-6))
    left.set_xlabel("index of the singular value")
    left.set_ylabel("singular value of the decoder")
    left.legend(title="beta")
    betas = list(summary)
    above, low, high = (
        np.array([found[key] for found in summary.values()]) for key in ("above", "low", "high")
    )
    right.errorbar(betas, above, [above - low, high - above], marker="o", capsize=4)
    right.set_xscale("log")
    right.set_xticks(betas, [f"{beta:g}" for beta in betas])
    right.minorticks_off()
    right.set_xlabel("beta")
    right.set_ylabel("singular values of at least one")
    right.set_ylim(0, len(summary[betas[0]]["mean"]) + 0.5)
    return figure


def _sample_figure(sheets: dict[float, Tensor]) -> Any:
    from matplotlib.figure import Figure

    rows, columns, channels, height, width = next(iter(sheets.values())).shape
    figure = Figure(figsize=(3.6 * len(sheets), 3.5 * rows / columns), layout="constrained")
    for axis, (beta, sheet) in zip(figure.subplots(1, len(sheets)), sheets.items(), strict=True):
        grid = sheet.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)
        grey = {"cmap": "gray"} if channels == 1 else {}
        axis.imshow(grid.squeeze(-1).clamp(0, 1).numpy(), vmin=0, vmax=1, **grey)
        axis.set_title(f"beta = {beta:g}")
        axis.set_xticks([])
        axis.set_yticks(height * (np.arange(rows) + 0.5), range(rows))
        axis.tick_params(length=0)
    figure.axes[0].set_ylabel("class")
    return figure


def _means(models: list[dict[str, Any]], key: str) -> dict[float, float]:
    return {b: float(np.mean([m[key] for m in models if m["beta"] == b])) for b in BETAS}


def _listed(values: dict[float, Any], digits: str = ".3g") -> str:
    return ", ".join(f"{value:{digits}} at beta {beta:g}" for beta, value in values.items())


def _spectrum_caption(
    summary: dict[float, dict[str, Any]],
    models: list[dict[str, Any]],
    size: Size,
    dataset: str,
    budget: str,
) -> str:
    counts = {beta: found["above"] for beta, found in summary.items()}
    order = list(counts.values())
    grows = (
        "grows with beta, as in the paper"
        if order == sorted(order) and order[0] < order[-1]
        else "does not grow with beta throughout, unlike in the paper"
    )
    bars = "; ".join(f"{found['low']} to {found['high']}" for found in summary.values())
    return f"""
    The paper's figure 8 shows that the singular values of a conditional MNIST model's decoder
    grow with the reconstruction weight, and with them the number of those that are at least one,
    the dimensions that the model spans. Here, on {dataset} ({budget}, averaged over classes;
    bands are one standard deviation over models), that number {grows}:
    {_listed(counts, "d")} (error bars, where mean minus and plus the standard deviation are at
    least one: {bars}). By eq. 124 the entropy of the samples of a class is
    {_listed(_means(models, "entropy"), ".1f")} nats; by the exact log-likelihood of the samples,
    which goes through the encoder, {_listed(_means(models, "entropy_by_log_prob"), ".1f")}. The
    paper trains five models a weight for 400 epochs on all 60,000 images, with four times the
    channels of table 11, and takes 1,024 samples a class (profile `paper`); this run has
    {size.channel_multiplier:g} times the channels of table 11. Batches of {size.batch_size} and
    Adam at {size.learning_rate:g} are ours: the paper does not tell.
    """


def _sample_caption(
    models: list[dict[str, Any]], data_variance: float, dataset: str, budget: str
) -> str:
    return f"""
    The paper's figure 9 shows conditional MNIST samples at temperature 1, which grow more diverse
    with the reconstruction weight, and at high weights leave the distribution of the data at
    times. Here the first {SHOWN} samples (columns) of every class (rows) of one model a weight,
    trained on {dataset} ({budget}). The variance of the samples within a class, summed over
    pixels, is {_listed(_means(models, "diversity"))}; that of the test images is
    {data_variance:.3g}. The squared reconstruction error of test images is
    {_listed(_means(models, "reconstruction"))}. The paper trains for 400 epochs with four times
    the channels of table 11 (profile `paper`). After a short training the code of a high weight
    still carries what the label says, so that more samples than in the paper miss their class.
    """
