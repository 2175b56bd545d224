"""Figures 8 and 9: what a conditional model's decoder spans, against the reconstruction weight."""

__all__ = ["Summary", "run", "summarise"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pythae_fif.pictures import new_figure, read_pixels
from pythae_fif.runs.engines.common import cores
from pythae_fif.runs.engines.local import LocalEngine
from pythae_fif.runs.kind import Environment, Finished
from pythae_fif.runs.store import Store
from pythae_fif.studies import OnProgress, StudyOptions
from pythae_fif.studies.output import Drawing, data_name, write_study
from pythae_fif.studies.plan import finish
from pythae_fif.studies.spectrum_run import (
    LATENT_DIM,
    SAMPLES,
    SHOWN,
    SPECTRUM,
    TEST_IMAGES,
    Size,
    SpectrumRecord,
    SpectrumSpec,
    load_labelled,
)

BETAS = (0.1, 1.0, 10.0, 100.0)
SIZES = {
    "quick": Size(epochs=10, samples=64, images=6000, channel_multiplier=0.25, batch_size=64),
    "paper": Size(epochs=400, samples=1024),
}


@dataclass(frozen=True)
class Summary:
    """Singular values over the models of one reconstruction weight.

    Attributes:
        mean, std: (d,).
        above: The number of mean values of at least one.
        low, high: The same for the mean minus and plus the standard deviation, the error bars of
            figure 8.
    """

    mean: np.ndarray
    std: np.ndarray
    above: int
    low: int
    high: int


def summarise(spectra: np.ndarray) -> Summary:
    """Mean and standard deviation over models, and the number of singular values of at least one.

    Args:
        spectra: Of every model, in descending order, (M, d).
    """
    mean, std = spectra.mean(0), spectra.std(0, ddof=min(1, len(spectra) - 1))
    low, above, high = (int((mean + sign * std >= 1).sum()) for sign in (-1, 0, 1))
    return Summary(mean, std, above, low, high)


_Model = Finished[SpectrumSpec, SpectrumRecord]


def run(options: StudyOptions, on_progress: OnProgress) -> list[Path]:
    """Trains and measures the models without a record, and writes both figures from the records.

    Args:
        options: ``seeds`` are of the models of each reconstruction weight.
        on_progress: Is told how far it is.

    Returns:
        Both figures, their captions and two CSV files.

    Raises:
        ConfigError: A data set without class labels.
        RunsLeftError: Runs failed, or go on elsewhere.
    """
    size, dataset, seeds = SIZES[options.profile], options.dataset, options.seeds
    assert dataset is not None  # run_study has chosen
    latent_dim = LATENT_DIM if options.latent_dim is None else options.latent_dim
    environment = Environment(data_root=options.data_root, offline=options.offline)
    splits = load_labelled(dataset, size, environment)
    assert splits.labels_hash is not None  # it has labels
    specs = {
        f"beta {beta:g}, seed {seed}": SpectrumSpec(
            dataset=dataset,
            beta=beta,
            seed=seed,
            size=size,
            latent_dim=latent_dim,
            data_hash=splits.content_hash,
            labels_hash=splits.labels_hash,
        )
        for beta in BETAS
        for seed in seeds
    }
    engine = options.engine or LocalEngine(cpus_per_run=cores())
    models = list(finish(SPECTRUM, specs, options, engine, on_progress).values())
    name = f"spectrum-{data_name(dataset, latent_dim, LATENT_DIM)}-{options.profile}"
    budget = (
        f"{len(splits.train):,} images, {size.epochs} epochs, {len(seeds)} models a weight, d = "
        f"{latent_dim}, {size.samples} samples a class"
    )
    summary = {
        beta: summarise(np.stack([m.record.singular_values for m in models if m.spec.beta == beta]))
        for beta in BETAS
    }
    first = [model for model in models if model.spec.seed == seeds[0]]
    store = Store(options.results, SPECTRUM)
    sheets = {m.spec.beta: read_pixels(store.place(m.spec) / SAMPLES) for m in first}
    drawings = [
        Drawing(
            name,
            _spectrum_figure(summary),
            "Figure 8: singular values of the decoder, by reconstruction weight",
            _spectrum_caption(summary, models, size, dataset, budget),
        ),
    ]
    if any(sheet is not None for sheet in sheets.values()):  # packed runs have none
        drawings.append(
            Drawing(
                f"{name}-samples",
                _sample_figure(sheets, classes=models[0].record.classes),
                "Figure 9: samples of every class, by reconstruction weight",
                _sample_caption(models, dataset, budget, min(len(splits.test), TEST_IMAGES)),
            )
        )
    singular_values = [
        {"beta": m.spec.beta, "seed": m.spec.seed, "index": i, "singular_value": value}
        for m in models
        for i, value in enumerate(m.record.singular_values, start=1)
    ]
    tables = {name: [_row(model) for model in models], f"{name}-values": singular_values}
    return write_study(options, drawings, tables)


def _row(model: _Model) -> dict[str, float]:
    """The numbers of a model in the CSV file."""
    scores = "log_volume entropy entropy_by_log_prob diversity reconstruction nll"
    return {
        "beta": model.spec.beta,
        "seed": model.spec.seed,
        "above_one": sum(value >= 1 for value in model.record.singular_values),
        **{name: getattr(model.record, name) for name in scores.split()},
    }


def _spectrum_figure(summary: Mapping[float, Summary]) -> Any:
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=[1.3, 1])
    for colour, (beta, found) in enumerate(summary.items()):
        index = np.arange(1, len(found.mean) + 1)
        left.plot(index, found.mean, color=f"C{colour}", label=f"{beta:g}")
        edges = (np.maximum(found.mean + sign * found.std, 1e-6) for sign in (-1, 1))
        left.fill_between(index, *edges, color=f"C{colour}", alpha=0.25, lw=0)
    left.axhline(1, color="k", ls=":", lw=1)
    left.set_yscale("log")
    smallest = min(found.mean.min() for found in summary.values())
    left.set_ylim(bottom=max(smallest / 3, 1e-6))
    left.set_xlabel("index of the singular value")
    left.set_ylabel("singular value of the decoder")
    left.legend(title="beta")
    betas = list(summary)
    above, low, high = np.array([(f.above, f.low, f.high) for f in summary.values()]).T
    right.errorbar(betas, above, [above - low, high - above], marker="o", capsize=4)
    right.set_xscale("log")
    right.set_xticks(betas, [f"{beta:g}" for beta in betas])
    right.minorticks_off()
    right.set_xlabel("beta")
    right.set_ylabel("singular values of at least one")
    right.set_ylim(0, len(summary[betas[0]].mean) + 0.5)
    return figure


