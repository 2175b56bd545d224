"""Early stopping, gradient clipping, and schedules that count steps."""

import math
import time

import pytest
import torch
from pythae.trainers import BaseTrainerConfig
from support.trainings import (
    MODELS,
    Images,
    build_config,
    build_model,
    build_trainer,
)

from pythae_fif import FIFTrainer, FIFTrainerConfig
from pythae_fif.baselines import Trumpet, TrumpetConfig
from pythae_fif.errors import ConfigError
from pythae_fif.training import EpochRow, TrainerOptions
from pythae_fif.training.checkpoint import default_run_id
from pythae_fif.training.progress import epochs_since_best
from pythae_fif.training.updates import Optimizers


def build_trumpet(**options):
    return Trumpet(
        TrumpetConfig(input_dim=(1, 8, 8), latent_dim=2, steps=1, hidden_channels=4, **options)
    )


# ------------------------------------------------------------------ early stopping


@pytest.mark.parametrize(
    ("losses", "stages", "expected"),
    [
        ([3.0], "a", 0),
        ([3.0, 2.0, 1.0], "aaa", 0),
        ([1.0, 2.0, 1.0], "aaa", 2),
        ([3.0, math.inf, 4.0], "aaa", 2),
        ([math.inf, math.inf], "aa", 1),
        ([1.0, 1.0, 9.0], "aab", 0),
        ([1.0, 9.0, 9.0], "abb", 1),
    ],
)
def test_epochs_since_best(losses, stages, expected):
    log = [
        EpochRow(epoch, {}, {"loss": loss}, {}, 1.0, 0.0, stage)
        for epoch, (loss, stage) in enumerate(zip(losses, stages, strict=True), start=1)
    ]
    assert epochs_since_best(log) == expected


@pytest.mark.parametrize("keep_last", [False, True])
@pytest.mark.parametrize("name", ["AE", "RAE_L2"])
def test_a_loss_that_stays_ends_the_training(name, keep_last, tmp_path):
    model = build_model(name, networks="mlp")
    options = {"lr": 0.0, "model": model, "keep_last": keep_last, "early_stopping_patience": 2}
    result = build_trainer(name, tmp_path, epochs=9, **options).train()
    assert (result.epochs, result.ended_by) == (3, "early_stopping_patience")
    assert result.best_epoch == (3 if keep_last else 1)
    assert result.log[-1].share_done == 3 / 9


def test_a_loss_that_falls_lets_the_training_go_on(tmp_path):
    model = build_model("AE", networks="mlp")
    trainer = build_trainer("AE", tmp_path, model=model, epochs=3, early_stopping_patience=1)
    result = trainer.train()
    assert (result.epochs, result.ended_by) == (3, "num_epochs")


@pytest.mark.parametrize("limit", ["wall_clock", "processor_time"])
def test_a_limit_of_time_is_named(limit, tmp_path):
    result = build_trainer("AE", tmp_path, epochs=10**6, **{limit: 0.01}).train()
    assert result.ended_by == limit


def test_processor_time_does_not_count_waiting(tmp_path):
    def sleep(*_, **__):
        time.sleep(0.05)

    model = build_model("AE", networks="mlp")
    model.register_forward_hook(sleep)
    trainer = build_trainer("AE", tmp_path, model=model, epochs=10, processor_time=1e3)
    start = time.monotonic()
    result = trainer.train()
    steps = result.images / 16
    assert time.monotonic() - start > 0.05 * steps
    assert result.seconds < 0.05 * steps


def test_two_limits_of_time_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="wall_clock and processor_time: give one of them"):
        build_trainer("AE", tmp_path, wall_clock=1.0, processor_time=1.0)


def test_an_epoch_finds_the_best_weights_so_far(tmp_path):
    kept = []
    model = build_model("AE", networks="mlp")
    trainer = build_trainer(
        "AE",
        tmp_path,
        model=model,
        epochs=3,
        on_epoch=lambda row: kept.append(trainer.best_weights),
    )
    trainer.train()
    assert len(kept) == 3
    assert kept[-1].keys() == model.state_dict().keys()
    for name, weights in model.state_dict().items():
        assert torch.equal(kept[-1][name], weights)


def test_a_model_in_stages_stops_early_only_in_its_last_stage(tmp_path):
    data = torch.randint(256, (32, 1, 8, 8), dtype=torch.uint8)
    config = FIFTrainerConfig(
        num_epochs=20, learning_rate=0.0, early_stopping_patience=2, no_cuda=True
    )
    model = build_trumpet(manifold_epochs=4)
    log = FIFTrainer(model, data, data, config, run_dir=tmp_path).train().log
    assert [row.stage for row in log] == ["manifold"] * 4 + ["density"] * 3


# ------------------------------------------------------------------ gradient clipping


@pytest.mark.parametrize("name", ["FIF", "RAE_L2", "Adversarial_AE"])
def test_the_gradients_of_each_optimizer_are_clipped(name):
    inputs = Images().batch(torch.arange(40))
    norms = []
    for clip_norm in (None, 1e-3):
        model = build_model(name)
        torch.manual_seed(0)
        options = TrainerOptions(gradient_clip_norm=clip_norm)
        optimizers = Optimizers(model, build_config(name), options)
        optimizers.step(model(inputs, epoch=1, dataset_size=40))
        norms.append([gradient_norm(optimizers, prefix) for prefix in MODELS[name].kind.prefixes])

    for norm, clipped_norm in zip(*norms, strict=True):
        assert norm > 1e-3
        assert clipped_norm == pytest.approx(1e-3, rel=1e-3)


