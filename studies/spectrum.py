"""Figures 8 and 9: the dimensions that a decoder spans, against the reconstruction weight."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.benchmark.models import list_configs
from pythae_fif.benchmark.pictures import picture_sheet
from pythae_fif.data import ImageDataset, Splits
from pythae_fif.data.load import ExpectedHashes, load
from pythae_fif.errors import DataError
from pythae_fif.files import read_json
from pythae_fif.nn import build_networks
from pythae_fif.nn.images import FIF_CONVNET_SHAPES, FIFConvDecoder, FIFConvEncoder
from pythae_fif.pictures import new_figure, pixel_bytes
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import Run
from pythae_fif.study import (
    RESULT_FILE,
    Study,
    StudyOptions,
    StudyPage,
    StudySpec,
    collect_results,
)
from pythae_fif.training.checkpoint import RESULT_NAME
from pythae_fif.validation import StrictModel
from pythae_fif.volume_change import decoder_singular_values

LABELLED_DATASETS = tuple(
    sorted({*list_configs()} - {"celeba", "csv"}, key=lambda name: (name != "mnist", name))
)
"""Data sets of images that can have class labels, the default first."""

BETAS = (0.1, 1.0, 10.0, 100.0)
LATENT_DIM = 16  # of the conditional MNIST model of figure 6
SAMPLES_IN_FIGURE = 10  # of every class
SAMPLES_FILE = "samples.png"


class SpectrumSize(StrictModel):
    """Size of the training and of the measurement.

    The paper does not give Adam's batch size and learning rate: the batch size is from its authors'
    code, the learning rate is our choice.

    Attributes:
        epochs: Number of epochs.
        samples: Samples of every class at which the decoder is measured.
        images: First training images that are used; all if None.
        channel_multiplier: Factor on the channels of table 11.
        batch_size: Images in a batch.
        learning_rate: Adam's learning rate.
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
    """The spectrum of a decoder's Jacobian at samples, as means over samples and classes.

    Attributes:
        singular_values: Singular values of the Jacobian, in descending order, (d,).
        log_volume: 1/2 log det g'(z)^T g'(z) in nats.
        entropy: Entropy of the samples by eq. 124, in nats.
    """

    singular_values: list[float]
    log_volume: float
    entropy: float


class SpectrumModel(StudySpec):
    """A conditional model of a data set, with the hashes of its images and labels."""

    kind: ClassVar[str] = "spectrum"
    result: ClassVar[Any] = Spectrum

    beta: float
    seed: int
    dataset: str
    size: SpectrumSize
    latent_dim: int
    data_hash: str
    labels_hash: str

    def execute(self, run: Run) -> None:
        """Trains the model, from the checkpoint if there is one, and measures its spectrum."""
        run.report("loading data")
        splits = load(
            self.dataset,
            self.location,
            planned=ExpectedHashes(self.data_hash, self.labels_hash),
            train_size=self.size.images,
        )
        trainer = self._build_trainer(splits, run)

        run.report("training")
        trainer.train()
        model: Any = trainer.model.eval()

        run.device = str(next(model.parameters()).device)
        samples, spectrum = measure_spectrum(model, self.size.samples, self.seed)
        sheet = picture_sheet(samples.flatten(0, 1), *samples.shape[:2])
        sheet_checksum = run.write(SAMPLES_FILE, pixel_bytes(sheet))
        model_files = read_json(run.folder / "model" / RESULT_NAME)["files"]
        model_checksums = {f"model/{name}": checksum for name, checksum in model_files.items()}
        run.save(RESULT_FILE, spectrum, sheet_checksum | model_checksums)

    def _build_trainer(self, splits: Splits, run: Run) -> FIFTrainer:
        """Builds a fresh model and its trainer, which writes into the run's folder."""
        size = self.size
        classes = int(splits.classes or 0)
        torch.manual_seed(self.seed)
        model = build_model(
            splits.input_dim, classes, self.beta, self.latent_dim, size.channel_multiplier
        )

        return FIFTrainer(
            model,
            # There are no validation images: at low weights their exact loss is infinite after
            # some epochs. The last weights are kept, as the training loss says nothing about the
            # fit.
            ImageDataset(splits.train, (splits.labels or {})["train"]),
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


def build_model(
    shape: tuple[int, ...], classes: int, beta: float, latent_dim: int, channel_multiplier: float
) -> FIF:
    """Builds a conditional FIF with the networks of table 11.

    Args:
        shape: Shape of an image, (C, H, W). Shapes that table 11 does not have get a small ConvNet.
        classes: Number of classes.
        beta: Reconstruction weight.
        latent_dim: Latent dimension d.
        channel_multiplier: Factor on the channels of table 11.
    """
    config = FIFConfig(input_dim=shape, latent_dim=latent_dim, beta=beta, condition_dim=classes)
    if shape not in FIF_CONVNET_SHAPES:
        return FIF(config, *build_networks("convnet", shape, latent_dim, condition_dim=classes))

    options: Any = {"condition_dim": classes, "channel_multiplier": channel_multiplier}
    return FIF(
        config,
        FIFConvEncoder(shape, latent_dim, **options),
        FIFConvDecoder(shape, latent_dim, **options),
    )


def measure_spectrum(model: FIF, samples: int, seed: int) -> tuple[Tensor, Spectrum]:
    """Draws samples of every class and measures the decoder's Jacobian there.

    Args:
        model: A conditional model.
        samples: Number of samples of every class.
        seed: Seed of the codes.

    Returns:
        The first `SAMPLES_IN_FIGURE` samples of every class, (classes, `SAMPLES_IN_FIGURE`, C, H,
        W), and the spectrum.
    """
    latent_dim = model.latent_dim
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)

    singular_values = []
    pictures = []
    for label in range(model.model_config.condition_dim):
        z = torch.randn(samples, latent_dim, generator=generator).to(device)
        _, decode = model.conditioned_on(label).networks_at()
        singular_values.append(decoder_singular_values(decode, z))
        pictures.append(model.decode(z, label)[:SAMPLES_IN_FIGURE].cpu())

    spectra = torch.cat(singular_values).cpu()
    log_volume = float(spectra.log().sum(1).mean())
    entropy = latent_dim / 2 * math.log(2 * math.pi * math.e) + log_volume
    return torch.stack(pictures), Spectrum(spectra.mean(0).tolist(), log_volume, entropy)


