"""Appendix C: the directions that a linear free-form injective flow picks, against theorem C.4."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor

from pythae_fif.pictures import new_figure
from pythae_fif.runs.launch import OnChange
from pythae_fif.studies.spec import ProgressCallback, StudyReport, StudySpec, collect_results
from pythae_fif.studies.study import StudyOptions
from pythae_fif.volume_change import fif_loss, sample_hutchinson

DIM, LATENT = 5, 2
SPECTRA = 10
REGIMES = ("below", "between 1", "between 2", "between 3", "above")
"""Where beta lies among 1/(2 lambda) of the covariance's eigenvalues, the largest one's first."""
AGREEMENT = 0.95  # of an overlap, from which two subspaces are counted as the same
SIZES: dict[str, dict[str, Any]] = {
    "quick": {"restarts": 16, "steps": 600, "batch_size": 64},
    "paper": {"restarts": 30, "steps": 3000, "batch_size": 256},
}


def overlap(encoders: Tensor, directions: Tensor) -> Tensor:
    """Share of rows (M, d, D) in the span of directions (M, D, d): tr(A^+ A P) / d, (M,)."""
    rows = torch.linalg.qr(encoders.mT).Q
    shared: Tensor = (rows.mT @ directions).square().sum((1, 2))
    return shared / encoders.shape[1]


def linear_loss(encoders: Tensor, covariance: Tensor, betas: Tensor) -> Tensor:
    """Eq. 53 with beta for 1/(2 sigma^2), (M,), of encoders (M, d, D) with tied decoders."""
    gram = encoders @ encoders.mT
    projection = encoders.mT @ torch.linalg.solve(gram, encoders)
    energy = torch.einsum("mij,mjk,mik->m", encoders, covariance, encoders)
    lost = covariance.diagonal(dim1=1, dim2=2).sum(1) - (covariance * projection).sum((1, 2))
    return energy / 2 - torch.logdet(gram) / 2 + betas * lost


@dataclass(frozen=True)
class LinearResult:
    """What the best models pick, for each spectrum in every regime.

    Attributes:
        regime, beta: Of `REGIMES`, and the reconstruction weight.
        theorem: The eigenvectors that theorem C.4 takes, such as "0 1".
        overlap_theorem, overlap_pca: Of the learnt subspace with theirs and with PCA's.
        loss_above_theorem: Of eq. 53, above its optimum.
    """

    regime: list[str]
    beta: list[float]
    theorem: list[str]
    overlap_theorem: list[float]
    overlap_pca: list[float]
    loss_above_theorem: list[float]


class LinearModels(StudySpec):
    """Models whose decoder is A^+, as in appendix C; the best of several restarts counts."""

    kind: ClassVar[str] = "linear"
    result: ClassVar[Any] = LinearResult
    on_cpu: ClassVar[bool] = True

    seed: int
    restarts: int
    steps: int
    batch_size: int

    def compute(self, report_progress: ProgressCallback) -> LinearResult:
        """The best restart, by eq. 53, for ten spectra in every regime.

        Gradient descent has local optima between the two extremes, since
        log(lambda) - 2 beta lambda is concave; theorem C.4 is about the lowest. The restarts
        therefore lean towards either end of the spectrum: they are random matrices times powers
        of the covariance from -1 to 1.
        """
        generator, cells = torch.Generator().manual_seed(self.seed), SPECTRA * len(REGIMES)
        options: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
        # In descending order, neighbours apart by a factor of 1.5 to 3.
        factors = 1.5 + 1.5 * torch.rand(SPECTRA, DIM, **options)
        of_ten = factors.log().cumsum(1).exp().flip(1) / 8
        # 1/(2 beta) is twice the largest eigenvalue, a geometric mean, or half the smallest.
        ends = torch.cat([4 * of_ten[:, :1], of_ten, of_ten[:, -1:] / 4], 1)
        betas = 0.5 / (ends[:, :-1] * ends[:, 1:]).sqrt()[:, [0, 1, 2, 3, DIM]]
        betas = betas.flatten().repeat_interleave(self.restarts)
        each = torch.arange(SPECTRA).repeat_interleave(len(REGIMES) * self.restarts)
        spectra = of_ten[each]
        bases = torch.linalg.qr(torch.randn(SPECTRA, DIM, DIM, **options)).Q[each]
        covariance = bases * spectra[:, None] @ bases.mT
        powers = torch.linspace(-1, 1, self.restarts, dtype=torch.float64).repeat(cells)
        start = torch.randn(len(each), LATENT, DIM, **options)
        start = start @ (bases * spectra.pow(powers[:, None])[:, None]).mT
        start = start / torch.linalg.vector_norm(start, dim=(1, 2), keepdim=True)
        scale = (bases * spectra.sqrt()[:, None]).mT
        encoders = self._trained(scale, betas, start, options, report_progress)
        losses = linear_loss(encoders, covariance, betas)
        finite = losses.where(losses.isfinite(), math.inf).view(cells, -1)
        best = finite.argmin(1) + torch.arange(cells) * self.restarts
        encoders, betas, spectra, bases = (of[best] for of in (encoders, betas, spectra, bases))
        criterion = spectra.log() - 2 * betas[:, None] * spectra  # eq. 83
        chosen = criterion.argsort(1)[:, :LATENT].sort(1).values
        directions = bases.gather(2, chosen[:, None].expand(-1, DIM, -1))
        optimum = (directions / spectra.gather(1, chosen).sqrt()[:, None]).mT  # lemma C.3
        return LinearResult(
            [*REGIMES] * SPECTRA,
            betas.tolist(),
            [" ".join(map(str, of)) for of in chosen.tolist()],
            overlap(encoders, directions).tolist(),
            overlap(encoders, bases[:, :, :LATENT]).tolist(),
            (losses[best] - linear_loss(optimum, covariance[best], betas)).tolist(),
        )

    def _trained(
        self,
        scale: Tensor,
        betas: Tensor,
        start: Tensor,
        options: dict[str, Any],
        report_progress: ProgressCallback,
    ) -> Tensor:
        """Encoders' matrices A (M, d, D) after training by FIF's loss on fresh Gaussian data."""
        (members, latent_dim, dim), points = start.shape, self.batch_size
        a = start.clone().requires_grad_()

        def loss(a: Tensor, decoder: Tensor, x: Tensor, eps: Tensor, beta: Tensor) -> Tensor:
            maps = (lambda x: x @ a.mT), (lambda z: z @ decoder.mT)
            terms = fif_loss(*maps, lambda z: -z.square().sum(1) / 2, x, eps, beta)
            return terms.loss.mean()

        of_each = torch.vmap(loss, (0, 0, 0, 1, 0))
        optimizer = torch.optim.Adam([a], lr=0.03)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        for step in range(self.steps):
            report_progress(step / self.steps)
            x = torch.randn(members, points, dim, **options) @ scale
            eps = sample_hutchinson(members * points, latent_dim, **options)
            decoder = a.mT @ torch.linalg.inv(a @ a.mT)
            eps = eps.view(1, members, points, latent_dim)
            optimizer.zero_grad()
            of_each(a, decoder, x, eps, betas).sum().backward()
            optimizer.step()
            schedule.step()
        return a.detach()


def run_linear(options: StudyOptions, on_change: OnChange) -> list[StudyReport]:
    """Trains all models; a figure, and how many of the models agree with theorem and PCA."""
    size = SIZES[options.profile]
    specs = [LinearModels(seed=seed, **size) for seed in options.seeds]
    found = collect_results(specs, options, on_change)
    rows = pd.concat([pd.DataFrame(vars(of)) for of in found])
    table = rows.groupby("regime", sort=False).agg(
        models=("beta", "size"),
        agree_with_theorem=("overlap_theorem", lambda of: (of > AGREEMENT).sum()),
        agree_with_pca=("overlap_pca", lambda of: (of > AGREEMENT).sum()),
        overlap_theorem=("overlap_theorem", "mean"),
        overlap_pca=("overlap_pca", "mean"),
        smallest_overlap_theorem=("overlap_theorem", "min"),
        largest_loss_above_theorem=("loss_above_theorem", "max"),
    )
    figure = new_figure(9, 4.2)
    overlaps = table[["overlap_theorem", "overlap_pca"]]
    axis = overlaps.plot.bar(ax=figure.subplots(), rot=0, ylim=(0, 1.3), ylabel="mean overlap")
    axis.set_xlabel("$\\beta$ among $1/2\\lambda$ of the eigenvalues of the data")
    finding = StudyReport(
        f"linear-{options.profile}",
        "Appendix C: which directions a linear model picks",
        f"Overlaps of the learnt subspace, the best (eq. 53) of {size['restarts']} restarts, with "
        f"theorem C.4's choice and with PCA's; a model agrees from {AGREEMENT:g} on.",
        table.reset_index(),
        rows,
        figure,
    )
    return [finding]
