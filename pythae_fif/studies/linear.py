"""Appendix C: the directions that a linear free-form injective flow picks, against theorem C.4."""

__all__ = ["LinearModels", "overlap", "run", "train_linear"]

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pythae_fif.pictures import new_figure
from pythae_fif.runs.launch import OnChange
from pythae_fif.studies.spec import StudySpec, Tell, results_of
from pythae_fif.studies.study import Finding, StudyOptions
from pythae_fif.validation import Checked
from pythae_fif.volume_change import fif_loss, sample_hutchinson

DIM, LATENT = 5, 2
SPECTRA = 10
REGIMES = ("below", "between 1", "between 2", "between 3", "above")
"""Where beta lies among 1/(2 lambda) of the covariance's eigenvalues, the largest one's first."""
DECODERS = ("pseudo-inverse", "free")
AGREEMENT = 0.95  # of an overlap, from which two subspaces are counted as the same


class Size(Checked):
    """Restarts of every model, and their steps and batches."""

    restarts: int
    steps: int
    batch_size: int


SIZES = {
    "quick": Size(restarts=16, steps=600, batch_size=64),
    "paper": Size(restarts=30, steps=3000, batch_size=256),
}


@dataclass(frozen=True)
class Row:
    """The best restart of one model.

    Attributes:
        decoder: One of `DECODERS`.
        spectrum: Number of the covariance.
        regime: One of `REGIMES`.
        beta: Reconstruction weight.
        eigenvalue: Those of the covariance, in descending order.
        theorem: Numbers of those that theorem C.4 takes.
        weight: Share of each eigenvector in the learnt subspace.
        overlap_theorem, overlap_pca: Of the learnt subspace with the theorem's and with PCA's.
        loss_above_theorem: Eq. 53, above that of the theorem's optimum.
    """

    decoder: str
    spectrum: int
    regime: str
    beta: float
    eigenvalue: tuple[float, ...]
    theorem: tuple[int, ...]
    weight: tuple[float, ...]
    overlap_theorem: float
    overlap_pca: float
    loss_above_theorem: float


def random_spectra(count: int, generator: torch.Generator) -> Tensor:
    """Eigenvalues (count, D) in descending order, neighbours apart by a factor of 1.5 to 3."""
    factors = 1.5 + 1.5 * torch.rand(count, DIM, generator=generator, dtype=torch.float64)
    return factors.log().cumsum(1).exp().flip(1) / 8


def beta_of(spectrum: Tensor, regime: str) -> float:
    """A beta in the named place among 1/(2 lambda) of a spectrum."""
    if regime == "below":
        return 0.25 / float(spectrum[0])  # 1/(2 beta) is twice the largest eigenvalue
    if regime == "above":
        return 1.0 / float(spectrum[-1])  # half the smallest
    position = int(regime.split()[1])
    return 0.5 / math.sqrt(float(spectrum[position - 1] * spectrum[position]))


def theorem_choice(spectrum: Tensor, beta: float) -> list[int]:
    """Indices of the eigenvalues with the smallest log(lambda) - 2 beta lambda (eq. 83)."""
    chosen = (spectrum.log() - 2 * beta * spectrum).argsort()[:LATENT]
    return [int(index) for index in chosen.sort().values]


def overlap(encoders: Tensor, directions: Tensor) -> Tensor:
    """Share of an encoder's row space in a span: tr(A^+ A P) / d, (M,), 1 where they agree.

    Args:
        encoders: (M, d, D).
        directions: Orthonormal columns, (M, D, d).
    """
    rows = torch.linalg.qr(encoders.mT).Q
    shared: Tensor = (rows.mT @ directions).square().sum((1, 2))
    return shared / encoders.shape[1]


def linear_loss(encoders: Tensor, covariance: Tensor, betas: Tensor) -> Tensor:
    """Eq. 53 with beta for 1/(2 sigma^2), (M,), of encoders (M, d, D) with tied decoders."""
    gram = encoders @ encoders.mT
    projection = encoders.mT @ torch.linalg.solve(gram, encoders)
    energy = torch.einsum("mij,mjk,mik->m", encoders, covariance, encoders)
    lost = covariance.diagonal(dim1=1, dim2=2).sum(1) - (covariance * projection).sum((1, 2))
    loss: Tensor = energy / 2 - torch.logdet(gram) / 2 + betas * lost
    return loss


