"""What must stand beside the numbers: what they are of, what they are not, how they were made."""

__all__ = ["constant_error", "notes_of", "sentence_of", "warnings_of"]

from collections.abc import Iterable, Sequence

import numpy as np
import pandas

from pythae_fif.benchmark.config import Experiment, length_of
from pythae_fif.benchmark.models import read_entry
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.data import Splits
from pythae_fif.errors import counted
from pythae_fif.evaluation.scoring import FEWEST_SAMPLES
from pythae_fif.reports.frame import first_scores
from pythae_fif.reports.tables import number

PACKAGES = ("pythae-fif", "pythae", "torch", "numpy", "scikit-learn")  # the records name all
FEW_STEPS = 1000  # a training of fewer shows little
MOST_NAMES = 4  # of models in the sentence


def sentence_of(table: pandas.DataFrame) -> str:
    """Which models are lowest from the prior and with the mixture, and whether that stands out."""
    prior = table["sampler"] == table["prior"]
    roles = {"from the prior": table[prior], "with the mixture": table[table["sampler"] == "gmm"]}
    parts = [_lowest(where, rows) for where, rows in roles.items() if len(rows)]
    text = "; ".join(parts or [_lowest("", table)])
    low, high = table["seeds"].min(), table["seeds"].max()
    seeds = f"{low} seeds" if low == high else f"{low} to {high} seeds"
    known = "one seed, whose training's noise is not known" if high == 1 else seeds
    return f"{text[0].upper()}{text[1:]} ({known})."


def _lowest(where: str, rows: pandas.DataFrame) -> str:
    rows = rows.sort_values("frechet_test")
    labels, values = list(rows["label"]), list(map(number, rows["frechet_test"]))
    if len(rows) == 1:
        return f"{where} {labels[0]} is at {values[0]}"
    reach = np.hypot(rows["noise"], rows["noise"].iloc[0])
    count = int((rows["frechet_test"] - rows["frechet_test"].iloc[0] <= reach).sum())
    if count == 1:
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


def _copies(splits: Splits) -> int:
    """How many test images are also in training."""
    known = {hash(image.tobytes()) for image in splits.train}
    return sum(hash(image.tobytes()) in known for image in splits.test)


def warnings_of(
    experiment: Experiment,
    results: Sequence[ImageResult],
    table: pandas.DataFrame,
    splits: Splits | None,
    missing: int,
) -> list[str]:
    """Why numbers are missing, or say less than they seem to."""
    things, samples = experiment.things, first_scores(results).num_samples
    used, copies = results[0].evaluation.result.data, 0 if splits is None else _copies(splits)
    references = used.sizes["test"]
    failed = ", ".join(sorted(set(table.loc[~table["learned"], "label"])))
    weights = {of.result.extractor_hash for result in results for of in result.scores.values()}
    steps = table["images"].min() / results[0].spec.settings.batch_size
    lines = {
        f"{counted(missing, 'run')} without a result, or not of every sampler.": missing,
        f"A part of the data: {used.source}.": used.partial,
        f"{copies:,} of {references:,} test {things} are also in training: distances to them "
        "favour models that copy.": copies,
        f"† {failed} did not learn: reconstructions are no better than the mean of the training "
        f"{things}; such rows say nothing about the model.": failed,
        f"The scores are of {len(weights)} different weights of the extractor "
        f"({', '.join(sorted(weights))}): their distances are not on one scale.": len(weights) > 1,
        f"Few data: {samples:,} samples and {references:,} references, fewer than "
        f"{FEWEST_SAMPLES:,}: distances are biased upwards, and compare at these numbers alone.": (
            min(samples, references) < FEWEST_SAMPLES
        ),
        f"Short trainings: {steps:,.0f} steps, fewer than {FEW_STEPS:,}.": steps < FEW_STEPS,
        "Some runs were made with code or configurations that no revision holds.": any(
            result.dirty for result in results
        ),
    }
    return [line for line, holds in lines.items() if holds]


def notes_of(
    experiment: Experiment, results: Sequence[ImageResult], table: pandas.DataFrame
) -> list[str]:
    """What data, scores and training the numbers stand for, and what made them."""
    things, scored, profile = experiment.things, first_scores(results), experiment.in_use
    data, made = results[0].evaluation.result.data, [of.training.provenance for of in results]
    versions = [
        ", ".join(f"{name} {of.versions[name]}" for name in PACKAGES if name in of.versions)
        for of in made
    ]
    models = dict.fromkeys(table["model"])
    entries = [experiment.entries.get(model) or read_entry(model) for model in models]
    return [
        f"Profile `{experiment.profile}` ({profile.note}): {length_of(profile)}, "
        f"{profile.precision}, latent dimension {experiment.latent_dim}, at most "
        f"{counted(int(table['candidates'].max()), 'configuration')} a model, seeds "
        f"{_each(sorted(of.spec.seed for of in results), ', ')}.",
        f"Data: {data.source}; used {data.sizes['train']:,} training, {data.sizes['val']:,} "
        f"validation and {data.sizes['test']:,} test {things}.",
        f"Scores: {scored.num_samples:,} samples; extractor `{scored.extractor}` "
        f"({scored.extractor_hash}), whose {scored.distance_name} is no FID unless its features "
        "are Inception's. mem. is the probability that a sample is nearer to the training "
        f"{things} than those of the test are (0.5 is new, 1 copied), auth. that of no copies; "
        "KL the divergence from the prior of the training codes' Gaussian.",
        "Each model and sampler has, of the configurations of most seeds, that of lowest "
        "validation distance. Bold is the lowest test distance of a sampler, underlined the "
        "second; if the lowest does not stand out, `=` marks all that are level with it within the "
        "noise of split, seeds and draws. ± is the standard deviation over seeds, or of one seed "
        "over draws; ref the largest relative difference from the same runs in our results.",
        f"Machines: {_each((of.machine for of in made), '; or ')}.",
        f"Versions: {_each(versions, '; or ')}.",
        f"Revisions: {_each((of.git_revision for of in made), '; or ')}.",
        f"Commands: {_each((of.command and f'`{of.command}`' for of in made), ', ')}.",
        *(f"{entry.label}: {' '.join(entry.notes)}" for entry in entries if entry.notes),
    ]


def _each(values: Iterable[object], between: str) -> str:
    """The distinct values, of which unknown ones are dashes."""
    return between.join("–" if value is None else str(value) for value in dict.fromkeys(values))
