"""Figures 8 and 9: what a conditional model's decoder spans, against the reconstruction weight."""

__all__ = ["LATENT_DIM", "SAMPLES", "Size", "SpectrumModel", "build", "measure", "run", "summarise"]

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.benchmark.pictures import sheet
from pythae_fif.data import ImageDataset, to_float
from pythae_fif.data.load import load, open_splits
from pythae_fif.errors import ConfigError
from pythae_fif.files import read_json
from pythae_fif.nn import FIF_CONVNET_SHAPES, FIFConvDecoder, FIFConvEncoder, build_networks
from pythae_fif.pictures import new_figure, pixel_bytes
from pythae_fif.runs.launch import OnChange
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import Run
from pythae_fif.studies.spec import RESULT, StudySpec, results_of
from pythae_fif.studies.study import Finding, StudyOptions
from pythae_fif.training import LOG_NAME, EpochRow, read_log
from pythae_fif.training.checkpoint import RESULT_NAME
from pythae_fif.validation import Checked
from pythae_fif.volume_change import decoder_singular_values, squared_error

BETAS = (0.1, 1.0, 10.0, 100.0)
LATENT_DIM = 16  # of the conditional MNIST model of figure 6
SHOWN = 10  # samples of a class
SAMPLES = "samples.png"
TEST_IMAGES = 500


class Size(Checked):
    """How much of the protocol is run.

    Attributes:
        epochs: Passes over the training images.
        samples: Of every class, for the singular values.
        images: First training images that are used; all if None.
        channel_multiplier: Factor on the channels of table 11.
        batch_size, learning_rate: Adam's, which the paper does not tell: the batch is that of its
            authors' released code, the rate ours.
    """

    epochs: int
    samples: int
    images: int | None = None
    channel_multiplier: float = 4
    batch_size: int = 512
    learning_rate: float = 1e-3


SIZES = {
    "quick": Size(epochs=10, samples=64, images=6000, channel_multiplier=0.25, batch_size=64),
    "paper": Size(epochs=400, samples=1024),
}


@dataclass(frozen=True)
class Measured:
    """What is found of one model, over classes.

    Attributes:
        singular_values: Means of those of the decoder's Jacobian, in descending order, (d,).
        log_volume: Mean of 1/2 log det g'(z)^T g'(z), in nats.
        entropy: Of the samples by eq. 124, in nats.
        entropy_by_log_prob: The same by their exact log-likelihood, which needs the encoder.
        diversity: Variance of the samples within a class, summed over pixels.
        classes, parameters: Of the model.
        data_diversity: As `diversity`, of all test images.
        reconstruction: Squared error an image, of the first `TEST_IMAGES` test images.
        nll: Their exact negative log-likelihood, in nats.
        log: A row an epoch.
    """

    singular_values: list[float]
    log_volume: float
    entropy: float
    entropy_by_log_prob: float
    diversity: float
    classes: int
    data_diversity: float
    reconstruction: float
    nll: float
    parameters: int
    log: list[EpochRow]