def gradient_norm(optimizers, prefix):
    gradients = [weight.grad for weight in optimizers._weights(prefix) if weight.grad is not None]
    return float(torch.cat([gradient.flatten() for gradient in gradients]).norm())


# ------------------------------------------------------------------ schedules


def one_cycle_rates(total_steps):
    """The rates of OneCycleLR by PyTorch."""
    optimizer = torch.optim.Adam(torch.nn.Linear(1, 1).parameters())
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=total_steps)
    rates = []
    for _ in range(total_steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Four epochs of three steps: the last rate of each epoch.
        ({"scheduler_interval": "step"}, one_cycle_rates(12)[2::3]),
        ({"scheduler_interval": "epoch"}, one_cycle_rates(4)),
        (
            {
                "scheduler_interval": "step",
                "scheduler_params": {"max_lr": 1e-2, "epochs": 2, "steps_per_epoch": 3},
            },
            [one_cycle_rates(6)[step] for step in (2, 5, 5, 5)],
        ),
        (
            {
                "scheduler_cls": "CosineAnnealingLR",
                "scheduler_params": None,
                "learning_rate": 1.0,
            },
            [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2],
        ),
        (
            {
                "scheduler_cls": "ExponentialLR",
                "scheduler_params": {"gamma": 0.5},
                "scheduler_interval": "step",
                "learning_rate": 1.0,
            },
            [1 / 4, 1 / 32, 1 / 256, 1 / 2048],
        ),
    ],
    ids=["steps", "epochs", "ends early", "cosine", "exponential"],
)
def test_schedules_count_steps_or_epochs(options, expected, tmp_path):
    one_cycle = {"scheduler_cls": "OneCycleLR", "scheduler_params": {"max_lr": 1e-2}}
    config = FIFTrainerConfig(
        num_epochs=4, per_device_train_batch_size=16, no_cuda=True, **{**one_cycle, **options}
    )
    parameters = config.scheduler_params
    log = FIFTrainer(build_model("AE"), Images(), None, config, run_dir=tmp_path).train().log
    assert [row.learning_rates["learning_rate"] for row in log] == pytest.approx(expected)
    assert config.scheduler_params == parameters


def test_a_skipped_step_is_not_a_step_of_the_schedule(tmp_path):
    schedules = {}
    for prefix in MODELS["VAEGAN"].kind.prefixes:
        schedules[f"{prefix}scheduler_cls"] = "ExponentialLR"
        schedules[f"{prefix}scheduler_params"] = {"gamma": 0.5}
    model = build_model("VAEGAN")
    skipped = []
    model.register_forward_hook(
        lambda model, inputs, output: (
            skipped.append(not output.update_decoder) if model.training else None
        )
    )
    options = {"model": model, "lr": 1e-3, "scheduler_interval": "step", **schedules}
    result = build_trainer("VAEGAN", tmp_path, epochs=4, **options).train()

    assert any(skipped)
    steps = len(skipped) - sum(skipped) - (not skipped[-1])
    rate = result.log[-1].learning_rates["decoder_learning_rate"]
    assert rate == pytest.approx(1e-3 * 0.5**steps)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"early_stopping_patience": 0}, "early_stopping_patience=0: should be greater than or"),
        ({"gradient_clip_norm": 0.0}, "gradient_clip_norm=0.0: should be greater than 0"),
        ({"scheduler_interval": "batch"}, "scheduler_interval='batch': .*valid: epoch, step"),
    ],
)
def test_wrong_options_are_refused(options, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        FIFTrainerConfig(**options)
    with pytest.raises(ConfigError, match=message):
        build_trainer("RAE_L2", tmp_path / "none", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"eval_dataset": None, "options": TrainerOptions(early_stopping_patience=2)},
            "compares evaluation losses: pass",
        ),
        ({"wall_clock": 9.0}, "OneCycleLR needs total_steps in scheduler_params: with a wall_clo"),
        ({"model": build_trumpet()}, "OneCycleLR needs total_steps"),
        (
            {
                "training_config": BaseTrainerConfig(scheduler_cls="ReduceLROnPlateau"),
                "options": TrainerOptions(scheduler_interval="step"),
            },
            "ReduceLROnPlateau compares the losses of epochs: use scheduler_interval='epoch'",
        ),
    ],
)
def test_options_that_do_not_fit_the_training_are_refused(options, message, tmp_path):
    defaults = {
        "model": build_model("AE"),
        "train_dataset": Images(),
        "eval_dataset": Images(),
        "training_config": FIFTrainerConfig(
            scheduler_cls="OneCycleLR", scheduler_params={"max_lr": 1e-2}
        ),
    }
    with pytest.raises(ConfigError, match=message):
        FIFTrainer(**{**defaults, **options}, run_dir=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_run_ids_depend_on_options_only_if_these_change_the_result():
    model = build_model("AE")

    def run_id(**options):
        config = FIFTrainerConfig(num_epochs=3, **options)
        return default_run_id(model, config, config, (Images(), Images()))

    assert run_id() == run_id(early_stopping_patience=3, scheduler_interval="epoch")
    changed = [run_id(gradient_clip_norm=1.0), run_id(scheduler_interval="step")]
    assert len({run_id(), *changed}) == 3
