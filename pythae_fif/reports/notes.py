"""What must stand beside the numbers: what they are of, what they are not, how they were made."""

from collections.abc import Sequence

import numpy as np
import pandas

from pythae_fif.benchmark.config import Experiment, length_of
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.data import Splits
from pythae_fif.errors import counted
from pythae_fif.evaluation.scoring import FEWEST_SAMPLES
from pythae_fif.reports.frame import LEVEL, first_scores, ranks
from pythae_fif.reports.tables import number

FEW_STEPS = 1000  # a training of fewer shows little
MOST_NAMES = 4  # of models in the sentence


def sentence_of(table: pandas.DataFrame) -> str:
    """Which models are lowest from the prior and with the mixture, and whether that stands out."""
    prior = table["sampler"] == table["prior"]
    roles = {"from the prior": table[prior], "with the mixture": table[table["sampler"] == "gmm"]}
    parts = [_lowest(where, rows) for where, rows in roles.items() if len(rows)]
    text = "; ".join(parts or [_lowest("", table)])
    low, high = table["seeds"].min(), table["seeds"].max()
    seeds = counted(high, "seed") if low == high else f"{low} to {high} seeds"
    return f"{text[0].upper()}{text[1:]} ({seeds})."


def _lowest(where: str, rows: pandas.DataFrame) -> str:
    rows = rows.sort_values("frechet_test")
    labels, values = list(rows["label"]), list(map(number, rows["frechet_test"]))
    if len(rows) == 1:
        return f"{where} {labels[0]} is at {values[0]}"
    marks = ranks(rows["frechet_test"], pandas.Series("", rows.index), rows["noise"])
    count = int((marks == LEVEL).sum())
    if count == 0:
        return (
            f"{where} {labels[0]} is lowest with {values[0]}, beyond noise: {labels[1]} follows "
            f"with {values[1]}"
        )
    few = f"{', '.join(labels[: count - 1])} and {labels[count - 1]}"
    shown = few if count <= MOST_NAMES else f"{count} models"
    return f"{where} {shown} are level ({values[0]} to {values[count - 1]}): no lead stands out"


def constant_error(splits: Splits) -> float:
    """Mean squared error of the mean training image as the guess for every test image: per pixel in
    [0, 1], or per value of a table."""
    mean = splits.train.mean(axis=0, dtype=np.float64)
    total = sum(float(((image - mean) ** 2).sum()) for image in splits.test)
    return total / splits.test.size / (255**2 if splits.columns is None else 1)


def notes_of(
    experiment: Experiment,
    results: Sequence[ImageResult],
    frame: pandas.DataFrame,
    table: pandas.DataFrame,
) -> tuple[list[str], list[str]]:
    """Why numbers say less than they seem to; what data, scores and training they stand for."""
    scored, profile = first_scores(results), experiment.in_use
    data = results[0].evaluation.result.data
    failed = ", ".join(sorted(set(table.loc[~table["learned"], "label"])))
    samples, references = scored.num_samples, data.sizes["test"]
    steps = table["images"].min() / results[0].spec.settings.batch_size
    weights = sorted(set(frame["extractor_hash"]))
    warnings = {
        f"A part of the data: {data.source}.": data.partial,
        f"{failed} did not learn: reconstructions are no better than the mean of the training "
        "data; such rows say nothing about the model.": failed,
        f"The scores are of {len(weights)} different weights of the extractor "
        f"({', '.join(weights)}): their distances are not on one scale.": len(weights) > 1,
        f"Few data: {samples:,} samples and {references:,} references, fewer than "
        f"{FEWEST_SAMPLES:,}: distances are biased upwards, and compare at these numbers alone.": (
            min(samples, references) < FEWEST_SAMPLES
        ),
        f"Short trainings: {steps:,.0f} steps, fewer than {FEW_STEPS:,}.": steps < FEW_STEPS,
    }
    sizes = " / ".join(f"{data.sizes[split]:,}" for split in ("train", "val", "test"))
    entries = [experiment.entry_of(model) for model in dict.fromkeys(table["model"])]
    notes = [
        f"Profile `{experiment.profile}` ({profile.note}): {length_of(profile)}, "
        f"{profile.precision}, latent dimension {experiment.latent_dim}, at most "
        f"{counted(int(table['candidates'].max()), 'configuration')} a model, seeds "
        f"{', '.join(map(str, sorted(set(frame['seed']))))}.",
        f"Data: {data.source}; used {sizes} for training, validation and test.",
        f"Scores: {samples:,} samples; extractor `{scored.extractor}` ({scored.extractor_hash}), "
        f"whose {scored.distance_name} is no FID unless its features are Inception's. mem. is the "
        "probability that a sample is nearer to the training data than those of the test are (0.5 "
        "is new, 1 copied), auth. that of no copies; KL the divergence from the prior of the "
        "training codes' Gaussian.",
        "Each model and sampler has, of the configurations of most seeds, that of lowest "
        "validation distance. Bold is the lowest test distance of a sampler, underlined the "
        "second; if the lowest does not stand out, `=` marks all that are level with it within the "
        "noise of split, seeds and draws. ± is the standard deviation over seeds, or of one seed "
        "over draws; ref the largest relative difference from the same runs in our results.",
        f"Machines: {'; or '.join(dict.fromkeys(frame['machine']))}. Each record names versions, "
        "revision and command.",
        *(f"{entry.label}: {' '.join(entry.notes)}" for entry in entries if entry.notes),
    ]
    return [line for line, holds in warnings.items() if holds], notes
