"""Figure 6: how noisy the gradient is, by the number of Hutchinson vectors."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pythae_fif import FIF
from pythae_fif.data import ImageDataset, Splits, to_float
from pythae_fif.data.load import ExpectedHashes, load
from pythae_fif.device import default_device
from pythae_fif.pictures import new_figure
from pythae_fif.study import (
    ProgressCallback,
    Study,
    StudyOptions,
    StudyPage,
    StudySpec,
    collect_results,
)
from pythae_fif.volume_change import sample_hutchinson, volume_surrogate
from pythae_fif.volume_change.loss import Map
from studies.spectrum import LABELLED_DATASETS, build_model, plan_models

SIZES: dict[str, dict[str, Any]] = {
    "quick": {"steps": 400, "repeats": 5, "batches": (1, 4, 16), "channel_multiplier": 0.25},
    "paper": {"steps": 50_000, "repeats": 20, "batches": (1, 16, 128), "channel_multiplier": 4.0},
}
BATCH_SIZE = 100
BETA = 10.0
TANGENTS = 512  # Hutchinson vectors times data points in one pass
MAX_SAMPLES = 8 * TANGENTS  # combinations of more vectors times points are left out


@dataclass(frozen=True)
class GradientDistance:
    """Relative distance of the surrogate's gradient from the exact one (eq. 96).

    Attributes:
        space: Where the trace is taken, `latent` or `data`.
        batch_size: Number of data points.
        samples: Number of Hutchinson vectors for each data point.
        distance: Mean over draws of the vectors.
        std: Standard deviation over draws.
    """

    space: str
    batch_size: int
    samples: int
    distance: float
    std: float


class TraceNoise(StudySpec):
    """A conditional model of a data set, with the hashes of its images and labels.

    Attributes:
        repeats: Draws of Hutchinson vectors for every distance.
        channel_multiplier: Factor on the channels of table 11.
    """

    kind: ClassVar[str] = "estimator"
    result: ClassVar[Any] = list[GradientDistance]

    dataset: str
    latent_dim: int
    seed: int
    steps: int
    repeats: int
    batches: tuple[int, ...]
    channel_multiplier: float
    data_hash: str
    labels_hash: str

    def compute(self, report_progress: ProgressCallback) -> list[GradientDistance]:
        """Trains the model and measures its gradients at test images."""
        splits = load(
            self.dataset,
            self.location,
            planned=ExpectedHashes(self.data_hash, self.labels_hash),
        )
        labels: Any = splits.labels
        model = self._train_model(splits, labels["train"], report_progress)
        images = to_float(splits.test, limit=max(self.batches))
        return self.distances(model.eval(), images, torch.from_numpy(labels["test"]))

    def _train_model(
        self, splits: Splits, labels: np.ndarray, report_progress: ProgressCallback
    ) -> FIF:
        """Trains a model of the training images with these labels, with Adam."""
        data = ImageDataset(splits.train, labels)
        device = default_device()
        torch.manual_seed(self.seed)
        model = build_model(
            splits.input_dim,
            int(splits.classes or 0),
            BETA,
            self.latent_dim,
            self.channel_multiplier,
        )
        model.to(device).train()

        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for step in range(self.steps):
            batch = data.batch(torch.randint(len(data), (BATCH_SIZE,)), device)
            optimizer.zero_grad()
            model(batch).loss.backward()
            optimizer.step()
            report_progress(step / self.steps / 2)

        return model

    def distances(self, model: FIF, images: Tensor, labels: Tensor) -> list[GradientDistance]:
        """Measures the distances of gradients with respect to the encoder's parameters.

        Args:
            model: A conditional model in evaluation mode.
            images: At least as many images as the largest batch, (N, C, H, W).
            labels: Their classes, (N,).
        """
        dim = images[0].numel()
        powers_of_four = [4**exponent for exponent in range(dim) if 4**exponent < dim]
        numbers_of_vectors = {
            "latent": [*range(1, self.latent_dim + 1)],
            "data": [*powers_of_four, dim],
        }
        generator = torch.Generator().manual_seed(self.seed)

        distances = []
        for batch_size in self.batches:
            x = images[:batch_size]
            y = labels[:batch_size]
            eps = sample_hutchinson(batch_size, self.latent_dim, self.latent_dim)
            exact = _gradient(model, x, y, eps, "latent")
            for space, numbers in numbers_of_vectors.items():
                size = numbers[-1]  # the dimension of the space
                for samples in numbers:
                    if batch_size * samples > MAX_SAMPLES:
                        continue

                    repeats = []
                    for _ in range(self.repeats):
                        eps = sample_hutchinson(batch_size, size, samples, generator=generator)
                        difference = _gradient(model, x, y, eps, space) - exact
                        repeats.append(float(difference.norm() / exact.norm()))
                    distances.append(
                        GradientDistance(
                            space,
                            batch_size,
                            samples,
                            distance=float(np.mean(repeats)),
                            std=float(np.std(repeats)),
                        )
                    )
        return distances


def in_data_space(encode: Map, decode: Map, x: Tensor, eps: Tensor) -> Tensor:
    """Computes the volume term with the trace of g' f' in data space, D x D.

    Its variance is much higher than in latent space (appendix D.1).

    Args:
        encode: Encoder f from data points to codes, as for
            :func:`~pythae_fif.volume_change.volume_surrogate`.
        decode: Decoder g from codes to data points.
        x: Data points, (B, ...).
        eps: Hutchinson vectors in data space, one for each point, (B, D).

    Returns:
        The term of each point, (B,).
    """
    x = x.detach().requires_grad_()
    vector = eps.view_as(x)
    z = encode(x)
    (latent_vector,) = torch.autograd.grad(decode(z), z, vector, retain_graph=True)
    (data_vector,) = torch.autograd.grad(z, x, latent_vector, create_graph=True)
    return -(data_vector * vector).flatten(1).sum(1)


def _gradient(model: FIF, x: Tensor, labels: Tensor, eps: Tensor, space: str) -> Tensor:
    """Computes the gradient of the mean surrogate, a few Hutchinson vectors at a time."""
    parameters = list(model.encoder.parameters())
    device = parameters[0].device
    x = x.to(device)
    eps = eps.to(device)

    gradients = []
    for chunk in eps.split(max(1, TANGENTS // len(x))):
        points = x.repeat(len(chunk), *[1] * (x.dim() - 1))
        vectors = chunk.flatten(0, 1)
        encode, decode = model.networks_at(*model.condition(labels.repeat(len(chunk)), points))
        if space == "latent":
            term = volume_surrogate(encode, decode, points, vectors[None]).surrogate
        else:
            term = in_data_space(encode, decode, points, vectors)

        loss = term.mean() * (len(chunk) / len(eps))
        gradient = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        gradients.append(torch.cat([part.flatten() for part in gradient]))
    return torch.stack(gradients).sum(0)


def run_estimator(options: StudyOptions) -> list[StudyPage]:
    """Trains one model for each seed and measures the distances of its gradients."""
    size = SIZES[options.profile]
    plan = plan_models(options)
    specs = [TraceNoise(**plan, seed=seed, **size) for seed in options.seeds]
    results = collect_results(specs, options)
    frame = pd.DataFrame([distance for distances in results for distance in distances])

    latent_dim = plan["latent_dim"]
    table_frame = frame[frame.samples.isin([1, max(1, latent_dim // 2), latent_dim])]
    table = table_frame.pivot_table("distance", ["space", "batch_size"], "samples")
    return [
        StudyPage.of_table(
            f"estimator-{options.dataset}-{options.profile}",
            "Figure 6: the noise of the trace estimator",
            "Relative distance of the surrogate's gradient from the exact one (eq. 96) against "
            "the number K of Hutchinson vectors, with one standard deviation over draws. The "
            "trace is taken in data space (left) and in latent space (right), after "
            f"{size['steps']:,} steps of batch {BATCH_SIZE}. The paper's model is trained to "
            "convergence.",
            table.add_prefix("K = ").reset_index(),
            frame,
            _draw_distances(frame),
        )
    ]


def _draw_distances(frame: pd.DataFrame) -> Any:
    """Draws the distances against the number of vectors, an axis for each space."""
    figure = new_figure(10, 4.2)
    axes: Any = figure.subplots(1, 2)
    for axis, (space, group) in zip(axes, frame.groupby("space"), strict=True):
        lines = group.pivot_table("distance", "samples", "batch_size")
        lines.plot(
            ax=axis,
            yerr=group.pivot_table("std", "samples", "batch_size"),
            capsize=2,
            title=f"trace in {space} space",
        )
        axis.set_yscale("symlog", linthresh=0.1 if space == "data" else 0.01)
        axis.set(xlabel="Hutchinson samples K", ylim=(0, None))
    axes[0].set(ylabel="relative gradient distance", xscale="log")
    return figure


STUDY = Study(
    run_estimator, seeds=(1, 1), datasets=LABELLED_DATASETS, options=("latent_dim", "data")
)
