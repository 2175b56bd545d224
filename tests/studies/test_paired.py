"""The studies that compare trainings pair by pair: their statistics, their arms and their runs."""

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel
from support.engines import InProcess

from pythae_fif.data import load_images
from pythae_fif.runs.store import Store
from pythae_fif.study import RESULT_FILE, StudyOptions, run_study
from studies import cost, equal_time, surrogate_fraction
from studies.paired import training
from studies.paired.comparison import Difference, compare, holm, missing_seeds
from studies.paired.training import PairedResult, PairedScores

FAILED = PairedResult("data", None, "NaN")


def make_result(nats, mse=1.0, val_nats=0.0):
    """Returns a result with these log-likelihoods of the test points."""
    scores = PairedScores(
        steps=1, best_epoch=1, beta=None, train_seconds=1, score_seconds=1, points=len(nats),
        noise_std=1, mse=mse, variance=2.0, trace=1, nats={}, val_nats={"mixture": val_nats},
        distance={}, point_nats={"mixture": list(nats)},
    )  # fmt: skip
    return PairedResult("data", scores)


# ------------------------------------------------------------------ statistics


def test_difference_is_paired_by_seed_and_point():
    rng = np.random.default_rng(0)
    base = 100 * rng.standard_normal((3, 50)).round(1)
    gain = 2 + rng.standard_normal((3, 50)).round(1)
    first = {seed: make_result(base[seed] + gain[seed]) for seed in range(3)}
    second = {seed: make_result(base[seed]) for seed in range(3)}
    difference = compare(first, second, "mixture")

    assert difference.mean == pytest.approx(gain.mean())
    assert difference.point_error == pytest.approx(gain.mean(0).std(ddof=1) / np.sqrt(50))
    expected = ttest_rel((base + gain).mean(1), base.mean(1)).pvalue
    assert difference.p == pytest.approx(expected)
    assert difference.margin > 1.6 * difference.point_error


def test_pairs_with_a_failed_run_are_left_out():
    first = {0: make_result([1.0, 1.0]), 1: make_result([9.0, 9.0], mse=3.0), 2: FAILED}
    second = {seed: make_result([0.0, 0.0]) for seed in range(4)}
    difference = compare(first, second, "mixture")
    assert (difference.mean, difference.seeds, difference.failures) == (1.0, 1, (2, 0))


def test_holm_adjusts_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03, float("nan")]) == pytest.approx([0.04, 0.09, 0.09, 1.0])


# ------------------------------------------------------------------ verdicts


def test_unfinished_criteria_are_undecided():
    results = {"power": {"fif": {seed: make_result([1.0]) for seed in range(2)}}}
    missing = missing_seeds(results, ["fif"], {"power": range(10)})
    assert missing == ["power 2 of 10 seeds"]
    surrogate, objective = cost.verdicts([], missing)
    assert "undecided: power 2 of 10 seeds" in surrogate
    assert "undecided" in objective


@pytest.mark.parametrize(
    ("means", "verdict"),
    [
        ((0.5, 0.4, 0.0), "yes"),
        ((0.5, 0.0, 0.0), "no"),
        ((0.5, 0.4, -0.5), "no"),
        ((-0.5, -0.4, 0.0), "no"),
    ],
)
def test_decoder_steps_are_worth_their_time(means, verdict):
    noise = 0.01 * np.arange(5)
    results = {
        dataset: {
            "decoder_steps": {seed: make_result(mean + noise[[seed, seed]]) for seed in range(5)},
            "longer": {seed: make_result([0.02, 0.02]) for seed in range(5)},
        }
        for dataset, mean in zip(cost.TASKS, means, strict=True)
    }
    comparisons = cost.compare_arms(results, [cost.PRICE], "mixture")
    assert cost.judge_price(comparisons, []) == verdict
    assert cost.judge_price(comparisons, ["power"]) == "undecided: power"


@pytest.mark.parametrize(
    ("mean", "seed_error", "failures", "verdict"),
    [
        (-0.01, 0.001, (0, 0), "not worse"),
        (-0.03, 0.1, (0, 0), "not worse by the mean"),
        (-0.09, 0.1, (0, 0), "worse by the mean"),
        (-0.5, 0.01, (0, 0), "worse"),
        (0.5, 0.01, (1, 0), "worse"),
    ],
)
def test_fractions_are_judged_by_mean_and_noise(mean, seed_error, failures, verdict):
    difference = Difference(mean, 3, failures, seed_error, 0.001, 0.5)
    assert surrogate_fraction.judge(difference, margin=0.06) == verdict


@pytest.mark.parametrize(
    ("verdicts", "recommended"),
    [
        ([["not worse"], ["not worse by the mean"], ["worse by the mean"]], "0.25"),
        ([["worse", "undecided"], ["not worse", "undecided"], ["not worse"]], "1"),
        ([["not worse", "undecided"], ["worse"], ["not worse"]], None),
        ([["not worse"], ["not worse"], ["not worse"]], "0.1"),
    ],
)
def test_recommended_fraction_is_the_last_before_a_worse_one(verdicts, recommended):
    fractions = list(surrogate_fraction.ARMS)[1:]
    assert surrogate_fraction.recommend(dict(zip(fractions, verdicts, strict=True))) == recommended


