"""The scores of an experiment: one row a model and sampler, chosen on the validation split."""

__all__ = [
    "Report",
    "Row",
    "build_report",
]

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pythae_fif.benchmark.config import Experiment, length_of
from pythae_fif.benchmark.leaderboard import ImageStore
from pythae_fif.benchmark.model_entry import read_model_entry
from pythae_fif.benchmark.selection import Choice, Result, select
from pythae_fif.evaluation.scores import Scores
from pythae_fif.evaluation.scoring import FEWEST_SAMPLES
from pythae_fif.reports.command import commands_of
from pythae_fif.runs.compare import difference
from pythae_fif.sampling import FIT_STEPS, FITTED, SAMPLERS
from pythae_fif.validation import flag_of

CONSTANT = 0.98
"""A model whose squared error is above this part of the mean image's error did not learn."""

MAIN_PACKAGES = ("pythae-fif", "pythae", "torch", "numpy", "scikit-learn")
"""Those whose versions a table's note names; the records name all."""


@dataclass(frozen=True)
class Row:
    """A line of the table: means over the seeds, and `std`, their standard deviations.

    With one seed the standard deviation of the distance is over draws of samples. `noise` is twice
    the distance's standard error, from these spreads and from how validation and test split differ.
    With two or three seeds it is a rough estimate.
    """

    model: str
    sampler: str
    configuration: str
    candidates: int
    frechet_val: float
    frechet_test: float
    frechet_test_std: float | None
    frechet_test_noise: float
    score: float | None
    score_std: float | None
    kernel: float | None
    precision: float | None
    recall: float | None
    density: float | None
    coverage: float | None
    nearer: float | None
    authenticity: float | None
    reconstruction_mse: float
    training_seconds: float
    parameters: int
    learned: bool
    run_ids: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """An experiment's chosen configurations with all that must stand beside their numbers.

    Attributes:
        experiment: What was asked for.
        results: Its finished runs; at least one.
        choices: The runs that the rows come from.
        rows: One a choice, in the same order.
        notes: Sentences under the table.
        differences: One a row, from the same runs in a reference: see
            :func:`~pythae_fif.runs.compare.difference`; NaN where it has not all of them. Empty
            without a reference.
    """

    experiment: Experiment
    results: list[Result]
    choices: list[Choice]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    differences: tuple[float, ...] = ()

    @property
    def title(self) -> str:
        """Data set, architecture and profile."""
        experiment = self.experiment
        return f"{experiment.dataset}, {experiment.arch}, profile {experiment.profile}"

    @property
    def machines(self) -> list[str]:
        """Names of the machines that made the results, each once."""
        return list(dict.fromkeys(result.record.provenance.machine for result in self.results))

    @property
    def scored(self) -> Scores:
        """Of the first run: how samples are scored is the same for all runs of a table."""
        return next(iter(self.results[0].record.scores.values()))

    @property
    def distance(self) -> str:
        """What the Frechet distance of the extractor is called."""
        return self.scored.distance_name

    @property
    def score(self) -> str | None:
        """What the extractor's score is called; None if it gives none."""
        return self.scored.score_name


def build_report(
    experiment: Experiment,
    results: list[Result],
    missing: int = 0,
    constant_mse: float | None = None,
    reference: ImageStore | None = None,
) -> Report:
    """Selects the configurations and gathers what must be said about them.

    Args:
        experiment: What was asked for.
        results: Its finished runs; at least one.
        missing: Number of runs that have no record, or not of every sampler that is asked.
        constant_mse: Squared error a test pixel of the training images' mean, by which a model
            that did not learn is known; None leaves that out.
        reference: Another store, with runs made elsewhere.
    """
    choices = select(results)
    by_split = _split_noise(choices)
    rows = [_row(choice, by_split[choice.sampler], constant_mse) for choice in choices]
    report = Report(experiment, results, choices, rows)
    notes = [*_warnings(report, missing, constant_mse), *_notes(report)]
    differences: tuple[float, ...] = ()
    if reference is not None:
        notes.append(
            "Reference: the largest relative difference of the row's scores from those of the same "
            "runs in the reference; – where it has not all of them, `other extractor` where one "
            "of other weights scored them, such as a classifier that was trained on this machine."
        )
        differences = tuple(_from_reference(choice, reference) for choice in choices)
    return replace(report, notes=notes, differences=differences)


def _from_reference(choice: Choice, reference: ImageStore) -> float:
    """How far a choice's scores are from the reference; NaN where a run is not in it, infinite
    where an extractor of other weights made them."""
    found = [0.0]
    for spec, record in ((result.spec, result.record) for result in choice.results):
        theirs = reference.record(spec)
        if theirs is None or choice.sampler not in theirs.scores:
            return math.nan
        ours, scores = record.scores[choice.sampler], theirs.scores[choice.sampler]
        if ours.extractor_hash != scores.extractor_hash:
            found.append(math.inf)
        for part in (f"scores.{choice.sampler}.", "reconstruction_mse."):
            found.append(difference(record, theirs, part).value)
    return max(found)


