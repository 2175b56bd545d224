"""The scripts that compare trainings pair by pair: their statistics, their arms and one run."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel

from pythae_fif.data import load_images

ROOT = Path(__file__).parents[1]


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return {
        name: importlib.import_module(name)
        for name in ("paired", "comparison", "cost", "equal_time", "surrogate_fraction")
    }


def record(nats, mse=1.0):
    return {"point_nats": {"mixture": np.asarray(nats)}, "mse": mse, "variance": 2.0}


def test_records_return_with_nats_to_a_tenth(scripts, tmp_path):
    nats = np.array([-1e5, -2.34, 0.0, 813.26])
    runs = [{"failure": "NaN"}]
    runs += [{"point_nats": {"normal": nats - shift, "mixture": nats}} for shift in (1, -9.94)]
    path = tmp_path / "task.jsonl"
    scripts["paired"].write_records(path, runs)
    content = path.read_bytes()

    records = scripts["paired"].read_records(path)
    assert records[0] == runs[0]
    for run, copy in zip(runs[1:], records[1:], strict=True):
        for prior, values in run["point_nats"].items():
            np.testing.assert_allclose(copy["point_nats"][prior], values, atol=0.051)
    scripts["paired"].write_records(path, records)
    assert path.read_bytes() == content


def test_difference_is_paired_by_seed_and_point(scripts):
    rng = np.random.default_rng(0)
    base = 100 * rng.standard_normal((3, 50)).round(1)
    gain = 2 + rng.standard_normal((3, 50)).round(1)
    first = {seed: record(base[seed] + gain[seed]) for seed in range(3)}
    second = {seed: record(base[seed]) for seed in range(3)}
    difference = scripts["comparison"].compare(first, second, "mixture")

    assert difference.mean == pytest.approx(gain.mean())
    assert difference.point_error == pytest.approx(gain.mean(0).std(ddof=1) / np.sqrt(50))
    expected = ttest_rel((base + gain).mean(1), base.mean(1)).pvalue
    assert difference.p == pytest.approx(expected)
    assert difference.margin > 1.6 * difference.point_error


def test_pairs_with_a_failed_run_are_left_out(scripts):
    first = {
        0: record([1.0, 1.0]),
        1: record([9.0, 9.0], mse=3.0),
        2: {"failure": "NaN"},
    }
    second = {seed: record([0.0, 0.0]) for seed in range(4)}
    difference = scripts["comparison"].compare(first, second, "mixture")
    assert (difference.mean, difference.seeds, difference.failures) == (1.0, 1, (2, 0))


def test_holm_adjusts_and_keeps_the_order(scripts):
    adjusted = scripts["comparison"].holm([0.01, 0.04, 0.03, float("nan")])
    assert adjusted == pytest.approx([0.04, 0.09, 0.09, 1.0])


def test_unfinished_criteria_are_undecided(scripts):
    runs = {seed: record([1.0]) for seed in range(2)}
    missing = scripts["comparison"].missing_seeds(
        {"power": {"fif": runs}}, ["fif"], {"power": range(10)}
    )
    assert missing == ["power 2 of 10 seeds"]
    surrogate, objective = scripts["cost"].verdicts([], missing)
    assert "undecided: power 2 of 10 seeds" in surrogate
    assert "undecided" in objective


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
def test_fractions_are_judged_by_mean_and_noise(scripts, mean, seed_error, failures, verdict):
    difference = scripts["comparison"].Difference(mean, 3, failures, seed_error, 0.001, 0.5)
    assert scripts["surrogate_fraction"].judge(difference, margin=0.06) == verdict


@pytest.mark.parametrize(
    ("means", "verdict"),
    [
        ((0.5, 0.4, 0.0), "yes"),
        ((0.5, 0.0, 0.0), "no"),
        ((0.5, 0.4, -0.5), "no"),
        ((-0.5, -0.4, 0.0), "no"),
    ],
)
def test_decoder_steps_are_worth_their_time(scripts, means, verdict):
    cost = scripts["cost"]
    noise = 0.01 * np.arange(5)
    records = {
        task: {
            "decoder_steps": {seed: record(mean + noise[[seed, seed]]) for seed in range(5)},
            "longer": {seed: record([0.02, 0.02]) for seed in range(5)},
        }
        for task, mean in zip(cost.TASKS, means, strict=True)
    }
    comparisons = cost.compare_arms(records, [cost.PRICE], "mixture")
    assert cost.judge_price(comparisons, []) == verdict
    assert cost.judge_price(comparisons, ["power"]) == "undecided: power"


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_exact_volumes_have_the_gradient_of_a_linear_map(scripts, side):
    torch.manual_seed(0)
    f = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    g = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, 5, dtype=torch.float64)
    function = scripts["cost"].EXACT[f"exact {side}"]
    output = function(lambda x: x @ f.T, lambda z: z @ g.T, x, torch.empty(0))

    volume = -torch.logdet(f @ f.T) / 2 if side == "encoder" else torch.logdet(g.T @ g) / 2
    weight = f if side == "encoder" else g
    expected = torch.autograd.grad(volume, weight)
    torch.testing.assert_close(torch.autograd.grad(output.surrogate.mean(), weight), expected)
    torch.testing.assert_close(output.surrogate, volume.expand(3))


def test_refitted_prior_keeps_the_scale_of_the_codes(scripts):
    codes = 3 + torch.randn(500, 2) @ torch.tensor([[2.0, 1.0], [0.0, 0.1]])
    mean, covariance = scripts["cost"].standardised_mixture(codes).moments()
    torch.testing.assert_close(mean, torch.zeros(2).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(covariance, torch.eye(2).double(), atol=1e-5, rtol=0)


@pytest.mark.usefixtures("few_draws")
def test_every_arm_runs_and_resumes(scripts, tmp_path, monkeypatch):
    cost = scripts["cost"]
    splits = load_images("digits").subset(train=100, val=20, test=10)
    monkeypatch.setattr(scripts["paired"], "load_data", lambda *_: splits)
    monkeypatch.setattr(scripts["paired"], "SAMPLES", 500)
    monkeypatch.setattr(cost, "FIRST_STEPS", 2)
    task = cost.TASKS["digits"]._replace(epochs=2)

    scripts["paired"].run_all([task], cost.ARMS, {"digits": [0]}, tmp_path, "")
    path = tmp_path / "digits.jsonl"
    content = path.read_bytes()
    records = scripts["paired"].read_folder(tmp_path)["digits"]
    assert records.keys() == cost.ARMS.keys()
    assert all("failure" not in runs[0] for runs in records.values())
    likelihoods = {runs[0]["nats"]["normal"] for runs in records.values()}
    assert len(likelihoods) == len(cost.ARMS)

    scripts["paired"].run_all([task], cost.ARMS, {"digits": [0]}, tmp_path, "")
    assert path.read_bytes() == content
    assert "undecided" in cost.report(scripts["paired"].read_folder(tmp_path))


@pytest.mark.parametrize(
    ("verdicts", "recommended"),
    [
        ([["not worse"], ["not worse by the mean"], ["worse by the mean"]], "0.25"),
        ([["worse", "undecided"], ["not worse", "undecided"], ["not worse"]], "1"),
        ([["not worse", "undecided"], ["worse"], ["not worse"]], None),
        ([["not worse"], ["not worse"], ["not worse"]], "0.1"),
    ],
)
def test_recommended_fraction_is_the_last_before_a_worse_one(scripts, verdicts, recommended):
    fractions = list(scripts["surrogate_fraction"].ARMS)[1:]
    by_fraction = dict(zip(fractions, verdicts, strict=True))
    assert scripts["surrogate_fraction"].recommend(by_fraction) == recommended


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
    scripts, mean, seed_error, point_error, verdict
):
    difference = scripts["comparison"].Difference(mean, 3, (0, 0), seed_error, point_error, 0.5)
    assert scripts["equal_time"].judge(difference, margin=0.3) == verdict


def test_arms_are_chosen_by_validation_and_without_failed_runs(scripts):
    val_nats = {"fif_5": (3.0, 3.0), "fif_10": (5.0, 5.0), "fif_25": (9.0, 0.0)}
    arms = {
        name: {
            seed: record([0.0]) | {"val_nats": {"mixture": nats}}
            for seed, nats in enumerate(values)
        }
        for name, values in val_nats.items()
    }
    arms["fif_auto"] = {0: {"failure": "NaN"}}
    names = list(scripts["equal_time"].FIFS)
    assert scripts["equal_time"].choose(arms, names, "mixture") == "fif_10"
    assert scripts["equal_time"].choose(arms, ["fif_auto"], "mixture") is None


@pytest.mark.usefixtures("few_draws")
def test_arms_train_for_epochs_of_equal_time(scripts, tmp_path, monkeypatch):
    equal_time = scripts["equal_time"]
    splits = load_images("digits").subset(train=100, val=20, test=10)
    monkeypatch.setattr(equal_time, "load_data", lambda *_: splits)
    monkeypatch.setattr(scripts["paired"], "load_data", lambda *_: splits)
    monkeypatch.setattr(scripts["paired"], "SAMPLES", 500)
    for name, value in {
        "FIRST_STEPS": 4,
        "TIMED_STEPS": 12,
        "TIMING_ROUNDS": {"digits": 1},
    }.items():
        monkeypatch.setattr(equal_time, name, value)
    task = equal_time.TASKS["digits"]._replace(epochs=10)
    arms = {name: equal_time.ARMS[name] for name in ("fif_auto", "rae_l2", "wae_10")}
    monkeypatch.setattr(equal_time, "TASKS", {"digits": task})
    monkeypatch.setattr(equal_time, "ARMS", arms)

    measured = equal_time.time_training(arms["wae_10"], task, splits)
    assert measured.first_seconds > 0
    assert measured.epoch_seconds > 0

    # The first two epochs and eight more of FIF take 10 s.
    times = {"fif_auto": (2.0, 1.0), "rae_l2": (1.0, 0.5), "wae_10": (2.5, 2.5)}
    seconds_of_arm = {arms[name]: equal_time.TrainingTime(*times[name]) for name in arms}
    monkeypatch.setattr(equal_time, "time_training", lambda arm, *_: seconds_of_arm[arm])
    equal_time.run_timing(tmp_path, ["digits"], "")
    epochs = equal_time.read_epochs(tmp_path)
    numbers = {name: values["epochs"] for name, values in epochs["digits"].items()}
    assert numbers == {"fif_auto": 10, "rae_l2": 20, "wae_10": 5}

    timed_arms = equal_time.arms_of_equal_time(epochs)
    scripts["paired"].run_all([task], timed_arms, {"digits": [0]}, tmp_path, "")
    records = scripts["paired"].read_folder(tmp_path)
    steps = {name: runs[0]["steps"] for name, runs in records["digits"].items()}
    assert steps == {name: 2 * epochs["digits"][name]["epochs"] for name in arms}

    text = equal_time.report(records, epochs)
    assert "undecided: digits 1 of 3 seeds" in text
    assert "FIF and its best rival, mixture" in text