def train_linear(
    spectra: Tensor,
    bases: Tensor,
    betas: Tensor,
    *,
    start: Tensor,
    tied: bool,
    size: Size,
    generator: torch.Generator,
    tell: Tell,
) -> Tensor:
    """Trains M linear models by FIF's loss on fresh Gaussian data, one Hutchinson vector each.

    Args:
        spectra: Eigenvalues of the covariances, (M, D).
        bases: Their eigenvectors as columns, (M, D, D).
        betas: (M,).
        start: The encoders' matrices at the start, (M, d, D).
        tied: Decoder A^+ of the encoder's matrix A, as in appendix C; else a matrix of its own.
        size: Steps of Adam, with a learning rate that falls to zero, and data points a step.
        generator: For data and Hutchinson vectors.
        tell: Is told the share of the steps that is done.

    Returns:
        The encoders' matrices A, (M, d, D).
    """
    members, latent_dim, dim = start.shape
    options: dict[str, Any] = {"generator": generator, "dtype": start.dtype}
    a = start.clone().requires_grad_()
    w = torch.linalg.pinv(a.detach()).clone().requires_grad_()
    scale = (bases * spectra.sqrt()[:, None]).mT
    optimizer = torch.optim.Adam([a, w], lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, size.steps)
    points = size.batch_size
    for step in range(size.steps):
        tell(step / size.steps)
        x = torch.randn(members, points, dim, **options) @ scale
        eps = sample_hutchinson(members * points, latent_dim, **options)
        decoder = a.mT @ torch.linalg.inv(a @ a.mT) if tied else w
        loss = fif_loss(
            lambda x: x @ a.mT,
            lambda z: z @ decoder.mT,  # noqa: B023
            lambda z: -z.square().sum(-1) / 2,
            x,
            eps.view(1, members, points, latent_dim),
            betas,
            reduce=lambda of_samples: of_samples.sum(1),
        )
        optimizer.zero_grad()
        torch.autograd.backward(loss.loss.sum() / points)
        optimizer.step()
        schedule.step()
    return a.detach()


class LinearModels(StudySpec):
    """All models with one of `DECODERS`."""

    kind: ClassVar[str] = "linear"
    result: ClassVar[Any] = list[Row]
    on_cpu: ClassVar[bool] = True

    decoder: str
    size: Size
    seed: int

    @property
    def title(self) -> str:
        """Its decoder."""
        return f"models with a {self.decoder} decoder"

    def compute(self, tell: Tell) -> list[Row]:
        """The best of several restarts, by eq. 53, for ten spectra in every regime.

        Gradient descent has local optima between the two extremes, since
        log(lambda) - 2 beta lambda is concave; theorem C.4 is about the lowest. The restarts
        therefore lean towards either end of the spectrum: they are random matrices times powers
        of the covariance from -1 to 1.
        """
        size, generator = self.size, torch.Generator().manual_seed(self.seed)
        spectra = random_spectra(SPECTRA, generator)
        cells = list(product(range(SPECTRA), REGIMES))
        each = torch.tensor([index for index, _ in cells for _ in range(size.restarts)])
        betas = torch.tensor(
            [beta_of(spectra[i], r) for i, r in cells for _ in range(size.restarts)],
            dtype=torch.float64,
        )
        bases = torch.linalg.qr(
            torch.randn(SPECTRA, DIM, DIM, generator=generator, dtype=torch.float64)
        ).Q
        covariance = bases[each] * spectra[each][:, None] @ bases[each].mT
        powers = torch.linspace(-1, 1, size.restarts, dtype=torch.float64).repeat(len(cells))
        start = torch.randn(len(each), LATENT, DIM, generator=generator, dtype=torch.float64)
        start = start @ (bases[each] * spectra[each].pow(powers[:, None])[:, None]).mT
        start = start / torch.linalg.vector_norm(start, dim=(1, 2), keepdim=True)
        encoders = train_linear(
            spectra[each],
            bases[each],
            betas,
            start=start,
            tied=self.decoder == "pseudo-inverse",
            size=size,
            generator=generator,
            tell=tell,
        )
        losses = linear_loss(encoders, covariance, betas).view(len(cells), -1)
        found = losses.where(losses.isfinite(), math.inf).argmin(1)
        best = found + torch.arange(len(cells)) * size.restarts
        rows = []
        for (index, regime), member in zip(cells, best.tolist(), strict=True):
            spectrum, beta = spectra[index], float(betas[member])
            chosen = theorem_choice(spectrum, beta)
            mine = encoders[member : member + 1]
            weights = torch.linalg.qr(mine[0].mT).Q.mT @ bases[index]
            optimum = (bases[index][:, chosen] / spectrum[chosen].sqrt()).mT[None]  # lemma C.3
            rows.append(
                Row(
                    decoder=self.decoder,
                    spectrum=index,
                    regime=regime,
                    beta=beta,
                    eigenvalue=tuple(map(float, spectrum)),
                    theorem=tuple(chosen),
                    weight=tuple(map(float, weights.square().sum(0))),
                    overlap_theorem=float(overlap(mine, bases[index][None, :, chosen])),
                    overlap_pca=float(overlap(mine, bases[index][None, :, :LATENT])),
                    loss_above_theorem=float(
                        losses.flatten()[member]
                        - linear_loss(optimum, covariance[member][None], betas[member][None])
                    ),
                )
            )
        return rows


