"""Appendix C: the directions that a linear free-form injective flow picks, against theorem C.4."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor

from pythae_fif.pictures import new_figure
from pythae_fif.study import (
    ProgressCallback,
    Study,
    StudyOptions,
    StudyPage,
    StudySpec,
    collect_results,
)
from pythae_fif.volume_change import fif_loss, sample_hutchinson

DIM = 5
LATENT = 2
SPECTRA = 10
REGIMES = ("below", "between 1", "between 2", "between 3", "above")
"""Position of beta among 1/(2 lambda) of the covariance's eigenvalues, the largest one's first."""
CELLS = SPECTRA * len(REGIMES)
AGREEMENT = 0.95  # overlap above which two subspaces count as the same
SIZES: dict[str, dict[str, Any]] = {
    "quick": {"restarts": 16, "steps": 600, "batch_size": 64},
    "paper": {"restarts": 30, "steps": 3000, "batch_size": 256},
}


def overlap(encoders: Tensor, directions: Tensor) -> Tensor:
    """Computes the share of encoders in the span of directions, tr(A^+ A P) / d.

    Args:
        encoders: Matrices A, (M, d, D).
        directions: Orthonormal columns of the projection P, (M, D, d).

    Returns:
        Shares in [0, 1], (M,).
    """
    basis = torch.linalg.qr(encoders.mT).Q
    shared: Tensor = (basis.mT @ directions).square().sum((1, 2))
    return shared / encoders.shape[1]


def linear_loss(encoders: Tensor, covariance: Tensor, betas: Tensor) -> Tensor:
    """Computes eq. 53, with beta for 1/(2 sigma^2), of encoders with tied decoders.

    Args:
        encoders: Matrices A, (M, d, D).
        covariance: Covariance matrices of the data, (M, D, D).
        betas: Reconstruction weights, (M,).

    Returns:
        Losses, (M,).
    """
    gram = encoders @ encoders.mT
    projection = encoders.mT @ torch.linalg.solve(gram, encoders)
    energy = torch.einsum("mij,mjk,mik->m", encoders, covariance, encoders)
    total_variance = covariance.diagonal(dim1=1, dim2=2).sum(1)
    error = total_variance - (covariance * projection).sum((1, 2))
    return energy / 2 - torch.logdet(gram) / 2 + betas * error


@dataclass(frozen=True)
class LinearResult:
    """What the best models pick, for each spectrum in every regime.

    Attributes:
        regime: Name of the regime, from `REGIMES`.
        beta: Reconstruction weight.
        theorem: The eigenvectors that theorem C.4 takes, such as "0 1".
        overlap_theorem: Overlap of the learnt subspace with the theorem's.
        overlap_pca: Overlap of the learnt subspace with PCA's.
        loss_above_theorem: Loss (eq. 53) minus its optimum.
    """

    regime: list[str]
    beta: list[float]
    theorem: list[str]
    overlap_theorem: list[float]
    overlap_pca: list[float]
    loss_above_theorem: list[float]


class LinearModels(StudySpec):
    """Models with the decoder A^+, as in appendix C; the best of several restarts counts."""

    kind: ClassVar[str] = "linear"
    result: ClassVar[Any] = LinearResult
    on_cpu: ClassVar[bool] = True

    seed: int
    restarts: int
    steps: int
    batch_size: int

    def compute(self, report_progress: ProgressCallback) -> LinearResult:
        """Finds the best restart, by eq. 53, for ten spectra in every regime.

        Gradient descent has local optima between the two extremes, since
        log(lambda) - 2 beta lambda is concave; theorem C.4 is about the lowest. The restarts
        therefore lean towards either end of the spectrum: they are random matrices times powers
        of the covariance from -1 to 1.
        """
        options: dict[str, Any] = {
            "generator": torch.Generator().manual_seed(self.seed),
            "dtype": torch.float64,
        }
        spectra = _draw_spectra(options)
        betas = _regime_betas(spectra).flatten()
        bases = torch.linalg.qr(torch.randn(SPECTRA, DIM, DIM, **options)).Q

        # From here on one row for each of the M = CELLS * restarts models.
        spectrum_index = torch.arange(SPECTRA).repeat_interleave(len(REGIMES) * self.restarts)
        spectra = spectra[spectrum_index]
        bases = bases[spectrum_index]
        betas = betas.repeat_interleave(self.restarts)
        covariance = bases * spectra[:, None] @ bases.mT

        start = self._draw_start(spectra, bases, options)
        data_scale = (bases * spectra.sqrt()[:, None]).mT
        encoders = self._train_encoders(data_scale, betas, start, options, report_progress)
        losses = linear_loss(encoders, covariance, betas)

        # From here on one row for each of the CELLS best restarts, those of lowest finite loss.
        finite_losses = losses.where(losses.isfinite(), torch.inf).view(CELLS, self.restarts)
        best = finite_losses.argmin(1) + torch.arange(CELLS) * self.restarts
        encoders = encoders[best]
        betas = betas[best]
        spectra = spectra[best]
        bases = bases[best]
        criterion = spectra.log() - 2 * betas[:, None] * spectra  # eq. 83, as in theorem C.4
        eigenvectors = criterion.argsort(1)[:, :LATENT].sort(1).values
        directions = bases.gather(2, eigenvectors[:, None].expand(-1, DIM, -1))
        optimum = (directions / spectra.gather(1, eigenvectors).sqrt()[:, None]).mT  # lemma C.3
        loss_above_theorem = losses[best] - linear_loss(optimum, covariance[best], betas)
        return LinearResult(
            [*REGIMES] * SPECTRA,
            betas.tolist(),
            [" ".join(map(str, indices)) for indices in eigenvectors.tolist()],
            overlap(encoders, directions).tolist(),
            overlap(encoders, bases[:, :, :LATENT]).tolist(),
            loss_above_theorem.tolist(),
        )

    def _draw_start(self, spectra: Tensor, bases: Tensor, options: dict[str, Any]) -> Tensor:
        """Draws encoders (M, d, D) of norm 1 that lean towards either end of their spectrum."""
        powers = torch.linspace(-1, 1, self.restarts, dtype=torch.float64).repeat(CELLS)
        start = torch.randn(len(spectra), LATENT, DIM, **options)
        start = start @ (bases * spectra.pow(powers[:, None])[:, None]).mT
        return start / torch.linalg.vector_norm(start, dim=(1, 2), keepdim=True)

    def _train_encoders(
        self,
        data_scale: Tensor,
        betas: Tensor,
        start: Tensor,
        options: dict[str, Any],
        report_progress: ProgressCallback,
    ) -> Tensor:
        """Trains encoders A (M, d, D) by FIF's loss on fresh Gaussian data."""
        members, latent_dim, dim = start.shape
        encoders = start.clone().requires_grad_()

        def member_loss(a: Tensor, decoder: Tensor, x: Tensor, eps: Tensor, beta: Tensor) -> Tensor:
            return fif_loss(
                lambda x: x @ a.mT,
                lambda z: z @ decoder.mT,
                lambda z: -z.square().sum(1) / 2,
                x,
                eps,
                beta,
            ).loss.mean()

        losses = torch.vmap(member_loss, (0, 0, 0, 1, 0))
        optimizer = torch.optim.Adam([encoders], lr=0.03)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        for step in range(self.steps):
            report_progress(step / self.steps)
            x = torch.randn(members, self.batch_size, dim, **options) @ data_scale
            eps = sample_hutchinson(members * self.batch_size, latent_dim, **options)
            eps = eps.view(1, members, self.batch_size, latent_dim)
            decoders = encoders.mT @ torch.linalg.inv(encoders @ encoders.mT)
            optimizer.zero_grad()
            losses(encoders, decoders, x, eps, betas).sum().backward()
            optimizer.step()
            schedule.step()

        return encoders.detach()


