"""Appendix C: the directions that a linear free-form injective flow picks, against theorem C.4."""

__all__ = ["Part", "overlap", "run", "train_linear"]

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pythae_fif.pictures import new_figure
from pythae_fif.runs.kind import Environment
from pythae_fif.studies import OnProgress, StudyOptions
from pythae_fif.studies.output import Drawing, write_study
from pythae_fif.studies.parts import Tell, results_of
from pythae_fif.volume_change import fif_loss, sample_hutchinson

DIM, LATENT = 5, 2
SPECTRA = 10
REGIMES = ("below", "between 1", "between 2", "between 3", "above")
"""Where beta lies among 1/(2 lambda) of the covariance's eigenvalues, the largest one's first."""
DECODERS = ("pseudo-inverse", "free")
AGREEMENT = 0.95  # of an overlap, from which two subspaces are counted as the same


@dataclass(frozen=True)
class Size:
    """Restarts of every model, and their steps and batches."""

    restarts: int
    steps: int
    batch_size: int


SIZES = {"quick": Size(16, 600, 64), "paper": Size(30, 3000, 256)}


@dataclass(frozen=True)
class Row:
    """The best restart of one model.

    Attributes:
        decoder: One of `DECODERS`.
        spectrum: Number of the covariance.
        regime: One of `REGIMES`.
        beta: Reconstruction weight.
        eigenvalue: Those of the covariance, in descending order.
        theorem: Numbers of those that theorem C.4 takes, with spaces between.
        weight: Share of each eigenvector in the learnt subspace.
        overlap_theorem, overlap_pca: Of the learnt subspace with the theorem's and with PCA's.
        loss_above_theorem: Eq. 53, above that of the theorem's optimum.
    """

    decoder: str
    spectrum: int
    regime: str
    beta: float
    eigenvalue: tuple[float, ...]
    theorem: str
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


@dataclass(frozen=True)
class Part:
    """All models with one of `DECODERS`."""

    device: ClassVar[str] = "cpu"

    decoder: str
    size: Size
    seed: int

    def compute(self, tell: Tell, where: Environment) -> list[Row]:
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
                    theorem=" ".join(map(str, chosen)),
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


def run(options: StudyOptions, on_progress: OnProgress) -> list[Path]:
    """Trains, and writes the figure, its caption and the CSV file."""
    (seed,), size = options.seeds, SIZES[options.profile]
    parts = {f"models with a {decoder} decoder": Part(decoder, size, seed) for decoder in DECODERS}
    rows = [row for of in results_of(parts, options, on_progress).values() for row in of]
    name = f"linear-{options.profile}"
    title = "Appendix C: which directions a linear model picks"
    drawing = Drawing(name, _figure(rows), title, _caption(rows, size))
    return write_study(options, [drawing], {name: rows})


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
        picked = [int(i) for i in row.theorem.split()]
        axis.scatter(spectrum[picked], height[picked], s=260, facecolor="none", edgecolor="tab:red")
        axis.set_xscale("log")
        axis.set_title(f"beta = {row.beta:.3g}")
        axis.set_xlabel("eigenvalue $\\lambda$ of the data")
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
    axes[2].set_xlabel("$\\beta$ against $1/2\\lambda$ of the eigenvalues")
    axes[2].set_ylabel("overlap of the learnt subspace")
    axes[2].legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    return figure


def _caption(rows: Sequence[Row], size: Size) -> str:
    tied, free = ([row for row in rows if row.decoder == decoder] for decoder in DECODERS)
    agree = sum(row.overlap_theorem > AGREEMENT for row in tied)
    worst = min(row.overlap_theorem for row in tied)
    small = [row for row in free if row.theorem == f"{DIM - 2} {DIM - 1}"]
    free_theorem = sum(row.overlap_theorem > AGREEMENT for row in small)
    rest = [row for row in free if row not in small]
    free_pca = sum(row.overlap_pca > AGREEMENT for row in rest)
    return f"""
    Linear models with D = {DIM} and d = {LATENT}, trained by FIF's stochastic loss on {SPECTRA}
    random spectra in {len(REGIMES)} regimes of beta, the best (eq. 53) of {size.restarts} restarts
    of {size.steps} steps. Left: the criterion of theorem C.4 and the learnt share of each
    direction. Right: with the pseudo-inverse as decoder, which the theorem is about, {agree} of
    {len(tied)} end on its subspace (overlap above {AGREEMENT:g}; smallest {worst:.3f}). A free
    decoder, which FIF trains, does so in {free_theorem} of the {len(small)} cases in which that is
    the smallest eigenvalues; in {free_pca} of the {len(rest)} others its subspace is PCA's. There
    the gradients of -log p(z) and of the surrogate cancel whatever the subspace, and only the
    reconstruction moves it.
    """
