"""Figure 6 and appendix D.3: how noisy the trace estimator is, and what the formulas say."""

__all__ = ["TraceNoise", "gradient_distances", "run"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pythae_fif import FIF, FIFConfig
from pythae_fif.data import ImageDataset, to_float
from pythae_fif.data.load import load, open_splits
from pythae_fif.device import default_device, fork_rng
from pythae_fif.models.condition import as_condition
from pythae_fif.nn import build_networks
from pythae_fif.pictures import new_figure
from pythae_fif.runs.launch import OnChange
from pythae_fif.studies.spec import StudySpec, Tell, results_of
from pythae_fif.studies.spectrum import LATENT_DIM, build
from pythae_fif.studies.study import Finding, StudyOptions
from pythae_fif.studies.surrogates import TraceSpace, surrogate
from pythae_fif.studies.trace import DRAWS, MATRIX_DIM, Variance, variances_of
from pythae_fif.validation import Checked
from pythae_fif.volume_change import sample_hutchinson
from pythae_fif.volume_change.hutchinson import HutchinsonKind


class Size(Checked):
    """How much is trained and drawn.

    Attributes:
        steps: Of training.
        repeats: Draws of Hutchinson vectors for every distance.
        batches: Batch sizes.
        channel_multiplier: Factor on the channels of table 11, of the conditional model.
    """

    steps: int
    repeats: int
    batches: tuple[int, ...]
    channel_multiplier: float = 4


SIZES = {
    "quick": Size(steps=400, repeats=5, batches=(1, 4, 16), channel_multiplier=0.25),
    "paper": Size(steps=50_000, repeats=20, batches=(1, 16, 128)),
}
BATCH, BETA = 100, 10.0
TANGENTS = 512  # Hutchinson vectors times data points in one pass


@dataclass(frozen=True)
class Distance:
    """Relative distance of gradients to the exact one (eq. 96), mean and spread over draws.

    Attributes:
        space: Where the trace is taken, ``latent`` or ``data``.
        kind, samples: Of the Hutchinson vectors.
        batch_size: Number of images.
        distance, std: Mean and standard deviation.
    """

    space: TraceSpace
    kind: HutchinsonKind
    batch_size: int
    samples: int
    distance: float
    std: float


def gradient_distances(
    model: FIF,
    images: Tensor,
    batches: Sequence[int],
    repeats: int,
    generator: torch.Generator,
    *,
    labels: Tensor | None = None,
    largest: int = TANGENTS * 8,
    tell: Tell = lambda share: None,
) -> list[Distance]:
    """Relative distance of surrogate gradients to the exact one (eq. 96), encoder parameters.

    Args:
        model: In evaluation mode.
        images: At least as many as the largest batch, (N, C, H, W).
        batches: Batch sizes.
        repeats: Draws of Hutchinson vectors a cell.
        generator: For them.
        labels: Of the images, for a conditional model, (N,).
        largest: Cells with more Hutchinson vectors times data points than this are left out.
        tell: Is told how far it is.
    """
    latent_dim, dim = model.latent_dim, images[0].numel()
    every = range(1, latent_dim + 1)
    powers = [*(4**i for i in range(dim) if 4**i < dim), dim]
    series: list[tuple[TraceSpace, HutchinsonKind, Sequence[int]]] = [
        ("latent", "orthogonal", every),
        ("latent", "scaled_gaussian", every),
        ("data", "orthogonal", powers),
    ]
    cells = [
        (space, kind, batch, k)
        for batch in batches
        for space, kind, numbers in series
        for k in numbers
        if batch * k <= largest and (kind == "orthogonal" or batch == min(batches))
    ]

    def gradient(batch: int, eps: Tensor, space: TraceSpace) -> Tensor:
        some = None if labels is None else labels[:batch]
        return _gradient(model, images[:batch], some, eps, space)

    exact = {
        batch: gradient(batch, sample_hutchinson(batch, latent_dim, latent_dim), "latent")
        for batch in batches
    }
    rows = []
    for done, (space, kind, batch, k) in enumerate(cells):
        tell(done / len(cells))
        size = latent_dim if space == "latent" else dim
        distances = []
        for _ in range(repeats):
            eps = sample_hutchinson(batch, size, k, kind=kind, generator=generator)
            found = gradient(batch, eps, space)
            distances.append(float((found - exact[batch]).norm() / exact[batch].norm()))
        mean, std = float(np.mean(distances)), float(np.std(distances))
        rows.append(Distance(space, kind, batch, k, mean, std))
    return rows


def _gradient(
    model: FIF, x: Tensor, labels: Tensor | None, eps: Tensor, space: TraceSpace
) -> Tensor:
    """Gradient of the mean surrogate by all encoder parameters, a few vectors at a time."""
    gradients = []
    parameters = list(model.encoder.parameters())
    x, eps = x.to(parameters[0].device), eps.to(parameters[0].device)
    condition = as_condition(labels, model.condition_dim, x)
    encode, decode = model.networks_at(condition)
    for some in torch.split(eps, max(1, TANGENTS // len(x))):
        out = surrogate(encode, decode, x, some, trace_space=space)
        loss = out.surrogate.mean() * (len(some) / len(eps))
        found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        gradients.append(torch.cat([gradient.flatten() for gradient in found]))
    return sum(gradients[1:], gradients[0])


def _trained(
    images: np.ndarray,
    labels: np.ndarray | None,
    latent_dim: int,
    size: Size,
    seed: int,
    tell: Tell = lambda share: None,
) -> FIF:
    """With labels a conditional model, as the paper's, of table 11; else Pythae's ResNet."""
    shape, data = images.shape[1:], ImageDataset(images, labels)
    with fork_rng():
        torch.manual_seed(seed)
        if labels is None:
            config = FIFConfig(input_dim=shape, latent_dim=latent_dim, beta=BETA)
            model = FIF(config, *build_networks("resnet", shape, latent_dim))
        else:
            classes = int(labels.max()) + 1
            model = build(shape, classes, BETA, latent_dim, size.channel_multiplier)
        model.to(default_device()).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for step in range(size.steps):
            batch = data.batch(torch.randint(len(data), (BATCH,)), default_device())
            optimizer.zero_grad()
            model(batch).loss.backward()
            optimizer.step()
            tell(step / size.steps)
    model.eval()
    return model


@dataclass(frozen=True)
class Measured:
    """What was measured on a model, which has so many classes and parameters."""

    distances: list[Distance]
    variances: list[Variance]
    classes: int
    parameters: int


class TraceNoise(StudySpec):
    """A model of a data set, of which the hashes of images and labels are given."""

    kind: ClassVar[str] = "estimator"
    result: ClassVar[Any] = Measured

    dataset: str
    latent_dim: int
    seed: int
    size: Size
    data_hash: str
    labels_hash: str | None = None

    @property
    def title(self) -> str:
        """The data set."""
        return f"a model of {self.dataset}"

    def compute(self, tell: Tell) -> Measured:
        """Trains it, measures and simulates."""
        size, seed = self.size, self.seed
        splits = open_splits(self.data_hash, self.labels_hash, self.dataset, self.where)
        labels = splits.labels if self.labels_hash else None
        model = _trained(
            splits.train,
            None if labels is None else labels["train"],
            self.latent_dim,
            size,
            seed,
            lambda share: tell(share / 2),
        )
        distances = gradient_distances(
            model,
            to_float(splits.test, limit=max(size.batches)),
            size.batches,
            size.repeats,
            torch.Generator().manual_seed(seed),
            labels=None if labels is None else torch.from_numpy(labels["test"]),
            tell=lambda share: tell(0.5 + share / 2),
        )
        parameters = sum(parameter.numel() for parameter in model.parameters())
        return Measured(distances, variances_of(seed), model.condition_dim, parameters)


def run(options: StudyOptions, on_change: OnChange) -> list[Finding]:
    """Trains a model, measures and simulates; distances of gradients and variances of traces."""
    assert options.dataset is not None  # `run_study` has chosen
    (seed,), dataset, size = options.seeds, options.dataset, SIZES[options.profile]
    splits = load(dataset, options.where)
    latent_dim = LATENT_DIM if options.latent_dim is None else options.latent_dim
    spec = TraceNoise(
        dataset=dataset,
        latent_dim=latent_dim,
        seed=seed,
        size=size,
        data_hash=splits.content_hash,
        labels_hash=splits.labels_hash,
        where=options.where,
    )
    found: Measured
    (found,) = results_of([spec], options, on_change)
    distances = pd.DataFrame(map(vars, found.distances))
    variances = pd.DataFrame(map(vars, found.variances))
    name = f"estimator-{dataset}-{options.profile}"
    name += "" if latent_dim == LATENT_DIM else f"-d{latent_dim}"
    kind = f"conditional on its {found.classes} classes" if found.classes else "unconditional"
    columns = ["space", "kind", "batch_size"]
    of_k = distances[distances.samples.isin([1, max(1, latent_dim // 2), latent_dim])]
    figure = _figure(distances, variances)
    return [
        Finding(
            name,
            "Figure 6 and appendix D.3: the noise of the trace estimator",
            "Left and middle: relative distance of the surrogate's gradient from the exact one (eq."
            " 96) against the number K of Hutchinson vectors, with one standard deviation over "
            "draws. Right: variance of the trace of a random matrix against equations 100, 101, "
            "105, 121 and 122.",
            of_k.pivot_table("distance", columns, "samples").add_prefix("K = ").reset_index(),
            distances,
            figure,
            [
                f"{dataset}, d = {latent_dim}, {kind}, {found.parameters:,} parameters, "
                f"{size.steps:,} steps of batch {BATCH}; {size.repeats} draws a point. The paper's "
                "model is of conditional MNIST and trained to convergence, which these steps may "
                "not reach."
            ],
        ),
        Finding(
            f"{name}-variance",
            "Appendix D.3: the variance of the trace of a random matrix",
            f"From {DRAWS:,} draws, and by the paper's equations.",
            variances.assign(ratio=variances.simulated / variances.formula),
            variances,
        ),
    ]


def _figure(distances: pd.DataFrame, variances: pd.DataFrame) -> Any:
    figure = new_figure(14, 4.2)
    axes: Any = figure.subplots(1, 3)
    for axis, space in zip(axes, ("data", "latent"), strict=False):
        mine = distances[distances.space == space]
        for (kind, batch), line in mine.groupby(["kind", "batch_size"]):
            axis.errorbar(
                line.samples,
                line.distance,
                line["std"],
                ls="-" if kind == "orthogonal" else "--",
                capsize=2,
                label=f"batch {batch}" + ("" if kind == "orthogonal" else ", not orthogonal"),
            )
        axis.set(title=f"trace in {space} space", xlabel="Hutchinson samples K")
        axis.legend(fontsize=8)
    axes[0].set(ylabel="relative gradient distance", xscale="log")
    axes[0].set_yscale("symlog", linthresh=0.1)
    axes[1].set_yscale("symlog", linthresh=0.01)
    for axis in axes[:2]:
        axis.set_ylim(bottom=0)
    for colour, of in enumerate(("orthogonal", "scaled_gaussian", "rademacher", "gaussian")):
        mine = variances[variances.kind == of]
        style = {"color": f"C{colour}", "mfc": "none"}
        dot = "o" if len(mine) == 1 else ""
        axes[2].plot(mine.samples, mine.formula, marker=dot, label=f"{of}, formula", **style)
        axes[2].plot(mine.samples, mine.simulated, "x", label="simulated", **style)
    axes[2].set(
        yscale="log",
        xlabel="Hutchinson samples K",
        title=f"variance of the trace, d = {MATRIX_DIM}",
    )
    axes[2].legend(fontsize=8)
    return figure