def _sample_figure(sheets: Mapping[float, np.ndarray | None], classes: int) -> Any:
    figure = new_figure(3.6 * len(sheets), 3.5 * classes / SHOWN)
    for axis, (beta, sheet) in zip(figure.subplots(1, len(sheets)), sheets.items(), strict=True):
        axis.set_title(f"beta = {beta:g}")
        if sheet is None:
            axis.set_axis_off()
            continue
        axis.imshow(sheet, cmap="gray", vmin=0, vmax=255)  # imshow ignores cmap for RGB
        axis.set_xticks([])
        axis.set_yticks(len(sheet) / classes * (np.arange(classes) + 0.5), range(classes))
        axis.tick_params(length=0)
    figure.axes[0].set_ylabel("class")
    return figure


def _means(models: Sequence[_Model], key: str) -> dict[float, float]:
    """Means over the models of each reconstruction weight."""
    return {
        beta: float(np.mean([getattr(m.record, key) for m in models if m.spec.beta == beta]))
        for beta in BETAS
    }


def _listed(values: Mapping[float, float], digits: str = ".3g") -> str:
    return ", ".join(f"{value:{digits}} at beta {beta:g}" for beta, value in values.items())


def _spectrum_caption(
    summary: Mapping[float, Summary],
    models: Sequence[_Model],
    size: Size,
    dataset: str,
    budget: str,
) -> str:
    counts = {beta: found.above for beta, found in summary.items()}
    order = list(counts.values())
    grows = (
        "grows with beta, as in the paper"
        if order == sorted(order) and order[0] < order[-1]
        else "does not grow with beta throughout, unlike in the paper"
    )
    bars = "; ".join(f"{found.low} to {found.high}" for found in summary.values())
    return f"""
    The paper's figure 8 shows that the singular values of a conditional MNIST model's decoder
    grow with the reconstruction weight, and with them the number of those that are at least one,
    the dimensions that the model spans. Here, on {dataset} ({budget}, averaged over classes;
    bands are one standard deviation over models), that number {grows}:
    {_listed(counts, "d")} (error bars, where mean minus and plus the standard deviation are at
    least one: {bars}). By eq. 124 the entropy of the samples of a class is
    {_listed(_means(models, "entropy"), ".1f")} nats; by the exact log-likelihood of the samples,
    which goes through the encoder, {_listed(_means(models, "entropy_by_log_prob"), ".1f")}. The
    paper trains five models a weight for 400 epochs, with four times the channels of table 11, and
    takes 1,024 samples a class (profile `paper`, in batches of 512 as the authors' released code);
    this run has {size.channel_multiplier:g} times the channels of table 11 and batches of
    {size.batch_size}. Adam at {size.learning_rate:g} is ours: the paper does not tell.
    """


def _sample_caption(models: Sequence[_Model], dataset: str, budget: str, tested: int) -> str:
    return f"""
    The paper's figure 9 shows conditional MNIST samples at temperature 1, which grow more diverse
    with the reconstruction weight, and at high weights leave the distribution of the data at
    times. Here the first {SHOWN} samples (columns) of every class (rows) of one model a weight,
    trained on {dataset} ({budget}). The variance of the samples within a class, summed over
    pixels, is {_listed(_means(models, "diversity"))}; that of all test images is
    {models[0].record.data_diversity:.3g}. The squared reconstruction error of the first {tested}
    test images is {_listed(_means(models, "reconstruction"))}. The paper trains for 400 epochs with
    four times the channels of table 11 (profile `paper`).
    """