def plan_models(options: StudyOptions, train_size: int | None = None) -> dict[str, Any]:
    """Loads the images and returns the fields of a specification that follow from them.

    Args:
        options: The study's options.
        train_size: First training images that are used; all if None.

    Raises:
        DataError: The data set has no labels.
    """
    splits = load(str(options.dataset), options.location, train_size=train_size)
    if splits.labels is None:
        raise DataError(f"{options.dataset} has no labels: the study needs a data set with classes")

    return {
        "dataset": options.dataset,
        "latent_dim": options.latent_dim or LATENT_DIM,
        "data_hash": splits.content_hash,
        "labels_hash": splits.labels_hash,
        "location": options.location,
    }


def run_spectrum(options: StudyOptions) -> list[StudyPage]:
    """Trains and measures one model for each weight and seed."""
    size = SIZES[options.profile]
    plan = plan_models(options, size.images)
    specs = [
        SpectrumModel(**plan, size=size, beta=beta, seed=seed)
        for beta in BETAS
        for seed in options.seeds
    ]
    results = pd.DataFrame(collect_results(specs, options))

    values = pd.DataFrame(results.pop("singular_values").tolist())
    models = pd.DataFrame([(spec.beta, spec.seed) for spec in specs], columns=["beta", "seed"])
    frame = models.join(results)
    frame = frame.assign(above_one=(values >= 1).sum(axis=1)).join(values.add_prefix("value_"))
    mean_values = values.groupby(frame.beta).mean()
    spanned = pd.DataFrame({"above_one_mean": (mean_values >= 1).sum(axis=1)})
    table = spanned.join(frame.groupby("beta").mean()[["log_volume", "entropy"]])

    figure = new_figure(11, 7.5)
    panels: Any = figure.subfigures(2, 1)
    _draw_spectra(panels[0], frame, values, spanned)
    _draw_samples(panels[1], Store(options.results), specs[:: len(options.seeds)])

    return [
        StudyPage.of_table(
            f"spectrum-{options.dataset}-{options.profile}",
            "Figures 8 and 9: the dimensions that the decoder spans, by reconstruction weight",
            f"Singular values of a conditional model's decoder, d = {plan['latent_dim']}: means "
            f"over classes and samples, with one standard deviation over {len(options.seeds)} "
            "models. The number of singular values of at least one is the number of dimensions "
            f"that the model spans; in the paper it grows with beta. Trained for {size.epochs} "
            f"epochs of {size.images or 'all'} images. Below: samples of every class (rows) of "
            "one model for each weight, if they are kept.",
            table.reset_index(),
            frame,
            figure,
        )
    ]


def _draw_spectra(
    panel: Any, frame: pd.DataFrame, values: pd.DataFrame, spanned: pd.DataFrame
) -> None:
    """Draws the singular values of every beta, and how many are at least one."""
    left_axis, right_axis = panel.subplots(1, 2, width_ratios=[1.3, 1])
    groups = values.groupby(frame.beta)
    groups.mean().T.plot(
        ax=left_axis,
        yerr=groups.std().fillna(0).T,
        logy=True,
        capsize=2,
        xlabel="index",
        ylabel="singular value of the decoder",
    )
    left_axis.axhline(1, color="k", ls=":", lw=1)
    frame.plot.scatter("beta", "above_one", ax=right_axis)
    spanned.plot(ax=right_axis, logx=True, legend=False, ylabel="singular values of at least one")


def _draw_samples(panel: Any, store: Store, specs: Sequence[SpectrumModel]) -> None:
    """Draws the samples of one model for every beta."""
    for axis, spec in zip(panel.subplots(1, len(BETAS)), specs, strict=True):
        axis.set(title=f"beta = {spec.beta:g}", xticks=[], yticks=[])
        png = store.read_file(spec.run_path, SAMPLES_FILE)
        if png:  # packed runs have no samples
            pixels = np.asarray(Image.open(io.BytesIO(png)))
            axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)  # imshow ignores cmap for RGB


STUDY = Study(
    run_spectrum, seeds=(2, 5), datasets=LABELLED_DATASETS, options=("latent_dim", "data")
)
