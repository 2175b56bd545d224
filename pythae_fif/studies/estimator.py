"""Figure 6 and appendix D.3: how noisy the trace estimator is, and what the formulas say."""

__all__ = ["TraceNoise", "run", "simulated_variance", "variance_formula"]

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pythae_fif import FIF
from pythae_fif.data import ImageDataset, to_float
from pythae_fif.data.load import load
from pythae_fif.device import default_device, fork_rng
from pythae_fif.models.outputs import as_condition
from pythae_fif.pictures import new_figure
from pythae_fif.runs.launch import OnChange
from pythae_fif.studies.spec import Finding, StudySpec, Tell, results_of
from pythae_fif.studies.spectrum import build, planned
from pythae_fif.studies.study import StudyOptions
from pythae_fif.studies.surrogates import surrogate
from pythae_fif.volume_change import sample_hutchinson
from pythae_fif.volume_change.hutchinson import HutchinsonKind

SIZES: dict[str, Any] = {
    "quick": {"steps": 400, "repeats": 5, "batches": (1, 4, 16), "channel_multiplier": 0.25},
    "paper": {"steps": 50_000, "repeats": 20, "batches": (1, 16, 128), "channel_multiplier": 4.0},
}
BATCH, BETA = 100, 10.0
TANGENTS = 512  # Hutchinson vectors times data points in one pass
LARGEST = 8 * TANGENTS  # cells of more are left out
MATRIX_DIM, DRAWS = 16, 100_000
VARIANCES: tuple[tuple[HutchinsonKind, tuple[int, ...]], ...] = (
    ("rademacher", (1,)),
    ("gaussian", (1,)),
    ("scaled_gaussian", (1, 2, 4, 8, 12, 15)),
    ("orthogonal", (1, 2, 4, 8, 12, 15)),
)


def variance_formula(matrix: Tensor, kind: HutchinsonKind, samples: int = 1) -> float:
    """Variance of the estimate of a trace from K Hutchinson vectors: eqs. 100, 101, 105, 121, 122.

    Args:
        matrix: A, (d, d); its symmetric part counts.
        kind: A kind of :func:`~pythae_fif.volume_change.sample_hutchinson`.
        samples: K.
    """
    symmetric, d = (matrix + matrix.T) / 2, len(matrix)
    total = float(symmetric.square().sum())
    if kind == "rademacher":  # eq. 100
        return 2 * (total - float(symmetric.diagonal().square().sum())) / samples
    if kind == "gaussian":  # eq. 101
        return 2 * total / samples
    spread = float(torch.linalg.eigvalsh(symmetric).var(correction=0))
    one = 2 * d**2 / (d + 2) * spread  # eq. 105
    if kind == "scaled_gaussian":
        return one / samples  # eq. 122
    return one * (d - samples) / (samples * (d - 1))  # eq. 121


def simulated_variance(
    matrix: Tensor, kind: HutchinsonKind, samples: int, draws: int, generator: torch.Generator
) -> float:
    """The same variance from that many independent estimates."""
    eps = sample_hutchinson(
        draws, len(matrix), samples, kind=kind, generator=generator, dtype=matrix.dtype
    )
    return float(((eps @ matrix) * eps).sum(-1).mean(0).var())


