"""Figures 3 and 7: which direction of a noisy sinusoid is learnt, against beta."""

__all__ = ["SinusoidModels", "run", "transition"]

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor

from pythae_fif import FIF, FIFConfig
from pythae_fif.data.toy import TOY_DATA
from pythae_fif.ensemble import Ensemble
from pythae_fif.nn import ResidualDecoder, ResidualEncoder
from pythae_fif.pictures import new_figure
from pythae_fif.runs.launch import OnChange
from pythae_fif.studies.spec import Finding, StudySpec, Tell, results_of
from pythae_fif.studies.study import StudyOptions

NOISES = (0.1, 0.2, 0.3)
BETAS = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0, 10.0, 100.0)
SIZES: dict[str, dict[str, Any]] = {
    "quick": {"points": 10_000, "epochs": 20, "blocks": 4, "width": 128},
    "paper": {"points": 100_000, "epochs": 50, "blocks": 4, "width": 256},  # appendix E.1.1
}
TEST_POINTS = 1000
SINUSOID = 0.9  # rank correlation of the code with x from which a model spans the sinusoid


def held_out(noise: float) -> tuple[Tensor, Tensor]:
    """Noisy points (N, 2), and the x (N,) of their clean ones."""
    generator = torch.Generator().manual_seed(1)
    clean = TOY_DATA["sinusoid"].sample(TEST_POINTS, generator).points
    return clean + noise * torch.randn(TEST_POINTS, 2, generator=generator), clean[:, 0]


class SinusoidModels(StudySpec):
    """The models of a noise level, one for each beta and seed, in one ensemble.

    Attributes:
        noise: Of the data, and so of training (appendix E.1.1).
        points, epochs: Training points, and passes over them.
        blocks, width: Of encoder and decoder each.
    """

    kind: ClassVar[str] = "sinusoid"

    noise: float
    betas: tuple[float, ...]
    seeds: tuple[int, ...]
    points: int
    epochs: int
    blocks: int
    width: int

    def compute(self, tell: Tell) -> dict[str, Any]:
        """Trains and measures them on held-out points.

        Returns:
            `rows` of all models: beside squared error and exact negative log-likelihood `along`,
            the absolute rank correlation of the code with the position x. `codes` of the first
            seed's, (betas, N).
        """

        def build(beta: float, seed: int) -> FIF:
            torch.manual_seed(seed)
            config = FIFConfig(input_dim=(2,), latent_dim=1, beta=beta, noise=self.noise)
            nets = 2, 1, self.blocks, self.width
            return FIF(config, ResidualEncoder(*nets), ResidualDecoder(*nets))

        pairs = [(beta, seed) for beta in self.betas for seed in self.seeds]
        ensemble = Ensemble([build(*pair) for pair in pairs], [seed for _, seed in pairs])
        ensemble.train(
            TOY_DATA["sinusoid"].sample(self.points, torch.Generator().manual_seed(0)).points,
            epochs=self.epochs,
            batch_size=128,
            one_cycle=True,
            on_epoch=lambda epoch: tell(epoch / self.epochs),
        )
        x, position = held_out(self.noise)
        codes, errors = ensemble.encode(x)[..., 0], ensemble.reconstruction_error(x).mean(1)
        numbers = zip(pairs, codes, errors, -ensemble.log_prob(x).mean(1), strict=True)
        rows = [
            {
                "noise": self.noise,
                "beta": beta,
                "reconstruction": float(error),
                "nll": float(nll),
                "along": abs(float(spearmanr(code.numpy(), position.numpy()).statistic)),
                "seed": seed,
            }
            for (beta, seed), code, error, nll in numbers
        ]
        return {"rows": rows, "codes": codes[:: len(self.seeds)].tolist()}


def transition(shares: Mapping[float, float]) -> float:
    """The beta at which half of the models span the sinusoid; NaN where there is none.

    Arguments:
        shares: Beta -> share of its models that do. It is interpolated linearly in log beta, where
            it crosses 1/2 for the last time.
    """
    betas = sorted(shares)
    for lower, upper in reversed([*pairwise(betas)]):
        low, high = shares[lower], shares[upper]
        if low < 0.5 <= high:
            return float(lower * (upper / lower) ** ((0.5 - low) / (high - low)))
    return math.nan


def run(options: StudyOptions, on_change: OnChange) -> list[Finding]:
    """Trains all models; their codes, numbers and transitions in one figure."""
    size, seeds = SIZES[options.profile], tuple(options.seeds)
    specs = [SinusoidModels(noise=noise, betas=BETAS, seeds=seeds, **size) for noise in NOISES]
    found = results_of(specs, options, on_change)
    rows = pd.DataFrame([row for of_noise in found for row in of_noise["rows"]])
    models = rows.assign(share_that_spans=rows.along >= SINUSOID).groupby(["noise", "beta"])
    shares = models.share_that_spans.mean()
    scores = models[["reconstruction", "nll", "along"]].median().add_prefix("median_")
    transitions = {noise: transition(shares[noise].to_dict()) for noise in NOISES}
    figure = new_figure(15, 8)
    panels: Any = figure.subfigures(2, 1)
    points, codes = held_out(NOISES[0])[0], found[0]["codes"]
    for axis, index in zip(panels[0].subplots(1, 4, sharey=True), (0, 1, -2, -1), strict=True):
        axis.scatter(*points.T, c=codes[index], s=5, cmap="viridis")
        axis.set_title(f"codes at beta = {BETAS[index]:g}")
    boxes = panels[1].subplots(1, len(NOISES))
    for axis, (noise, beta) in zip(boxes, transitions.items(), strict=True):
        _boxes(axis, rows[rows.noise == noise], beta)
        axis.set_title(f"noise {noise:g}, transition at beta = {beta:.2g}")
    finding = Finding(
        f"sinusoid-{options.profile}",
        "Figures 3 and 7: the noise or the sinusoid, by reconstruction weight",
        f"Above: codes of noisy points of the first seed, at noise {NOISES[0]:g} and the smallest "
        "and largest betas. Below: squared error and exact negative log-likelihood; boxes are "
        "quartiles over models, without outliers. In the paper the beta from which half of them "
        "span the sinusoid (dotted) falls as the noise grows.",
        scores.join(shares).reset_index(),
        rows,
        figure,
        [
            f"{size['points']:,} points, {size['epochs']} epochs, {len(seeds)} models a condition; "
            f"a model spans the sinusoid from a rank correlation of {SINUSOID:g} of code and "
            "position on. The learning rate's cycle, the batch and new noise in every step are the "
            "released code's."
        ],
    )
    return [finding]


def _boxes(axis: Any, rows: pd.DataFrame, beta: float) -> None:
    """Reconstruction error (left axis) and negative log-likelihood (right) against beta."""
    twin, positions = axis.twinx(), range(len(BETAS))
    for side, key, colour in ((axis, "reconstruction", "tab:blue"), (twin, "nll", "tab:orange")):
        values = [rows[key][(rows.beta == of) & np.isfinite(rows[key])] for of in BETAS]
        boxes = side.boxplot(values, positions=positions, showfliers=False, patch_artist=True)
        for box in boxes["boxes"]:
            box.set(facecolor=colour, alpha=0.5)
    axis.set(yscale="log", xlabel="beta")
    axis.set_ylabel("reconstruction error", color="tab:blue")
    twin.set_ylabel("negative log-likelihood (nats)", color="tab:orange")
    axis.axvline(np.interp(np.log(beta), np.log(BETAS), positions), color="k", ls=":")
    axis.set_xticks(positions, [f"{of:g}" for of in BETAS])
