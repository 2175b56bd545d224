"""What must stand beside the numbers: what they are of, what they are not, how they were made."""

__all__ = ["constant_error", "notes_of", "sentence_of", "warnings_of"]

from collections.abc import Iterable, Sequence

import numpy as np
import pandas

from pythae_fif.benchmark.config import Experiment, length_of
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.data import Splits
from pythae_fif.errors import counted
from pythae_fif.evaluation.scoring import FEWEST_SAMPLES
from pythae_fif.reports.frame import entry_of, first_scores
from pythae_fif.reports.tables import number
from pythae_fif.runs.record import Provenance
from pythae_fif.sampling import FIT_STEPS, FITTED, SAMPLERS

PACKAGES = ("pythae-fif", "pythae", "torch", "numpy", "scikit-learn")
"""Those whose versions a note names; the records name all."""
FEW_STEPS = 1000
"""A training of fewer shows little."""
MOST_NAMES = 4  # of models in the sentence


def sentence_of(table: pandas.DataFrame) -> str:
    """Which models are lowest from the prior and with the mixture, and whether that stands out.

    Args:
        table: Of :func:`~pythae_fif.reports.frame.chosen_frame`.
    """
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
    label, value = list(rows["label"]), [number(distance) for distance in rows["frechet_test"]]
    if len(rows) == 1:
        return f"{where} {label[0]} is at {value[0]}"
    reach = np.hypot(rows["noise"], rows["noise"].iloc[0])
    count = int((rows["frechet_test"] - rows["frechet_test"].iloc[0] <= reach).sum())
    if count == 1:
        return (
            f"{where} {label[0]} is lowest with {value[0]}, beyond noise: {label[1]} follows with "
            f"{value[1]}"
        )
    few = f"{', '.join(label[: count - 1])} and {label[count - 1]}"
    shown = few if count <= MOST_NAMES else f"{count} models"
    return f"{where} {shown} are level ({value[0]} to {value[count - 1]}): no lead stands out"


def constant_error(splits: Splits) -> float:
    """Mean squared error of the mean training image as the guess for every test image: per pixel in
    [0, 1], or per value of a table."""
    mean = splits.train.mean(axis=0, dtype=np.float64)
    blocks = np.array_split(splits.test, max(1, len(splits.test) // 1000))
    total = sum(float(((block - mean) ** 2).sum()) for block in blocks)
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
        f"† {failed} did not learn: the reconstruction error is no better than that of the mean "
        f"of the training {things}; such rows say nothing about the model.": failed,
        f"The scores are of {len(weights)} different weights of the extractor "
        f"({', '.join(sorted(weights))}): their distances are not on one scale.": len(weights) > 1,
        "Some models have another latent dimension: see the file of all numbers.": any(
            table["latent_dim"] != experiment.latent_dim
        ),
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
    fitted = [SAMPLERS[name].label for name in FITTED if name in set(table["sampler"])]
    versions = [
        ", ".join(f"{name} {of.versions[name]}" for name in PACKAGES if name in of.versions)
        for of in made
    ]
    commands = _each(map(_pasteable, made), " and ")
    lines = {
        f"Profile `{experiment.profile}` ({profile.note}): {length_of(profile)}, "
        f"{profile.precision}, latent dimension {experiment.latent_dim}, at most "
        f"{counted(int(table['candidates'].max()), 'configuration')} a model, seeds "
        f"{_each(sorted({of.spec.seed for of in results}), ', ')}.": True,
        f"Data: {data.source}; used {data.sizes['train']:,} training, {data.sizes['val']:,} "
        f"validation and {data.sizes['test']:,} test {things}.": True,
        f"Scores: {scored.num_samples:,} samples; extractor `{scored.extractor}` "
        f"({scored.extractor_hash}), whose {scored.distance_name} is FD, and "
        f"{scored.score_name or 'no score'} CS. KD is the kernel distance (KID's formula); then "
        f"improved precision and recall, density and coverage, all of the test {things}. mem. is "
        f"the probability that a sample is nearer to the training {things} than those of the test "
        "are (0.5 is new, 1 copied), auth. the fraction of samples that are no copies; KL the "
        "divergence from the prior of the Gaussian that has the mean and covariance of the "
        "training codes. Distances of another extractor or sample count are on another "
        "scale.": True,
        "FD is no FID, which has Inception's features.": "inception" not in scored.extractor,
        "Each model and sampler has, of the configurations of most seeds, that of lowest "
        "validation distance. Bold is the lowest test distance of a sampler, underlined the "
        "second; if the lowest does not stand out, `=` marks all that are level with it within the "
        "noise of split, seeds and draws. ± is the standard deviation over seeds, or of one seed "
        "over draws of samples: then the noise of training is not known.": True,
        f"The density models of {', '.join(fitted)} are fitted to the training codes in at most "
        f"{profile.fit_steps or FIT_STEPS:,} steps of Adam on 100 codes each.": fitted,
        "ref: the largest relative difference of the scores from those of the same runs in our "
        "committed results; – where these have not all of them, `other extractor` where one of "
        "other weights scored them.": "reference" in table,
        f"Machines: {_each((of.machine for of in made), '; or ')}.": True,
        f"Versions: {_each(versions, '; or ')}.": True,
        f"Revisions: {_each((of.git_revision for of in made), '; or ')}.": True,
        f"Made by {commands}.": commands,
    }
    entries = [entry_of(experiment, model) for model in dict.fromkeys(table["model"])]
    of_models = [f"{entry.label}: {' '.join(entry.notes)}" for entry in entries if entry.notes]
    return [*(line for line, holds in lines.items() if holds), *of_models]


def _each(values: Iterable[object], between: str) -> str:
    """The distinct values that are known."""
    return between.join(map(str, dict.fromkeys(value for value in values if value is not None)))


def _pasteable(made: Provenance) -> str | None:
    """The command of a run, as code."""
    command = made.command or ""
    is_script = command.partition(" ")[0].endswith(".py")
    return (f"`python {command}`" if is_script else f"`{command}`") if command else None