def _warnings(report: Report, missing: int, constant_mse: float | None) -> list[str]:
    """What stands before all other notes: why numbers are missing or cannot be compared."""
    experiment, results, scored = report.experiment, report.results, report.scored
    warnings = []
    if missing:
        runs = "1 run has" if missing == 1 else f"{missing} runs have"
        warnings.append(f"{runs} no result, or not of every sampler: the table is not complete.")
    dimensions = {
        row.model: choice.spec.latent_dim
        for row, choice in zip(report.rows, report.choices, strict=True)
        if choice.spec.latent_dim != experiment.latent_dim
    }
    if dimensions:
        others = ", ".join(f"{model} {dimension}" for model, dimension in dimensions.items())
        warnings.append(f"Of another latent dimension: {others}.")
    weights = {s.extractor_hash for result in results for s in result.record.scores.values()}
    if len(weights) > 1:
        warnings.append(
            f"The scores are of {len(weights)} different weights of the extractor "
            f"({', '.join(sorted(weights))}): their distances are not on one scale."
        )
    failed = sorted({row.model for row in report.rows if not row.learned})
    if failed:
        warnings.append(
            f"† {', '.join(failed)} did not learn: the reconstruction error of the chosen run is "
            f"no better than that of the training {experiment.things}' mean, {constant_mse:.4f} "
            f"(within {1 - CONSTANT:.0%}); such rows say nothing about the model."
        )
    references = results[0].record.data.sizes["test"]
    if min(scored.num_samples, references) < FEWEST_SAMPLES:
        warnings.append(
            f"Few data: {scored.num_samples:,} samples and {references:,} references, fewer than "
            f"{FEWEST_SAMPLES:,}: distances are biased upwards, and compare at these numbers alone."
        )
    return warnings


def _notes(report: Report) -> list[str]:
    """What data, scores and training the numbers stand for."""
    experiment, results, choices = report.experiment, report.results, report.choices
    things = experiment.things
    data, accuracy = results[0].record.data, results[0].record.extractor_accuracy
    scored = report.scored
    provenance = [result.record.provenance for result in results]
    machines = report.machines
    if len(machines) > 1:
        machines = [f"machine {i}, {machine}" for i, machine in enumerate(machines, start=1)]
    versions = dict.fromkeys(
        ", ".join(f"{name} {p.versions[name]}" for name in MAIN_PACKAGES if name in p.versions)
        for p in provenance
    )
    fitted = [SAMPLERS[s].label for s in FITTED if any(choice.sampler == s for choice in choices)]
    seeds = sorted({result.spec.seed for choice in choices for result in choice.results})
    most = max(choice.candidates for choice in choices)
    tried = "one configuration" if most == 1 else f"at most {most} configurations"
    changed = " ".join(f"{flag_of(key)} {value}" for key, value in experiment.overrides.items())
    notes = [
        f"Profile `{experiment.profile}` ({experiment.settings.note})"
        + (f", but with {changed}" if changed else "")
        + f"; {tried} a model, latent dimension {experiment.latent_dim}.",
        f"Data: {data.source}; used {data.sizes['train']:,} training, {data.sizes['val']:,} "
        f"validation and {data.sizes['test']:,} test {things}.",
        f"Scores: {scored.num_samples:,} samples, "
        f"{'rounded to 8 bits' if scored.rounded else 'not rounded'}; extractor "
        f"`{scored.extractor}` ({scored.extractor_hash}"
        + (f", test accuracy {accuracy:.1%}" if accuracy is not None else "")
        + f"). FD is its {scored.distance_name}, "
        + (f"CS its {scored.score_name}, " if scored.score_name else "")
        + "KD the kernel distance (KID's formula), then improved precision and recall, density and "
        f"coverage, all of the test {things}; "
        + (
            f"mem. the probability that a sample is nearer to the training {things} than a test "
            f"{things.rstrip('s')} is (0.5 is new, 1 copied), auth. the fraction of samples that "
            "are no copies; "
            if any(row.nearer is not None for row in report.rows)
            else ""
        )
        + f"MSE the squared reconstruction error a "
        f"{'value' if things == 'rows' else 'pixel'}; distances of another extractor or sample "
        "count are on another scale.",
        "Each model and sampler has the configuration of lowest validation distance"
        f"{_left_out(choices)}; bold is the "
        "lowest test distance of a sampler, underlined the second; if the lowest does not stand "
        f"out, `=` marks all that are level with it, {_noise_note(choices)}",
    ]
    if fitted:
        notes.append(
            f"The density models of {', '.join(fitted)} are fitted to the training codes in at "
            f"most {experiment.settings.fit_steps or FIT_STEPS:,} steps of Adam on 100 codes each."
        )
    commands = commands_of(experiment, [result.spec for result in results])
    return [
        *notes,
        f"{_training_line(experiment, choices)}, "
        f"seeds {', '.join(map(str, seeds))}, on {' and '.join(machines)}; "
        f"{'; or '.join(versions)}.",
        f"Made by {' and '.join(f'`{command}`' for command in commands)}.",
    ]


