"""What must stand beside the numbers: what they are of, what they are not, how they were made."""

__all__ = ["constant_error", "model_notes", "notes_of", "sentence_of", "warnings_of"]

from collections.abc import Iterable, Sequence

import numpy as np
import pandas

from pythae_fif.benchmark.config import Experiment, length_of, load_experiment
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.benchmark.settings import Profile
from pythae_fif.data import Splits
from pythae_fif.errors import counted
from pythae_fif.evaluation.scores import Scores
from pythae_fif.evaluation.scoring import FEWEST_SAMPLES
from pythae_fif.reports.frame import LEARNT, entry_of
from pythae_fif.reports.tables import number
from pythae_fif.runs.provenance import command_line
from pythae_fif.sampling import FIT_STEPS, FITTED, SAMPLERS
from pythae_fif.validation import flag_of, flags_in

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
    best = rows.iloc[0]
    if len(rows) == 1:
        return f"{where} {best['label']} is at {number(best['frechet_test'])}"
    near = rows["frechet_test"] - best["frechet_test"] <= np.hypot(rows["noise"], best["noise"])
    level, next_one = rows[near], rows.iloc[1]
    if len(level) == 1:
        return (
            f"{where} {best['label']} is lowest with {number(best['frechet_test'])}, beyond noise: "
            f"{next_one['label']} follows with {number(next_one['frechet_test'])}"
        )
    names = list(level["label"])
    few = ", ".join(names[:-1]) + f" and {names[-1]}"
    shown = few if len(names) <= MOST_NAMES else f"{len(names)} models"
    low, high = number(best["frechet_test"]), number(level["frechet_test"].iloc[-1])
    return f"{where} {shown} are level ({low} to {high}), and no lead stands out of the noise"


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
    things, scored = experiment.things, _scored(results)
    used, copies = results[0].evaluation.result.data, 0 if splits is None else _copies(splits)
    references = used.sizes["test"]
    failed = ", ".join(sorted(set(table.loc[~table["learned"], "label"])))
    weights = {of.result.extractor_hash for result in results for of in result.scores.values()}
    others = table[table["latent_dim"] != experiment.latent_dim].drop_duplicates("label")
    dims = ", ".join(f"{o.label} {o.latent_dim}" for o in others.itertuples())
    steps = table["images"].min() / results[0].spec.settings.batch_size
    lines = {
        f"{counted(missing, 'run')} without a result, or not of every sampler: the table is not "
        "complete.": missing,
        f"A part of the data: {used.source}.": used.partial,
        f"{copies:,} of {references:,} test {things} are also in training: distances to them "
        "favour models that copy.": copies,
        f"† {failed} did not learn: the reconstruction error is no better than that of the mean "
        f"training {things.rstrip('s')} (within {1 - LEARNT:.0%}); such rows say nothing about the "
        "model.": failed,
        f"The scores are of {len(weights)} different weights of the extractor "
        f"({', '.join(sorted(weights))}): their distances are not on one scale.": len(weights) > 1,
        f"Of another latent dimension: {dims}.": dims,
        f"Few data: {scored.num_samples:,} samples and {references:,} references, fewer than "
        f"{FEWEST_SAMPLES:,}: distances are biased upwards, and compare at these numbers alone.": (
            min(scored.num_samples, references) < FEWEST_SAMPLES
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
    things, scored, profile = experiment.things, _scored(results), experiment.in_use
    evaluation = results[0].evaluation.result
    data, accuracy = evaluation.data, evaluation.extractor_accuracy
    most = int(table["candidates"].max())
    tried = "one configuration" if most == 1 else f"at most {most} configurations"
    notes = [
        f"Profile `{experiment.profile}` ({profile.note}){_changes(experiment)}; {tried} a model, "
        f"latent dimension {experiment.latent_dim}.",
        f"Data: {data.source}; used {data.sizes['train']:,} training, {data.sizes['val']:,} "
        f"validation and {data.sizes['test']:,} test {things}.",
        f"Scores: {scored.num_samples:,} samples, "
        f"{'rounded to 8 bits' if scored.rounded else 'not rounded'}; extractor "
        f"`{scored.extractor}` ({scored.extractor_hash}"
        + (f", test accuracy {accuracy:.1%}" if accuracy is not None else "")
        + f"). FD is its {scored.distance_name}"
        + ("" if "inception" in scored.extractor else ", which is no FID")
        + (f", CS its {scored.score_name}" if scored.score_name else "")
        + f", KD the kernel distance (KID's formula), then improved precision and recall, density "
        f"and coverage, all of the test {things}; mem. is the probability that a sample is nearer "
        f"to the training {things} than a test {things.rstrip('s')} is (0.5 is new, 1 copied), "
        "auth. the fraction of samples that are no copies; KL the divergence from the prior of the "
        "Gaussian that has the mean and covariance of the training codes. Distances of another "
        "extractor or sample count are on another scale.",
        "Each model and sampler has the configuration of lowest validation distance"
        f"{_left_out(table)}; bold is the lowest test distance of a sampler, underlined the "
        "second; if the lowest does not stand out, `=` marks all that are level with it, "
        f"{_noise(table)}",
    ]
    fitted = [SAMPLERS[name].label for name in FITTED if name in set(table["sampler"])]
    if fitted:
        notes.append(
            f"The density models of {', '.join(fitted)} are fitted to the training codes in at "
            f"most {profile.fit_steps or FIT_STEPS:,} steps of Adam on 100 codes each."
        )
    if "reference" in table:
        notes.append(
            "ref: the largest relative difference of the scores from those of the same runs in our "
            "committed results; – where these have not all of them, `other extractor` where one of "
            "other weights scored them, such as a classifier that was trained on this machine."
        )
    return [*notes, *_training(experiment, results), _made_by(results)]


def _changes(experiment: Experiment) -> str:
    """What is not as the shipped profile says."""
    shipped = load_experiment(experiment.dataset, {}).profiles.get(experiment.profile)
    if shipped is None:
        return ""
    ours = experiment.in_use
    changed = [key for key in flags_in(Profile) if getattr(ours, key) != getattr(shipped, key)]
    words = [f"{flag_of(key)} {getattr(ours, key)}" for key in changed if getattr(ours, key)]
    return f", but with {' '.join(words)}" if words else ""


def _scored(results: Sequence[ImageResult]) -> Scores:
    """Of the first run: how samples are scored is the same for all runs of a table."""
    return next(iter(results[0].scores.values())).result


def _left_out(table: pandas.DataFrame) -> str:
    most = table.groupby("label", sort=False)["left_out"].max()
    found = ", ".join(f"{count} of {label}" for label, count in most.items() if count)
    return f" among those of most seeds (fewer seeds, left out: {found})" if found else ""


def _noise(table: pandas.DataFrame) -> str:
    """What marks and ± are made of, and what of the noise is not known."""
    single = table["seeds"] == 1
    unknown = int((single & table["frechet_error"].isna()).sum())
    over = ["seeds"] * int((~single).any()) + ["draws of samples"] * int(unknown < single.sum())
    text = "within the noise of the split (by how validation and test distances differ)"
    text += "".join(f" and of {name}" for name in over) + "."
    if over:
        text += f" ± is the standard deviation over {', with one seed over '.join(over)}."
    if unknown:
        text += f" By how much other samples would move {unknown} of the distances is not known."
    if single.any():
        text += " With one seed nothing is known of the noise of training."
    return text


def _training(experiment: Experiment, results: Sequence[ImageResult]) -> list[str]:
    """How long the models trained, and on what; each distinct machine, version, revision once."""
    settings, made = experiment.in_use, [result.training.provenance for result in results]
    used = [of.training.result.train_seconds for of in results if of.training.result.train_seconds]
    batches = dict.fromkeys(result.spec.settings.batch_size for result in results)
    seeds = sorted({result.spec.seed for result in results})
    text = f"Training: {length_of(settings)}"
    if settings.wall_clock is not None and used:
        text += f" (evaluation not counted; used {min(used):.0f} to {max(used):.0f} s)"
    text += f", batch {' or '.join(map(str, batches))}, {settings.precision}, seeds "
    lines = {
        "Machines": [f"{of.machine}, threads of a run: {of.threads or '–'}" for of in made],
        "Versions": [
            ", ".join(f"{name} {of.versions[name]}" for name in PACKAGES if name in of.versions)
            for of in made
        ],
        "Revisions": [of.git_revision or "" for of in made],
    }
    found = {name: dict.fromkeys(filter(None, values)) for name, values in lines.items()}
    return [
        f"{text}{', '.join(map(str, seeds))}.",
        *(f"{name}: {'; or '.join(values)}." for name, values in found.items() if values),
    ]


def _made_by(results: Iterable[ImageResult]) -> str:
    """The commands of the runs; of records that know none, the one that draws this."""
    commands = dict.fromkeys(result.training.provenance.command for result in results)
    known = [command for command in commands if command]
    shown = [f"`{_pasteable(command)}`" for command in known or [command_line()]]
    return f"{'Made' if known else 'Drawn'} by {' and '.join(shown)}."


def _pasteable(command: str) -> str:
    script = command.partition(" ")[0]
    return f"python {command}" if script.endswith(".py") else command


def model_notes(experiment: Experiment, table: pandas.DataFrame) -> list[str]:
    """Where the models come from, and what is known to be odd in them."""
    entries = [entry_of(experiment, model) for model in dict.fromkeys(table["model"])]
    return [
        " ".join([f"{entry.label}: {entry.source}.", *(f"{n.rstrip('.')}." for n in entry.notes)])
        for entry in entries
    ]
