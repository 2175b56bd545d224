"""Figures 8 and 9: what a conditional model's decoder spans, against the reconstruction weight."""

import io
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.benchmark.pictures import picture_sheet
from pythae_fif.data import ImageDataset
from pythae_fif.data.load import ExpectedHashes, load
from pythae_fif.errors import DataError
from pythae_fif.files import read_json
from pythae_fif.nn import build_networks
from pythae_fif.nn.images import FIF_CONVNET_SHAPES, FIFConvDecoder, FIFConvEncoder
from pythae_fif.pictures import new_figure, pixel_bytes
from pythae_fif.runs.launch import OnChange
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import Run
from pythae_fif.studies.spec import RESULT_FILE, StudyReport, StudySpec, collect_results
from pythae_fif.studies.study import StudyOptions
from pythae_fif.training.checkpoint import RESULT_NAME
from pythae_fif.validation import StrictModel
from pythae_fif.volume_change import decoder_singular_values

BETAS = (0.1, 1.0, 10.0, 100.0)
LATENT_DIM = 16  # of the conditional MNIST model of figure 6
MODELS_IN_FIGURE = 10  # samples of a class
SAMPLES = "samples.png"


class SpectrumSize(StrictModel):
    """Epochs and images of the training, samples of a class, and a factor on table 11's channels.

    The paper does not tell Adam's batch and rate: the batch is that of its authors' code, the rate
    ours.
    """

    epochs: int
    samples: int
    images: int | None = None
    channel_multiplier: float = 4
    batch_size: int = 512
    learning_rate: float = 1e-3


SIZES = {
    "quick": SpectrumSize(
        epochs=10, samples=64, images=6000, channel_multiplier=0.25, batch_size=64
    ),
    "paper": SpectrumSize(epochs=400, samples=1024),
}


@dataclass(frozen=True)
class Spectrum:
    """What a model's decoder spans at samples; means over classes.

    Attributes:
        singular_values: Of the decoder's Jacobian, in descending order, (d,).
        log_volume: 1/2 log det g'(z)^T g'(z) in nats.
        entropy: Of the samples, by eq. 124.
    """

    singular_values: list[float]
    log_volume: float
    entropy: float


class SpectrumModel(StudySpec):
    """A model of a data set, of which the hashes of images and labels are given."""

    kind: ClassVar[str] = "spectrum"
    result: ClassVar[Any] = Spectrum

    beta: float
    seed: int
    dataset: str
    size: SpectrumSize
    latent_dim: int
    data_hash: str
    labels_hash: str

    def run(self, run: Run) -> None:
        """Trains, from the checkpoint where there is one, and measures."""
        run.report("loading data")
        size, hashes = self.size, ExpectedHashes(self.data_hash, self.labels_hash)
        splits = load(self.dataset, self.location, planned=hashes, train_size=size.images)
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
            on_epoch=lambda row: run.report("training", row.share_done),
            keep_last=True,
        )
        run.report("training")
        trainer.train()
        model: Any = trainer.model.eval()
        run.device = str(next(model.parameters()).device)
        shown, found = measure(model, size.samples, self.seed)
        sheets = run.write(
            SAMPLES, pixel_bytes(picture_sheet(shown.flatten(0, 1), *shown.shape[:2]))
        )
        written = read_json(run.folder / "model" / RESULT_NAME)["files"]
        weights = {f"model/{name}": checksum for name, checksum in written.items()}
        run.save(RESULT_FILE, found, sheets | weights)


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


def measure(model: FIF, samples: int, seed: int) -> tuple[Tensor, Spectrum]:
    """Draws samples of every class, and measures what a conditional decoder spans there.

    Returns:
        The first `SHOWN` samples of every class, (classes, SHOWN, C, H, W), and what was measured.
    """
    d, generator = model.latent_dim, torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    values, shown = [], []
    for label in range(model.model_config.condition_dim):
        z = torch.randn(samples, d, generator=generator).to(device)
        values.append(decoder_singular_values(model.conditioned_on(label).networks_at()[1], z))
        shown.append(model.decode(z, label)[:MODELS_IN_FIGURE].cpu())
    spectra = torch.cat(values).cpu()
    log_volume = float(spectra.log().sum(1).mean())
    entropy = d / 2 * math.log(2 * math.pi * math.e) + log_volume
    return torch.stack(shown), Spectrum(spectra.mean(0).tolist(), log_volume, entropy)


def plan_models(options: StudyOptions, train_size: int | None = None) -> dict[str, Any]:
    """The fields of a specification that follow from a command's options and the images."""
    splits = load(str(options.dataset), options.location, train_size=train_size)
    if splits.labels is None:
        raise DataError(f"{options.dataset} has no labels, of which the study trains a model")
    return {
        "dataset": options.dataset,
        "latent_dim": options.latent_dim or LATENT_DIM,
        "data_hash": splits.content_hash,
        "labels_hash": splits.labels_hash,
        "location": options.location,
    }


def run_spectrum(options: StudyOptions, on_change: OnChange) -> list[StudyReport]:
    """Trains and measures a model a weight and seed; spectra, and samples where there are any."""
    size, seeds = SIZES[options.profile], options.seeds
    plan = plan_models(options, size.images)
    specs = [
        SpectrumModel(**plan, size=size, beta=beta, seed=seed) for beta in BETAS for seed in seeds
    ]
    rows = pd.DataFrame(collect_results(specs, options, on_change))
    rows = pd.DataFrame([(of.beta, of.seed) for of in specs], columns=["beta", "seed"]).join(rows)
    values = pd.DataFrame(rows.pop("singular_values").tolist())
    rows = rows.assign(above_one=(values >= 1).sum(axis=1)).join(values.add_prefix("value_"))
    of_betas = values.groupby(rows.beta)
    above = pd.DataFrame({"above_one_mean": (of_betas.mean() >= 1).sum(axis=1)})
    means = rows.groupby("beta").mean()[["log_volume", "entropy"]]
    figure = new_figure(11, 7.5)
    panels: Any = figure.subfigures(2, 1)
    left, right = panels[0].subplots(1, 2, width_ratios=[1.3, 1])
    of_betas.mean().T.plot(ax=left, yerr=of_betas.std().fillna(0).T, logy=True, capsize=2)
    left.axhline(1, color="k", ls=":", lw=1)
    left.set(xlabel="index", ylabel="singular value of the decoder")
    rows.plot.scatter("beta", "above_one", ax=right)
    above.plot(ax=right, logx=True, legend=False, ylabel="singular values of at least one")
    store = Store(options.results)
    for axis, spec in zip(panels[1].subplots(1, len(BETAS)), specs[:: len(seeds)], strict=True):
        axis.set(title=f"beta = {spec.beta:g}", xticks=[], yticks=[])
        if png := store.read(spec, SAMPLES):  # packed runs have none
            pixels = np.asarray(Image.open(io.BytesIO(png)))
            axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)  # imshow ignores cmap for RGB
    finding = StudyReport(
        f"spectrum-{options.dataset}-{options.profile}",
        "Figures 8 and 9: what the decoder spans, by reconstruction weight",
        f"Singular values of a conditional model's decoder, d = {plan['latent_dim']}, means over "
        f"classes and samples, with one standard deviation over {len(seeds)} models, and the number"
        " of those that are at least one: the dimensions that the model spans, which in the paper "
        f"grow with beta. Trained for {size.epochs} epochs of {size.images or 'all'} images; below,"
        " where they are kept, samples of every class (rows) of one model a weight.",
        above.join(means).reset_index(),
        rows,
        figure,
    )
    return [finding]
