"""A run of the spectrum study: a conditional FIF is trained, and what its decoder spans measured.

`samples.png` beside the record shows the first samples (columns) of every class (rows).
"""

__all__ = [
    "LATENT_DIM", "SAMPLES", "SHOWN", "SPECTRUM", "TEST_IMAGES", "Measured", "Size",
    "SpectrumRecord", "SpectrumSpec", "build", "load_labelled", "measure",
]  # fmt: skip

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.benchmark.sheets import sheet
from pythae_fif.data import DataOptions, ImageDataset, Splits, to_float
from pythae_fif.data.cache import mapped_splits
from pythae_fif.data.load import load
from pythae_fif.errors import ConfigError
from pythae_fif.nn import FIF_CONVNET_SHAPES, FIFConvDecoder, FIFConvEncoder, build_networks
from pythae_fif.pictures import write_pixels
from pythae_fif.runs.execute import interrupted_here
from pythae_fif.runs.kind import Environment, Job, Kind, require_planned, run_id_of
from pythae_fif.runs.provenance import provenance
from pythae_fif.runs.record import Record
from pythae_fif.training import EpochRow
from pythae_fif.validation import Checked
from pythae_fif.volume_change import decoder_singular_values, squared_error

SCHEMA = 2
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


class SpectrumSpec(Checked):
    """Everything that defines the result of one model.

    Attributes:
        dataset: Name of the images.
        beta: FIF's reconstruction weight.
        seed: Of the initial weights, of the training and of the codes that are sampled.
        size: Of the training.
        latent_dim: d.
        data_hash: Of the images in use.
        labels_hash: Of their labels.
    """

    dataset: str
    beta: float
    seed: int
    size: Size
    latent_dim: int
    data_hash: str
    labels_hash: str

    @property
    def run_id(self) -> str:
        """Twelve hexadecimal digits of a hash of the specification and the schema version."""
        return run_id_of({"kind": "spectrum", "schema": SCHEMA, **self.to_dict()})

    @property
    def folder(self) -> str:
        """`spectrum/<dataset>`."""
        return f"spectrum/{self.dataset}"


class SpectrumRecord(Record):
    """What the decoder of one model spans, as means over classes.

    Attributes:
        singular_values: Of the decoder's Jacobian, in descending order, (d,).
        log_volume, entropy, entropy_by_log_prob, diversity: See :class:`Measured`.
        classes: Number of them.
        data_diversity: As `diversity`, of all test images.
        reconstruction: Squared error an image, of the first `TEST_IMAGES` test images.
        nll: Their exact negative log-likelihood, in nats.
        parameters: Of the model.
    """

    SCORES = frozenset(
        {"singular_values", "log_volume", "entropy", "diversity", "reconstruction", "nll"}
    )

    schema_version: Literal[2] = Field(2, alias="schema")
    singular_values: list[float] = Field(min_length=1)
    log_volume: float
    entropy: float
    entropy_by_log_prob: float
    diversity: float
    classes: int
    data_diversity: float
    reconstruction: float
    nll: float
    parameters: int


@dataclass(frozen=True)
class Measured:
    """What a decoder spans at codes from the latent distribution.

    Attributes:
        singular_values: Means over all classes and samples, (d,).
        log_volume: Mean of 1/2 log det g'(z)^T g'(z), in nats.
        entropy: Of the samples by eq. 124, in nats.
        entropy_by_log_prob: The same by their exact log-likelihood, which needs the encoder.
        diversity: Variance of the samples within a class, summed over pixels.
        shown: The first `SHOWN` samples of every class, (classes, SHOWN, C, H, W).
    """

    singular_values: Tensor
    log_volume: float
    entropy: float
    entropy_by_log_prob: float
    diversity: float
    shown: Tensor


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


