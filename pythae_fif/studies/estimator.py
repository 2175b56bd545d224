"""Figure 6: how noisy the gradient is, by the number of Hutchinson vectors."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pythae_fif import FIF
from pythae_fif.data import ImageDataset, to_float
from pythae_fif.data.load import ExpectedHashes, load
from pythae_fif.device import default_device
from pythae_fif.pictures import new_figure
from pythae_fif.runs.launch import OnChange
from pythae_fif.studies.spec import ProgressCallback, StudyReport, StudySpec, collect_results
from pythae_fif.studies.spectrum import build, plan_models
from pythae_fif.studies.study import StudyOptions
from pythae_fif.volume_change import sample_hutchinson, volume_surrogate
from pythae_fif.volume_change.loss import Map

SIZES: dict[str, dict[str, Any]] = {
    "quick": {"steps": 400, "repeats": 5, "batches": (1, 4, 16), "channel_multiplier": 0.25},
    "paper": {"steps": 50_000, "repeats": 20, "batches": (1, 16, 128), "channel_multiplier": 4.0},
}
BATCH, BETA = 100, 10.0
TANGENTS = 512  # Hutchinson vectors times data points in one pass
MAX_SAMPLES = 8 * TANGENTS  # cells of more are left out


@dataclass(frozen=True)
class GradientDistance:
    """Relative distance of the surrogate's gradient from the exact one (eq. 96), mean and standard
    deviation over draws, where the trace is taken in `latent` or `data` space, for so many data
    points and so many vectors for each."""

    space: str
    batch_size: int
    samples: int
    distance: float
    std: float


class TraceNoise(StudySpec):
    """A model of a data set, of which the hashes of images and labels are given.

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
        """Trains the model, and measures on test images."""
        splits = load(
            self.dataset, self.location, planned=ExpectedHashes(self.data_hash, self.labels_hash)
        )
        labels: Any = splits.labels
        data, classes = ImageDataset(splits.train, labels["train"]), int(splits.classes or 0)
        torch.manual_seed(self.seed)
        sizes = self.latent_dim, self.channel_multiplier
        model = build(splits.input_dim, classes, BETA, *sizes).to(default_device()).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for step in range(self.steps):
            batch = data.batch(torch.randint(len(data), (BATCH,)), default_device())
            optimizer.zero_grad()
            model(batch).loss.backward()
            optimizer.step()
            report_progress(step / self.steps / 2)
        images = to_float(splits.test, limit=max(self.batches))
        return self.distances(model.eval(), images, torch.from_numpy(labels["test"]))

    def distances(self, model: FIF, images: Tensor, labels: Tensor) -> list[GradientDistance]:
        """Of gradients by the encoder's parameters, of a conditional model in evaluation mode at
        images (N, C, H, W) with labels (N,), at least as many as the largest batch."""
        d, dim, rows = self.latent_dim, images[0].numel(), []
        generator = torch.Generator().manual_seed(self.seed)
        powers = [4**i for i in range(dim) if 4**i < dim]
        series = [("latent", d, [*range(1, d + 1)]), ("data", dim, [*powers, dim])]
        for batch in self.batches:
            given = model, images[:batch], labels[:batch]
            exact = _gradient(*given, sample_hutchinson(batch, d, d), "latent")
            for space, size, numbers in series:
                for k in (k for k in numbers if batch * k <= MAX_SAMPLES):
                    found = []
                    for _ in range(self.repeats):
                        eps = sample_hutchinson(batch, size, k, generator=generator)
                        difference = _gradient(*given, eps, space) - exact
                        found.append(float(difference.norm() / exact.norm()))
                    mean, std = float(np.mean(found)), float(np.std(found))
                    rows.append(GradientDistance(space, batch, k, mean, std))
        return rows


def in_data_space(encode: Map, decode: Map, x: Tensor, eps: Tensor) -> Tensor:
    """The volume term with the trace of g' f', D x D, of much higher variance (appendix D.1), (B,).

    Args:
        encode, decode, x: See :func:`~pythae_fif.volume_change.volume_surrogate`.
        eps: Hutchinson vectors in data space, one a point, (B, D).
    """
    x, vector = x.detach().requires_grad_(), eps.view_as(x)
    z = encode(x)
    (left,) = torch.autograd.grad(decode(z), z, vector, retain_graph=True)
    (pulled,) = torch.autograd.grad(z, x, left, create_graph=True)
    return -(pulled * vector).flatten(1).sum(1)


def _gradient(model: FIF, x: Tensor, labels: Tensor, eps: Tensor, space: str) -> Tensor:
    """The mean surrogate's gradient by the encoder's parameters, a few vectors at a time."""
    gradients, parameters = [], list(model.encoder.parameters())
    x, eps = (of.to(parameters[0].device) for of in (x, eps))
    for some in eps.split(max(1, TANGENTS // len(x))):
        points, vectors = x.repeat(len(some), *[1] * (x.dim() - 1)), some.flatten(0, 1)
        encode, decode = model.networks_at(*model.condition(labels.repeat(len(some)), points))
        if space == "latent":
            term = volume_surrogate(encode, decode, points, vectors[None]).surrogate
        else:
            term = in_data_space(encode, decode, points, vectors)
        loss = term.mean() * (len(some) / len(eps))
        found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        gradients.append(torch.cat([gradient.flatten() for gradient in found]))
    return torch.stack(gradients).sum(0)


def run_estimator(options: StudyOptions, on_change: OnChange) -> list[StudyReport]:
    """Trains a model a seed, and measures the distances of its gradients."""
    size, plan = SIZES[options.profile], plan_models(options)
    specs = [TraceNoise(**plan, seed=seed, **size) for seed in options.seeds]
    found = collect_results(specs, options, on_change)
    rows = pd.DataFrame([row for of_model in found for row in of_model])
    d = plan["latent_dim"]
    of_k = rows[rows.samples.isin([1, max(1, d // 2), d])]
    table = of_k.pivot_table("distance", ["space", "batch_size"], "samples")
    figure = new_figure(10, 4.2)
    axes: Any = figure.subplots(1, 2)
    for axis, (space, of) in zip(axes, rows.groupby("space"), strict=True):
        lines, bars = (of.pivot_table(y, "samples", "batch_size") for y in ("distance", "std"))
        lines.plot(ax=axis, yerr=bars, capsize=2, title=f"trace in {space} space")
        axis.set_yscale("symlog", linthresh=0.1 if space == "data" else 0.01)
        axis.set_ylim(bottom=0)
        axis.set(xlabel="Hutchinson samples K")
    axes[0].set(ylabel="relative gradient distance", xscale="log")
    finding = StudyReport(
        f"estimator-{options.dataset}-{options.profile}",
        "Figure 6: the noise of the trace estimator",
        "Relative distance of the surrogate's gradient from the exact one (eq. 96) against the "
        "number K of Hutchinson vectors, with one standard deviation over draws; the trace is in "
        f"data space (left), and in latent space (right). After {size['steps']:,} steps of batch "
        f"{BATCH}; the paper's model is trained to convergence.",
        table.add_prefix("K = ").reset_index(),
        rows,
        figure,
    )
    return [finding]