class SpectrumModel(StudySpec):
    """Everything that defines the result of one model.

    Attributes:
        dataset: Name of the images.
        beta: FIF's reconstruction weight.
        seed: Of the initial weights, of the training and of the codes that are sampled.
        size: Of the training.
        latent_dim: d.
        data_hash, labels_hash: Of the images in use, and of their labels.
    """

    kind: ClassVar[str] = "spectrum"
    result: ClassVar[Any] = Measured

    dataset: str
    beta: float
    seed: int
    size: Size
    latent_dim: int
    data_hash: str
    labels_hash: str

    @property
    def title(self) -> str:
        """Weight and seed."""
        return f"beta {self.beta:g}, seed {self.seed}"

    def run(self, run: Run) -> None:
        """Trains, from the checkpoint where there is one, and measures.

        Raises:
            DataError: Images or labels are not those of the plan.
        """
        run.tell("loading data")
        size = self.size
        splits = open_splits(
            self.data_hash, self.labels_hash, self.dataset, self.where, train_size=size.images
        )
        labels, classes = splits.labels or {}, int(splits.classes or 0)
        torch.manual_seed(self.seed)
        trainer = FIFTrainer(
            build(splits.input_dim, classes, self.beta, self.latent_dim, size.channel_multiplier),
            ImageDataset(splits.train, labels["train"]),
            # Without validation images, whose exact loss is infinite at low weights after some
            # epochs: the last weights are kept, as the training loss says nothing about the fit.
            training_config=FIFTrainerConfig(
                num_epochs=size.epochs,
                per_device_train_batch_size=size.batch_size,
                learning_rate=size.learning_rate,
                seed=self.seed,
            ),
            run_dir=run.folder,
            run_id=self.run_id,
            on_epoch=lambda row: run.tell("training", row.share_done),
            keep_last=True,
            progress=False,
        )
        run.tell("training")
        trainer.train()
        model: Any = trainer.model.eval()
        run.device = str(next(model.parameters()).device)
        spans, shown = measure(model, size.samples, self.seed)
        few = torch.arange(min(len(splits.test), TEST_IMAGES))
        test = ImageDataset(splits.test, labels["test"]).batch(few, run.device)
        error = squared_error(model.reconstruct(test.data, test.labels), test.data)
        images = to_float(splits.test).flatten(1)
        of_classes = [
            images[torch.from_numpy(labels["test"] == c)] for c in np.unique(labels["test"])
        ]
        found = Measured(
            **spans,
            classes=classes,
            data_diversity=float(np.mean([float(of.var(0).sum()) for of in of_classes])),
            reconstruction=float(error.mean()),
            nll=-float(model.log_prob(test.data, test.labels).mean()),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            log=read_log(run.folder / LOG_NAME, self.run_id),
        )
        sheets = run.write(SAMPLES, pixel_bytes(sheet(shown.flatten(0, 1), *shown.shape[:2])))
        written = read_json(run.folder / "model" / RESULT_NAME)["files"]
        weights = {f"model/{name}": checksum for name, checksum in written.items()}
        run.save(RESULT, found, sheets | weights)


def build(
    shape: tuple[int, ...], classes: int, beta: float, latent_dim: int, channel_multiplier: float
) -> FIF:
    """A conditional FIF: the nets of table 11, or small ones for images of other shapes."""
    config = FIFConfig(input_dim=shape, latent_dim=latent_dim, beta=beta, condition_dim=classes)
    if shape not in FIF_CONVNET_SHAPES:
        return FIF(config, *build_networks("convnet", shape, latent_dim, condition_dim=classes))
    options: Any = {"condition_dim": classes, "channel_multiplier": channel_multiplier}
    encoder = FIFConvEncoder(shape, latent_dim, **options)
    return FIF(config, encoder, FIFConvDecoder(shape, latent_dim, **options))


def measure(model: FIF, samples: int, seed: int) -> tuple[dict[str, Any], Tensor]:
    """Draws samples of every class and measures what the decoder spans there.

    Args:
        model: Conditional on classes.
        samples: Of every class.
        seed: Of the codes.

    Returns:
        The first five numbers of :class:`Measured`, and the first `SHOWN` samples of every class,
        (classes, SHOWN, C, H, W).
    """
    d, generator = model.latent_dim, torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    values, entropies, variances, shown = [], [], [], []
    for label in range(model.model_config.condition_dim):
        given = model.given(label)
        z = torch.randn(samples, d, generator=generator).to(device)
        decode = given.networks_at(None)[1]
        with torch.no_grad():
            images = decode(z)
        values.append(decoder_singular_values(decode, z))
        entropies.append(-given.log_prob(images))
        variances.append(images.flatten(1).var(0).sum())
        shown.append(images[:SHOWN].cpu())
    spectra = torch.cat(values).cpu()
    log_volume = float(spectra.log().sum(1).mean())
    spans = {
        "singular_values": spectra.mean(0).tolist(),
        "log_volume": log_volume,
        "entropy": d / 2 * math.log(2 * math.pi * math.e) + log_volume,
        "entropy_by_log_prob": float(torch.cat(entropies).mean()),
        "diversity": float(torch.stack(variances).mean()),
    }
    return spans, torch.stack(shown)