@pytest.mark.parametrize(
    ("mean", "seed_error", "point_error", "verdict"),
    [
        (0.9, 0.05, 0.05, "yes"),
        (-0.9, 0.05, 0.05, "no"),
        (0.9, 0.05, 0.9, "undecided"),
        (0.9, 0.9, 0.05, "undecided"),
        (0.01, 0.02, 0.02, "level"),
    ],
)
def test_equal_time_is_judged_with_the_noise_of_seeds_and_points(
    mean, seed_error, point_error, verdict
):
    difference = Difference(mean, 3, (0, 0), seed_error, point_error, 0.5)
    assert equal_time.judge(difference, margin=0.3) == verdict


def test_arms_are_chosen_by_validation_and_without_failed_runs():
    val_nats = {"fif_5": (3.0, 3.0), "fif_10": (5.0, 5.0), "fif_25": (9.0, 0.0)}
    arms = {
        name: {seed: make_result([0.0], val_nats=nats) for seed, nats in enumerate(values)}
        for name, values in val_nats.items()
    }
    arms["fif_auto"] = {0: FAILED}
    assert equal_time.choose(arms, list(equal_time.FIFS), "mixture") == "fif_10"
    assert equal_time.choose(arms, ["fif_auto"], "mixture") is None


def test_arms_get_the_epochs_of_equal_time():
    """The first two epochs and eight more of the reference take 10 s."""
    splits = load_images("digits").subset(train=5050)
    task = training.DIGITS.model_copy(update={"epochs": 24})
    first_epochs = equal_time.count_epochs(equal_time.FIRST_STEPS, task, splits)
    seconds = {"fif_auto": (2.0, 1.0), "rae_l2": (1.0, 0.5), "wae_10": (2.5, 2.5)}
    task = task.model_copy(update={"epochs": first_epochs + 8})
    times = equal_time.equal_times(seconds, task, splits)
    epochs = {name: measured.epochs - first_epochs for name, measured in times.items()}
    assert epochs == {"fif_auto": 8, "rae_l2": 18, "wae_10": 3}


# ------------------------------------------------------------------ arms


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_exact_volumes_have_the_gradient_of_a_linear_map(side):
    torch.manual_seed(0)
    f = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    g = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, 5, dtype=torch.float64)
    function = cost.EXACT[f"exact {side}"]
    output = function(lambda x: x @ f.T, lambda z: z @ g.T, x, torch.empty(0))

    volume = -torch.logdet(f @ f.T) / 2 if side == "encoder" else torch.logdet(g.T @ g) / 2
    weight = f if side == "encoder" else g
    expected = torch.autograd.grad(volume, weight)
    torch.testing.assert_close(torch.autograd.grad(output.surrogate.mean(), weight), expected)
    torch.testing.assert_close(output.surrogate, volume.expand(3))


def test_refitted_prior_keeps_the_scale_of_the_codes():
    codes = 3 + torch.randn(500, 2) @ torch.tensor([[2.0, 1.0], [0.0, 0.1]])
    mean, covariance = cost.standardised_mixture(codes).moments()
    torch.testing.assert_close(mean, torch.zeros(2).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(covariance, torch.eye(2).double(), atol=1e-5, rtol=0)


# ------------------------------------------------------------------ runs


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Options of a study of few digits, which trains for two epochs."""
    splits = load_images("digits").subset(train=100, val=20, test=10)
    monkeypatch.setattr(training, "load_splits", lambda *_: splits)
    monkeypatch.setattr(training, "SAMPLES", 500)
    short_task = training.DIGITS.model_copy(update={"epochs": 2})
    for study in (cost, equal_time, surrogate_fraction):
        monkeypatch.setattr(study, "TASKS", {"digits": short_task})
    monkeypatch.setattr(cost, "FIRST_STEPS", 2)
    monkeypatch.setattr(equal_time, "FIRST_STEPS", 2)
    monkeypatch.setattr(equal_time, "TIMED_STEPS", 4)
    return StudyOptions(tmp_path, engine=InProcess(executed=[]))


@pytest.mark.usefixtures("short_likelihoods")
@pytest.mark.parametrize(
    ("name", "study", "extra_runs"),
    [
        ("cost", cost, 0),
        ("surrogate_fraction", surrogate_fraction, 0),
        ("equal_time", equal_time, 1),
    ],
)
def test_every_arm_trains_and_nothing_is_trained_twice(name, study, extra_runs, options):
    (path,) = run_study(name, options, lambda _: None)
    assert len(options.engine.executed) == len(study.ARMS) + extra_runs
    page = path.read_text()
    assert path.name.endswith("-quick.md")
    assert "ndecided" in page

    store = Store(options.results)
    specs = [s for s in options.engine.executed if isinstance(s, training.PairedTraining)]
    results = [store.read_record(spec, RESULT_FILE, PairedResult).result for spec in specs]
    assert len({result.scores.nats["normal"] for result in results}) == len(study.ARMS)

    options.engine.executed.clear()
    run_study(name, options, lambda _: None)
    assert options.engine.executed == []
    assert path.read_text() == page