def _training_line(experiment: Experiment, choices: list[Choice]) -> str:
    """How long and with what batches the models trained, and under a wall clock what it was."""
    settings = experiment.settings
    batches = dict.fromkeys(choice.spec.settings.batch_size for choice in choices)
    batch = f"batch {' or '.join(map(str, batches))}"
    if settings.precision != "float32":
        batch += f", forward and backward passes in {settings.precision}"
    if settings.wall_clock is None:
        return f"Epochs {settings.epochs}, {batch}"
    training = [result.record.training for choice in choices for result in choice.results]
    used = [t.train_seconds for t in training if t.train_seconds is not None]
    return (
        f"{length_of(settings).capitalize()} of training steps a run, evaluation not counted (used "
        f"{min(used):.0f} to {max(used):.0f} s), {batch}"
    )


def _left_out(choices: Sequence[Choice]) -> str:
    """How many configurations of each model had fewer seeds than others and did not compete."""
    most: dict[str, int] = {}
    for choice in choices:
        label = read_model_entry(choice.model).label
        most[label] = max(most.get(label, 0), choice.left_out)
    found = ", ".join(f"{number} of {label}" for label, number in most.items() if number)
    return f" among those of most seeds (fewer seeds, left out: {found})" if found else ""


def _noise_note(choices: Sequence[Choice]) -> str:
    """What marks and ± of the distances are made of, and what of their noise is not known."""
    single = [choice for choice in choices if len(choice.results) == 1]
    unknown = sum(_sampling_error(choice) is None for choice in single)
    over = ["seeds"] * (len(single) < len(choices)) + ["draws of samples"] * (unknown < len(single))
    noise = "".join(f" and of {name}" for name in over)
    text = f"within the noise of the split (by how validation and test distances differ){noise}."
    if over:
        text += f" ± is the standard deviation over {', with one seed over '.join(over)}."
    if "seeds" in over:
        text += " Other numbers are means over the seeds."
    if unknown:
        rows = f" of {unknown} of the rows" if unknown < len(choices) else "s"
        text += (
            f" By how much other samples would move the distance{rows} is not known: the runs are "
            "of an earlier version."
        )
    if single:
        text += " With one seed nothing is known of the noise of training."
    return text


def _split_noise(choices: Sequence[Choice]) -> dict[str, float]:
    """Sampler -> standard deviation by which other references move a distance, relative to it.

    The logarithm of the ratio of test to validation distance spreads over the models by 1.5 median
    absolute deviations. Both splits have a part in that, so each has 1 / sqrt(2) of it.
    """
    ratios: dict[str, list[float]] = {}
    for choice in choices:
        logs = [math.log(max(choice.distance(split), 1e-9)) for split in ("test", "val")]
        ratios.setdefault(choice.sampler, []).append(logs[0] - logs[1])
    found = {}
    for sampler, values in ratios.items():
        centre = statistics.median(values)
        spread = 1.5 * statistics.median(abs(value - centre) for value in values)
        found[sampler] = spread / math.sqrt(2)
    return found


def _sampling_error(choice: Choice) -> float | None:
    """Of the test distance, over draws of samples; None where a record does not know it."""
    return choice.mean(lambda scores: (scores.frechet_error or {}).get("test"))


def _row(choice: Choice, split_noise: float, constant_mse: float | None) -> Row:
    frechet_test, seeds = choice.distance("test"), len(choice.results)
    draws = _sampling_error(choice)
    spread = draws if seeds == 1 else choice.std(lambda scores: scores.frechet["test"])
    # Each seed draws its own samples, so a distance moves at least as much as those of draws do.
    noise = math.hypot(split_noise * frechet_test, max(spread or 0, draws or 0) / math.sqrt(seeds))
    records = [result.record for result in choice.results]
    errors = [record.reconstruction_mse["test"] for record in records]

    def score(scores: Scores) -> float | None:
        return None if scores.score is None else scores.score.mean

    def neighbours(name: str) -> float | None:
        return choice.mean(lambda scores: getattr(scores.neighbours["test"], name))

    return Row(
        model=read_model_entry(choice.model).label,
        sampler=SAMPLERS[choice.sampler].label,
        configuration=choice.spec.configuration,
        candidates=choice.candidates,
        frechet_val=choice.distance("val"),
        frechet_test=frechet_test,
        frechet_test_std=spread,
        frechet_test_noise=2 * noise,
        score=choice.mean(score),
        score_std=choice.std(score),
        kernel=choice.mean(lambda s: s.kernel["test"].mean),
        precision=neighbours("precision"),
        recall=neighbours("recall"),
        density=neighbours("density"),
        coverage=neighbours("coverage"),
        nearer=choice.mean(lambda s: s.memorisation.nearer["test"] if s.memorisation else None),
        authenticity=choice.mean(lambda s: s.memorisation.authenticity if s.memorisation else None),
        reconstruction_mse=statistics.fmean(errors),
        training_seconds=statistics.fmean(record.training.seconds for record in records),
        parameters=records[0].parameters,
        # One seed that did not learn is enough to spoil the mean.
        learned=constant_mse is None or max(errors) < CONSTANT * constant_mse,
        run_ids=tuple(result.spec.run_id for result in choice.results),
    )