def run(options: StudyOptions, on_change: OnChange) -> list[Finding]:
    """Trains and measures a model a weight and seed; spectra, and samples where there are any.

    Raises:
        ConfigError: A data set without class labels.
        RunsLeftError: Runs failed, or go on elsewhere.
    """
    size, dataset = SIZES[options.profile], options.dataset
    assert dataset is not None  # run_study has chosen
    latent_dim = LATENT_DIM if options.latent_dim is None else options.latent_dim
    splits = load(dataset, options.where, train_size=size.images)
    if splits.labels_hash is None:
        raise ConfigError(f"study spectrum needs class labels, which {dataset} has not")
    specs = [
        SpectrumModel(
            dataset=dataset,
            beta=beta,
            seed=seed,
            size=size,
            latent_dim=latent_dim,
            data_hash=splits.content_hash,
            labels_hash=splits.labels_hash,
            where=options.where,
        )
        for beta in BETAS
        for seed in options.seeds
    ]
    found = zip(specs, results_of(specs, options, on_change), strict=True)
    rows = pd.DataFrame(
        [{"beta": of.beta, "seed": of.seed, **vars(result)} for of, result in found]
    )
    values = pd.DataFrame(rows.pop("singular_values").tolist(), rows.beta).T
    values.index += 1
    summary = summarise(values)
    rows["above_one"] = (values >= 1).sum().array
    rows = rows.drop(columns="log").join(values.T.reset_index(drop=True).add_prefix("value_"))
    of_betas = rows.groupby("beta").mean().loc[:, "log_volume":"nll"].drop(columns="classes")
    counts = (summary[["mean", "low", "high"]] >= 1).groupby("beta").sum()
    table = counts.add_prefix("above_one_").join(of_betas).reset_index()
    name = f"spectrum-{dataset}-{options.profile}"
    name += "" if latent_dim == LATENT_DIM else f"-d{latent_dim}"
    notes = [
        f"{len(splits.train):,} images, {size.epochs} epochs, {len(options.seeds)} models a "
        f"weight, d = {latent_dim}; Adam's rate is ours: the paper does not tell."
    ]
    spectra = Finding(
        name,
        "Figure 8: singular values of the decoder, by reconstruction weight",
        "Singular values of a conditional model's decoder, means over classes and samples, with "
        "one standard deviation over models, and the number of those that are at least one. In the "
        "paper that number, the dimensions that the model spans, grows with beta.",
        table,
        rows,
        _spectrum_figure(summary, counts),
        notes,
    )
    store = Store(options.results)
    sheets = {s.beta: store.read(s, SAMPLES) for s in specs if s.seed == options.seeds[0]}
    if None in sheets.values():  # of packed runs
        return [spectra]
    samples = Finding(
        f"{name}-samples",
        "Figure 9: samples of every class, by reconstruction weight",
        f"The first {SHOWN} samples (columns) of every class (rows) of one model a weight. In the "
        "paper samples grow more diverse with beta, and at high weights leave the distribution of "
        "the data at times.",
        of_betas[["diversity", "data_diversity", "reconstruction"]].reset_index(),
        None,
        _sample_figure(sheets, int(rows.classes[0])),
        notes,
    )
    return [spectra, samples]


def summarise(values: pd.DataFrame) -> pd.DataFrame:
    """Mean, and mean minus and plus the standard deviation over models, of each singular value.

    Args:
        values: A row a singular value, and a column, headed by its beta, a model.

    Returns:
        Columns `mean`, `low` and `high`, by `beta` and `index`.
    """
    groups = values.T.groupby(level=0)
    mean, std = groups.mean().stack(), groups.std().fillna(0.0).stack()
    found = pd.DataFrame({"mean": mean, "low": mean - std, "high": mean + std})
    return found.rename_axis(["beta", "index"])


def _spectrum_figure(summary: pd.DataFrame, counts: pd.DataFrame) -> Any:
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=[1.3, 1])
    for colour, beta in enumerate(counts.index):
        of_beta = summary.loc[beta]
        left.plot(of_beta["mean"], color=f"C{colour}", label=f"{beta:g}")
        edges = of_beta.low.clip(1e-6), of_beta.high
        left.fill_between(of_beta.index, *edges, color=f"C{colour}", alpha=0.25, lw=0)
    left.axhline(1, color="k", ls=":", lw=1)
    left.set(
        yscale="log", xlabel="index of the singular value", ylabel="singular value of the decoder"
    )
    left.legend(title="beta")
    bars = [counts["mean"] - counts["low"], counts["high"] - counts["mean"]]
    right.errorbar(counts.index, counts["mean"], bars, marker="o", capsize=4)
    right.set(xscale="log", xlabel="beta", ylabel="singular values of at least one")
    right.set_ylim(bottom=0)
    return figure


def _sample_figure(sheets: Mapping[float, bytes | None], classes: int) -> Any:
    figure = new_figure(3.6 * len(sheets), 3.5 * classes / SHOWN)
    for axis, (beta, png) in zip(figure.subplots(1, len(sheets)), sheets.items(), strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(png or b"")))
        axis.set_title(f"beta = {beta:g}")
        axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)  # imshow ignores cmap for RGB
        axis.set_xticks([])
        axis.set_yticks(len(pixels) / classes * (np.arange(classes) + 0.5), range(classes))
    figure.axes[0].set_ylabel("class")
    return figure