def measure(model: FIF, samples: int, seed: int) -> Measured:
    """Draws samples of every class and measures what the decoder spans there.

    Args:
        model: Conditional on classes.
        samples: Of every class.
        seed: Of the codes.
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
    return Measured(
        singular_values=spectra.mean(0),
        log_volume=log_volume,
        entropy=d / 2 * math.log(2 * math.pi * math.e) + log_volume,
        entropy_by_log_prob=float(torch.cat(entropies).mean()),
        diversity=float(torch.stack(variances).mean()),
        shown=torch.stack(shown),
    )


def load_labelled(dataset: str, size: Size, environment: Environment) -> Splits:
    """The images that a run uses.

    Raises:
        ConfigError: An unknown data set, or one without class labels.
        DataError: The data are missing or damaged.
    """
    options = DataOptions(data_root=environment.data_root, offline=environment.offline)
    splits = load(dataset, options, train_size=size.images)
    if splits.labels is None:
        raise ConfigError(f"study spectrum needs class labels, which {dataset} has not")
    return splits


def work(job: Job[SpectrumSpec, SpectrumRecord]) -> None:
    """Trains a model, from its checkpoint where there is one, and measures it.

    Raises:
        DataError: Images or labels are not those of the plan.
    """
    spec, folder = job.spec, job.folder
    folder.tell("running", "loading data")
    splits = mapped_splits(spec.data_hash, spec.labels_hash)
    splits = splits or load_labelled(spec.dataset, spec.size, job.environment)
    require_planned(f"the images of {spec.dataset}", splits.content_hash, spec.data_hash)
    require_planned(f"the labels of {spec.dataset}", splits.labels_hash, spec.labels_hash)
    assert splits.labels is not None  # the plan has looked
    classes = splits.classes
    assert classes is not None  # likewise
    with interrupted_here() as check_interrupt:

        def on_epoch(row: EpochRow) -> None:
            folder.tell("running", "training", row.share_done)
            check_interrupt()

        torch.manual_seed(spec.seed)
        trainer = FIFTrainer(
            build(
                splits.input_dim, classes, spec.beta, spec.latent_dim, spec.size.channel_multiplier
            ),
            ImageDataset(splits.train, splits.labels["train"]),
            # Without validation images, whose exact loss is infinite at low weights after some
            # epochs: the last weights are kept, as the training loss says nothing about the fit.
            training_config=FIFTrainerConfig(
                num_epochs=spec.size.epochs,
                per_device_train_batch_size=spec.size.batch_size,
                learning_rate=spec.size.learning_rate,
                seed=spec.seed,
            ),
            run_dir=folder.path,
            run_id=folder.run_id,
            on_epoch=on_epoch,
            keep_last=True,
            progress=False,
        )
        trainer.train()
    folder.tell("running", "measuring", 1.0)
    model: FIF = trainer.model.eval()
    device = next(model.parameters()).device
    found = measure(model, spec.size.samples, spec.seed)
    test = ImageDataset(splits.test, splits.labels["test"]).batch(
        torch.arange(min(len(splits.test), TEST_IMAGES)), device
    )
    with torch.no_grad():
        error = squared_error(model.reconstruct(test.data, test.labels), test.data)
    folder.check()
    rows, columns = found.shown.shape[:2]  # a row a class
    write_pixels(folder.path / SAMPLES, sheet(found.shown.flatten(0, 1), rows, columns))
    job.write_record(
        SpectrumRecord(
            run_id=spec.run_id,
            singular_values=found.singular_values.tolist(),
            log_volume=found.log_volume,
            entropy=found.entropy,
            entropy_by_log_prob=found.entropy_by_log_prob,
            diversity=found.diversity,
            classes=classes,
            data_diversity=_data_diversity(splits),
            reconstruction=float(error.mean()),
            nll=-float(model.log_prob(test.data, test.labels).mean()),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            provenance=provenance(str(device), job.started, folder.attempt),
        )
    )


def _data_diversity(splits: Splits) -> float:
    """The variance of the test images within a class, summed over pixels."""
    assert splits.labels is not None
    images, labels = to_float(splits.test).flatten(1), splits.labels["test"]
    variances = [images[torch.from_numpy(labels == i)].var(0).sum() for i in np.unique(labels)]
    return float(torch.stack(variances).mean())


SPECTRUM = Kind("spectrum", SCHEMA, SpectrumSpec.model_validate, SpectrumRecord, work)
"""Runs of figures 8 and 9."""