class TraceNoise(StudySpec):
    """A model of a data set, of which the hashes of images and labels are given.

    Attributes:
        steps: Of training.
        repeats: Draws of Hutchinson vectors for every distance.
        batches: Batch sizes.
        channel_multiplier: Factor on the channels of table 11.
    """

    kind: ClassVar[str] = "estimator"

    dataset: str
    latent_dim: int
    seed: int
    steps: int
    repeats: int
    batches: tuple[int, ...]
    channel_multiplier: float
    data_hash: str
    labels_hash: str

    def compute(self, tell: Tell) -> dict[str, Any]:
        """Trains it, measures and simulates.

        Returns:
            Rows of `distances`, see :meth:`distances`, and of `variances`, of a random matrix.
        """
        splits = load(self.dataset, self.where, planned=(self.data_hash, self.labels_hash))
        labels: Any = splits.labels
        data, classes = ImageDataset(splits.train, labels["train"]), int(splits.classes or 0)
        with fork_rng():
            torch.manual_seed(self.seed)
            sizes = self.latent_dim, self.channel_multiplier
            model = build(splits.input_dim, classes, BETA, *sizes).to(default_device()).train()
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
            for step in range(self.steps):
                batch = data.batch(torch.randint(len(data), (BATCH,)), default_device())
                optimizer.zero_grad()
                model(batch).loss.backward()
                optimizer.step()
                tell(step / self.steps / 2)
        generator = torch.Generator().manual_seed(self.seed)
        matrix = torch.randn(MATRIX_DIM, MATRIX_DIM, generator=generator, dtype=torch.float64)
        variances = [
            {
                "kind": kind,
                "samples": k,
                "formula": variance_formula(matrix, kind, k),
                "simulated": simulated_variance(matrix, kind, k, DRAWS, generator),
            }
            for kind, numbers in VARIANCES
            for k in numbers
        ]
        images = to_float(splits.test, limit=max(self.batches))
        distances = self.distances(model.eval(), images, torch.from_numpy(labels["test"]))
        return {"distances": distances, "variances": variances}

    def distances(self, model: FIF, images: Tensor, labels: Tensor) -> list[dict[str, Any]]:
        """Relative distance of surrogate gradients to the exact one (eq. 96), encoder parameters.

        Args:
            model: Conditional on classes, in evaluation mode.
            images, labels: At least as many as the largest batch, (N, C, H, W) and (N,).
        """
        d, dim, rows = self.latent_dim, images[0].numel(), []
        generator = torch.Generator().manual_seed(self.seed)
        series: list[tuple[str, int, HutchinsonKind, Sequence[int]]] = [
            ("latent", d, "orthogonal", range(1, d + 1)),
            ("latent", d, "scaled_gaussian", range(1, d + 1)),
            ("data", dim, "orthogonal", [*(4**i for i in range(dim) if 4**i < dim), dim]),
        ]
        for batch in self.batches:
            given = model, images[:batch], labels[:batch]
            exact = _gradient(*given, sample_hutchinson(batch, d, d), "latent")
            for space, size, kind, numbers in series:
                if kind != "orthogonal" and batch > min(self.batches):
                    continue
                for k in (k for k in numbers if batch * k <= LARGEST):
                    found = []
                    for _ in range(self.repeats):
                        eps = sample_hutchinson(batch, size, k, kind=kind, generator=generator)
                        difference = _gradient(*given, eps, space) - exact
                        found.append(float(difference.norm() / exact.norm()))
                    row = {"space": space, "kind": kind, "batch_size": batch, "samples": k}
                    mean, std = float(np.mean(found)), float(np.std(found))
                    rows.append({**row, "distance": mean, "std": std})
        return rows


def _gradient(model: FIF, x: Tensor, labels: Tensor, eps: Tensor, space: Any) -> Tensor:
    """Gradient of the mean surrogate by all encoder parameters, a few vectors at a time."""
    gradients = []
    parameters = list(model.encoder.parameters())
    x, eps = x.to(parameters[0].device), eps.to(parameters[0].device)
    encode, decode = model.networks_at(as_condition(labels, model.condition_dim, x))
    for some in torch.split(eps, max(1, TANGENTS // len(x))):
        out = surrogate(encode, decode, x, some, trace_space=space)
        loss = out.surrogate.mean() * (len(some) / len(eps))
        found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        gradients.append(torch.cat([gradient.flatten() for gradient in found]))
    return sum(gradients[1:], gradients[0])


def run(options: StudyOptions, on_change: OnChange) -> list[Finding]:
    """Trains a model, measures and simulates; distances of gradients and variances of traces."""
    (seed,), size = options.seeds, SIZES[options.profile]
    spec = TraceNoise(**planned(options), seed=seed, **size)
    (found,) = results_of([spec], options, on_change)
    distances, variances = (pd.DataFrame(found[of]) for of in ("distances", "variances"))
    name, d = f"estimator-{options.dataset}-{options.profile}", spec.latent_dim
    of_k = distances[distances.samples.isin([1, max(1, d // 2), d])]
    table = of_k.pivot_table("distance", ["space", "kind", "batch_size"], "samples")
    figure = new_figure(10, 4.2)
    axes: Any = figure.subplots(1, 2)
    for axis, space, linear in zip(axes, ("data", "latent"), (0.1, 0.01), strict=True):
        lines = distances[distances.space == space].groupby(["kind", "batch_size"])
        for (kind, batch), line in lines:
            label = f"batch {batch}" + ("" if kind == "orthogonal" else ", not orthogonal")
            axis.errorbar(line.samples, line.distance, line["std"], capsize=2, label=label)
        axis.set_yscale("symlog", linthresh=linear)
        axis.set_ylim(bottom=0)
        axis.set(title=f"trace in {space} space", xlabel="Hutchinson samples K")
        axis.legend(fontsize=8)
    axes[0].set(ylabel="relative gradient distance", xscale="log")
    return [
        Finding(
            name,
            "Figure 6: the noise of the trace estimator",
            "Relative distance of the surrogate's gradient from the exact one (eq. 96) against the "
            "number K of Hutchinson vectors, with one standard deviation over draws. Trace in data "
            "space (left), and in latent space (right).",
            table.add_prefix("K = ").reset_index(),
            distances,
            figure,
            [
                f"{options.dataset}, d = {d}, {spec.steps:,} steps of batch {BATCH}, "
                f"{spec.repeats} draws a point; the paper's model is trained to convergence."
            ],
        ),
        Finding(
            f"{name}-variance",
            "Appendix D.3: the variance of the trace of a random matrix",
            f"From {DRAWS:,} draws, and by equations 100, 101, 105, 121 and 122.",
            variances.assign(ratio=variances.simulated / variances.formula),
        ),
    ]