def _draw_spectra(options: dict[str, Any]) -> Tensor:
    """Draws eigenvalues in descending order, neighbours apart by a factor of 1.5 to 3."""
    factors = 1.5 + 1.5 * torch.rand(SPECTRA, DIM, **options)
    return factors.log().cumsum(1).exp().flip(1) / 8


def _regime_betas(spectra: Tensor) -> Tensor:
    """Returns the beta of every regime for spectra (SPECTRA, D), (SPECTRA, regimes).

    1/(2 beta) is twice the largest eigenvalue, a geometric mean of neighbours, or half the
    smallest one.
    """
    bounds = torch.cat([4 * spectra[:, :1], spectra, spectra[:, -1:] / 4], 1)
    betas: Tensor = 0.5 / (bounds[:, :-1] * bounds[:, 1:]).sqrt()
    return betas[:, [0, 1, 2, 3, DIM]]


def run_linear(options: StudyOptions) -> list[StudyPage]:
    """Trains all models and counts how many agree with the theorem and with PCA."""
    size = SIZES[options.profile]
    specs = [LinearModels(seed=seed, **size) for seed in options.seeds]
    results = collect_results(specs, options)
    frame = pd.concat([pd.DataFrame(vars(result)) for result in results])

    def count_agreeing(overlaps: "pd.Series[float]") -> int:
        return int((overlaps > AGREEMENT).sum())

    table = frame.groupby("regime", sort=False).agg(
        models=("beta", "size"),
        agree_with_theorem=("overlap_theorem", count_agreeing),
        agree_with_pca=("overlap_pca", count_agreeing),
        overlap_theorem=("overlap_theorem", "mean"),
        overlap_pca=("overlap_pca", "mean"),
        smallest_overlap_theorem=("overlap_theorem", "min"),
        largest_loss_above_theorem=("loss_above_theorem", "max"),
    )

    figure = new_figure(9, 4.2)
    table[["overlap_theorem", "overlap_pca"]].plot.bar(
        ax=figure.subplots(),
        rot=0,
        ylim=(0, 1.3),
        xlabel="$\\beta$ among $1/2\\lambda$ of the eigenvalues of the data",
        ylabel="mean overlap",
    )

    return [
        StudyPage.of_table(
            f"linear-{options.profile}",
            "Appendix C: which directions a linear model picks",
            f"Overlaps of the learnt subspace, the best (eq. 53) of {size['restarts']} restarts, "
            "with the subspace that theorem C.4 chooses and with PCA's. A model agrees if the "
            f"overlap is above {AGREEMENT:g}.",
            table.reset_index(),
            frame,
            figure,
        )
    ]


STUDY = Study(run_linear, seeds=(1, 1))