def run(options: StudyOptions, on_change: OnChange) -> list[Finding]:
    """Trains all models; a figure, and shares of the models that agree with theorem and PCA."""
    (seed,), size = options.seeds, SIZES[options.profile]
    specs = [LinearModels(decoder=decoder, size=size, seed=seed) for decoder in DECODERS]
    rows = [row for of in results_of(specs, options, on_change) for row in of]
    frame = pd.DataFrame(map(_values, rows))
    groups = frame.assign(
        agrees_with_theorem=frame.overlap_theorem > AGREEMENT,
        agrees_with_pca=frame.overlap_pca > AGREEMENT,
    ).groupby(["decoder", "regime"], sort=False)
    table = groups.agg(
        models=("beta", "size"),
        agree_with_theorem=("agrees_with_theorem", "sum"),
        agree_with_pca=("agrees_with_pca", "sum"),
        smallest_overlap_theorem=("overlap_theorem", "min"),
        largest_loss_above_theorem=("loss_above_theorem", "max"),
    )
    caption = (
        "Left: the criterion of theorem C.4, and the share of each direction that a model with the "
        "pseudo-inverse as decoder learns. Right: overlaps of the learnt subspace, the best (eq. "
        f"53) of {size.restarts} restarts, with the theorem's choice and with PCA's; with a free "
        "decoder likelihood does not move the subspace, and reconstruction alone does."
    )
    return [
        Finding(
            f"linear-{options.profile}",
            "Appendix C: which directions a linear model picks",
            caption,
            table.reset_index(),
            frame,
            _figure(rows),
            [f"A model agrees from an overlap of {AGREEMENT:g} on."],
        )
    ]


def _values(row: Row) -> dict[str, Any]:
    """A row with a column for each eigenvalue and share."""
    values = {k: v for k, v in asdict(row).items() if k not in ("eigenvalue", "weight", "theorem")}
    values["theorem"] = " ".join(map(str, row.theorem))
    values |= {f"eigenvalue_{i}": value for i, value in enumerate(row.eigenvalue)}
    return values | {f"weight_{i}": value for i, value in enumerate(row.weight)}


def _figure(rows: Sequence[Row]) -> Any:
    figure = new_figure(11, 4.2)
    axes: Any = figure.subplots(1, 3, width_ratios=[1, 1, 1.1])
    for axis, regime in zip(axes[:2], ("below", "between 2"), strict=True):
        row = next(r for r in rows if r.regime == regime and r.decoder == "pseudo-inverse")
        spectrum = np.array(row.eigenvalue)
        lines = np.geomspace(spectrum.min() / 2, spectrum.max() * 1.5, 200)
        scale = 2 * row.beta
        axis.plot(lines, np.log(lines) - scale * lines, color="0.6", zorder=0)
        height = np.log(spectrum) - scale * spectrum
        dots = axis.scatter(
            spectrum, height, c=row.weight, cmap="viridis", vmin=0, vmax=1, s=90, edgecolor="k"
        )
        picked = list(row.theorem)
        axis.scatter(spectrum[picked], height[picked], s=260, facecolor="none", edgecolor="tab:red")
        axis.set(
            xscale="log", title=f"beta = {row.beta:.3g}", xlabel="eigenvalue $\\lambda$ of the data"
        )
    axes[0].set_ylabel("$\\log\\lambda - 2\\beta\\lambda$ (smallest are optimal; red: theorem)")
    figure.colorbar(dots, ax=axes[1], label="share of the direction in the learnt subspace")
    for decoder, marker, shift in (("pseudo-inverse", "o", -0.16), ("free", "x", 0.16)):
        for position, regime in enumerate(REGIMES):
            mine = [r for r in rows if (r.decoder, r.regime) == (decoder, regime)]
            for key, colour, side in (
                ("overlap_theorem", "tab:red", -0.08), ("overlap_pca", "tab:blue", 0.08),
            ):  # fmt: skip
                values = [getattr(r, key) for r in mine]
                label = f"{'theorem' if 'theorem' in key else 'PCA'}, {decoder} decoder"
                axes[2].plot(
                    [position + shift + side] * len(values),
                    values,
                    marker,
                    color=colour,
                    alpha=0.6,
                    label=label if position == 0 else None,
                )
    axes[2].set_xticks(range(len(REGIMES)), REGIMES, rotation=30)
    axes[2].set(
        xlabel="$\\beta$ against $1/2\\lambda$ of the eigenvalues",
        ylabel="overlap of the learnt subspace",
    )
    axes[2].legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    return figure
