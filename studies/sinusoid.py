"""Figures 3 and 7: whether the noise or the curve of a sinusoid is learnt."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pythae_fif.pictures import new_figure
from pythae_fif.study import Study, StudyOptions, StudyPage, collect_results
from studies.toy import ToyModels, ToyResult, noisy_test_points

SIZES: dict[str, dict[str, Any]] = {
    "quick": {"points": 10_000, "epochs": 20, "blocks": 4, "width": 128},
    "paper": {"points": 100_000, "epochs": 50, "blocks": 4, "width": 256},  # appendix E.1.1
}
NOISES = (0.1, 0.2, 0.3)
BETAS = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0, 10.0, 100.0)
MIN_RANK_CORRELATION = 0.9  # of code and position, for a model that spans the sinusoid


def run_sinusoid(options: StudyOptions) -> list[StudyPage]:
    """Trains models of a sinusoid at three noise levels and every beta."""
    seeds = tuple(options.seeds)
    specs = [
        ToyModels(
            dataset="sinusoid",
            noise=noise,
            test_noise=noise,
            betas=BETAS,
            seeds=seeds,
            batch_size=128,
            learning_rate=1e-3,
            residual=True,
            **SIZES[options.profile],
        )
        for noise in NOISES
    ]
    results = collect_results(specs, options)

    models = pd.MultiIndex.from_product([NOISES, BETAS, seeds], names=["noise", "beta", "seed"])
    score_names = ["reconstruction", "nll", "along"]
    scores = {
        score_name: np.concatenate([getattr(result, score_name) for result in results])
        for score_name in score_names
    }
    frame = pd.DataFrame(scores, models).reset_index()
    groups = frame.assign(share_that_spans=frame.along >= MIN_RANK_CORRELATION).groupby(
        ["noise", "beta"]
    )
    quartiles = [groups[score_names].quantile(share) for share in (0.25, 0.5, 0.75)]
    medians = quartiles[1]

    return [
        StudyPage.of_table(
            f"sinusoid-{options.profile}",
            "Figures 3 and 7: the noise or the sinusoid, by reconstruction weight",
            f"Above: codes of noisy points, for the first of {len(seeds)} seeds, at noise "
            f"{NOISES[0]:g} and the smallest and largest betas. Below: squared error and "
            "exact negative log-likelihood (nll), medians and quartiles over models. A model "
            "spans the sinusoid if the rank correlation of code and position is at least "
            f"{MIN_RANK_CORRELATION:g}. In the paper, the beta from which half of the models do "
            "so falls as the noise grows.",
            medians.add_prefix("median_").join(groups.share_that_spans.mean()).reset_index(),
            frame,
            _draw_sinusoid(results[0], quartiles),
        )
    ]


def _draw_sinusoid(lowest_noise: ToyResult, quartiles: Sequence[pd.DataFrame]) -> Any:
    """Draws codes at the lowest noise, and the scores against beta at every noise."""
    figure = new_figure(15, 8)
    panels: Any = figure.subfigures(2, 1)
    points, _ = noisy_test_points("sinusoid", NOISES[0])
    for axis, index in zip(panels[0].subplots(1, 4, sharey=True), (0, 1, -2, -1), strict=True):
        axis.scatter(*points.T, c=lowest_noise.codes[index], s=5)
        axis.set_title(f"codes at beta = {BETAS[index]:g}")

    low, median, high = quartiles
    axes = panels[1].subplots(1, len(NOISES))
    for axis, noise in zip(axes, NOISES, strict=True):
        for side, score, colour in ((axis, "reconstruction", "C0"), (axis.twinx(), "nll", "C1")):
            side.plot(median[score][noise], color=colour)
            side.fill_between(BETAS, low[score][noise], high[score][noise], color=colour, alpha=0.3)
            side.set_ylabel(score, color=colour)
        axis.set(xscale="log", yscale="log", xlabel="beta", title=f"noise {noise:g}")
    return figure


STUDY = Study(run_sinusoid, seeds=(20, 20))
