"""The trainers by contract: they learn, resume bitwise, stay silent and leave whole files."""

import copy
import dataclasses
import json
import logging
import os
import platform
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pythae.data.datasets import BaseDataset, DatasetOutput, collate_dataset_output
from pythae.models import (
    AE,
    RAE_L2,
    RHVAE,
    VAE,
    VAEGAN,
    WAE_MMD,
    Adversarial_AE,
    Adversarial_AE_Config,
    AEConfig,
    AutoModel,
    BetaVAE,
    BetaVAEConfig,
    RAE_L2_Config,
    RHVAEConfig,
    VAEConfig,
    VAEGANConfig,
    WAE_MMD_Config,
)
from pythae.pipelines import TrainingPipeline
from pythae.trainers import (
    AdversarialTrainerConfig,
    BaseTrainer,
    BaseTrainerConfig,
    CoupledOptimizerAdversarialTrainerConfig,
    CoupledOptimizerTrainerConfig,
)
from pythae.trainers.training_callbacks import (
    MLFlowCallback,
    TrainingCallback,
    WandbCallback,
)

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.data import ImageDataset
from pythae_fif.errors import ConfigError, DataError, NonFiniteError, StoreError
from pythae_fif.files import write_whole
from pythae_fif.nn import build_networks
from pythae_fif.training import BatchLoader, build_trainer, keep_freed_memory, quiet_pythae
from pythae_fif.training.checkpoint import random_state, set_random_state
from pythae_fif.training.tensorboard import tensorboard_writer

SHAPE, LATENT = (1, 4, 4), 2

# name -> model class, model configuration, its own arguments, whether the encoder is variational
MODELS = {
    "AE": (AE, AEConfig, {}, False),
    "VAE": (VAE, VAEConfig, {}, True),
    "BetaVAE": (BetaVAE, BetaVAEConfig, {"beta": 0.1}, True),
    "WAE_MMD": (WAE_MMD, WAE_MMD_Config, {"reg_weight": 1e-2}, False),
    "RAE_L2": (RAE_L2, RAE_L2_Config, {"reg_weight": 1e-3}, False),
    "Adversarial_AE": (Adversarial_AE, Adversarial_AE_Config, {}, True),
    "VAEGAN": (VAEGAN, VAEGANConfig, {"reconstruction_layer": 1}, True),
}
FIVE = ["AE", "VAE", "BetaVAE", "WAE_MMD", "RAE_L2"]


class Images:
    """The least that a data set needs for fast batches."""

    def __init__(self, count=40, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.randint(0, 256, (count, 1, 1, 1), generator=generator)
        self.images = self.images.expand(count, *SHAPE).to(torch.uint8)

    def __len__(self):
        return len(self.images)

    def batch(self, indices, device=None):
        data = self.images[indices].to(device).float() / 255
        return DatasetOutput(data=data, labels=torch.ones(len(data), device=device))


def build_model(name):
    torch.manual_seed(1)
    cls, config, arguments, variational = MODELS[name]
    config = config(input_dim=SHAPE, latent_dim=LATENT, **arguments)
    if name == "VAEGAN":  # its discriminator gives intermediate layers; Pythae's default does
        return cls(config)
    return cls(config, *build_networks("convnet", SHAPE, LATENT, variational=variational))


def build_config(name, *, epochs=6, lr=2e-3, plateau=None, **arguments):
    common = {
        "num_epochs": epochs,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 16,
        "no_cuda": True,
        **arguments,
    }
    cls, parts = {
        "RAE_L2": (CoupledOptimizerTrainerConfig, ["encoder_", "decoder_"]),
        "Adversarial_AE": (AdversarialTrainerConfig, ["autoencoder_", "discriminator_"]),
        "VAEGAN": (
            CoupledOptimizerAdversarialTrainerConfig,
            ["encoder_", "decoder_", "discriminator_"],
        ),
    }.get(name, (BaseTrainerConfig, [""]))
    for part in parts:
        common[f"{part}learning_rate"] = lr
        if plateau is not None:
            common[f"{part}scheduler_cls"] = "ReduceLROnPlateau"
            common[f"{part}scheduler_params"] = plateau
    return cls(**common)


def build(
    name, run_dir, *, train=None, evaluation="default", model=None, on_epoch=None,
    wall_clock=None, **config,
):  # fmt: skip
    return build_trainer(
        model or build_model(name),
        train or Images(),
        Images(seed=1) if evaluation == "default" else evaluation,
        build_config(name, **config),
        run_dir=run_dir,
        on_epoch=on_epoch,
        checkpoint_every_seconds=0,
        wall_clock=wall_clock,
    )


def read_log(run_dir):
    return [json.loads(line) for line in (run_dir / "train_log.jsonl").read_text().splitlines()]


def without_times(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def assert_same_weights(left, right):
    left, right = left.state_dict(), right.state_dict()
    assert left.keys() == right.keys()
    assert [k for k in left if not torch.equal(left[k], right[k])] == []


class Killed(Exception):
    pass


def kill_at(epoch):
    def on_epoch(now, num_epochs, metrics):
        if now == epoch:
            raise Killed

    return on_epoch


# Training


@pytest.mark.parametrize("name", FIVE)
def test_trains_logs_and_saves(name, tmp_path):
    seen = []
    trainer = build(name, tmp_path, epochs=8, on_epoch=lambda *arguments: seen.append(arguments))
    result = trainer.train()

    rows = read_log(tmp_path)
    assert [row["epoch"] for row in rows] == list(range(1, 9))
    assert rows[-1]["train_loss"] < 0.9 * rows[0]["train_loss"]
    assert min(row["eval_loss"] for row in rows) < rows[0]["eval_loss"]
    assert seen == [(row["epoch"], 8, row) for row in rows]

    best = min(rows, key=lambda row: row["eval_loss"])
    assert (result.best_epoch, result.best_eval_loss) == (best["epoch"], best["eval_loss"])
    assert result.epochs == 8
    assert result.seconds == pytest.approx(sum(row["seconds"] for row in rows))
    assert result.images_per_second > 8 * 40 / result.seconds

    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "train_log.jsonl"]
    assert json.loads((tmp_path / "model" / "training_config.json").read_text())["num_epochs"] == 8
    assert_same_weights(AutoModel.load_from_folder(str(tmp_path / "model")), trainer.model)


@pytest.mark.parametrize("name", ["Adversarial_AE", "VAEGAN"])
def test_adversarial_trainers_run(name, tmp_path):
    trainer = build(name, tmp_path, epochs=2)
    assert trainer.train().epochs == 2
    assert {f"train_{part}_loss" for part in trainer.parts} < read_log(tmp_path)[0].keys()


# A wall clock; the clock of the tests ticks once a step, so that nothing depends on the machine.


class Ticks:
    """Stands for `time`: each look at the clock is a second later."""

    def __init__(self, seconds=1.0):
        self.now, self.seconds = 0.0, seconds

    def perf_counter(self):
        self.now += self.seconds
        return self.now

    monotonic = perf_counter


@pytest.fixture
def ticks(monkeypatch):
    clock = Ticks()
    for module in ("benchmark_trainer", "clock"):
        monkeypatch.setattr(f"pythae_fif.training.{module}.time", clock)


@pytest.mark.parametrize("name", [*FIVE, "Adversarial_AE", "VAEGAN"])
def test_wall_clock_ends_the_training_and_cuts_epochs(name, tmp_path, ticks):
    trainer = build(name, tmp_path, epochs=1, wall_clock=60.0, train=Images(400))
    result = trainer.train()
    rows = read_log(tmp_path)
    assert len(rows) == 10 == result.epochs  # 25 batches do not fit in a tenth
    assert [row["share_done"] for row in rows] == sorted(row["share_done"] for row in rows)
    assert rows[-1]["share_done"] == 1.0
    assert 60 <= result.train_seconds < 70 and result.seconds > result.train_seconds
    assert 0 < result.images < 10 * 400 and result.images % 16 == 0
    whole = build(name, tmp_path / "whole", epochs=1, train=Images(400))
    whole.train()
    (row,) = read_log(tmp_path / "whole")  # the mean of a cut epoch is that of its own batches
    assert rows[0]["train_loss"] == pytest.approx(row["train_loss"], rel=0.5)


def test_killed_training_does_not_get_its_time_back(tmp_path, ticks):
    arguments = {"wall_clock": 60.0, "train": Images(400)}
    with pytest.raises(Killed):
        build("AE", tmp_path, on_epoch=kill_at(4), **arguments).train()
    before = read_log(tmp_path)
    result = build("AE", tmp_path, **arguments).train()
    rows = read_log(tmp_path)
    assert rows[:4] == before and len(rows) == 10
    assert 60 <= result.train_seconds < 70
    assert sum(row["seconds"] for row in rows) == pytest.approx(result.seconds)


def test_wall_clock_keeps_the_schedule_and_the_best_weights(tmp_path, ticks):
    plateau = {"patience": 0, "factor": 0.5}
    result = build("AE", tmp_path, lr=0.2, plateau=plateau, wall_clock=200.0).train()
    rows = read_log(tmp_path)
    losses = [row["eval_loss"] for row in rows]
    assert result.best_epoch == losses.index(min(losses)) + 1
    assert rows[-1]["learning_rate"] < 0.2


def test_wall_clock_drives_the_schedule_of_beta(tmp_path, ticks, monkeypatch):
    seen = []
    model = FIF(
        FIFConfig(input_dim=SHAPE, latent_dim=LATENT, beta=20.0, beta_final=40.0),
        *build_networks("convnet", SHAPE, LATENT),
    )
    monkeypatch.setattr(model, "beta", lambda *a: seen.append(FIF.beta(model, *a)) or seen[-1])
    build("AE", tmp_path, model=model, wall_clock=100.0, train=Images(400)).train()
    training = [beta for beta in seen if beta < 40]
    assert training == sorted(training)
    assert training[0] < 21 and training[-1] > 38
    middle = training[len(training) // 2]
    assert middle == pytest.approx(30, abs=3)


def test_beta_follows_the_epochs_where_there_is_no_wall_clock(tmp_path, monkeypatch):
    seen = []
    model = FIF(
        FIFConfig(input_dim=SHAPE, latent_dim=LATENT, beta=20.0, beta_final=40.0),
        *build_networks("convnet", SHAPE, LATENT),
    )
    monkeypatch.setattr(model, "beta", lambda *a: seen.append(FIF.beta(model, *a)) or seen[-1])
    build("AE", tmp_path, model=model, epochs=2, train=Images(32), evaluation=None).train()
    assert seen == [20, 25, 30, 35]


@pytest.mark.parametrize("wall_clock", [0.0, -1.0, float("nan"), float("inf")])
def test_wall_clock_out_of_range(wall_clock, tmp_path):
    with pytest.raises(ConfigError, match="wall_clock="):
        build("AE", tmp_path, wall_clock=wall_clock)


def test_keeps_the_best_weights_not_the_last(tmp_path):
    states = []
    trainer = build("AE", tmp_path, epochs=12, lr=0.2)
    trainer.on_epoch = lambda *_: states.append(copy.deepcopy(trainer.model.state_dict()))
    result = trainer.train()
    losses = [row["eval_loss"] for row in read_log(tmp_path)]
    assert result.best_epoch == losses.index(min(losses)) + 1
    assert result.best_epoch < 12, "choose a learning rate at which the last is not the best"
    for key, value in trainer.model.state_dict().items():
        assert torch.equal(value, states[result.best_epoch - 1][key])


def test_without_evaluation_set_keeps_the_best_training_loss(tmp_path):
    result = build("VAE", tmp_path, evaluation=None, epochs=3).train()
    rows = read_log(tmp_path)
    assert not any("eval_loss" in row for row in rows)
    assert result.best_eval_loss == min(row["train_loss"] for row in rows)


def test_same_seed_same_run_and_other_seed_another(tmp_path):
    def losses(folder, seed):
        build("VAE", tmp_path / folder, epochs=2, seed=seed).train()
        return [row["train_loss"] for row in read_log(tmp_path / folder)]

    assert losses("a", 3) == losses("b", 3) != losses("c", 4)


@pytest.mark.parametrize("name", ["AE", "RAE_L2"])
def test_agrees_with_pythaes_own_trainer(name, tmp_path):
    # One batch an epoch and nothing random: the order cannot matter but for rounding.
    batch = Images().batch(torch.arange(40))
    data = BaseDataset(batch.data, batch.labels)
    sizes = {"per_device_train_batch_size": 40, "per_device_eval_batch_size": 40}
    theirs, ours = build_model(name), build_model(name)
    config = build_config(name, epochs=3, output_dir=str(tmp_path / "theirs"), **sizes)
    with quiet_pythae():
        pipeline = TrainingPipeline(model=theirs, training_config=config)
        pipeline(train_data=data, eval_data=data)
    trainer = build(name, tmp_path / "ours", model=ours, evaluation=Images(), epochs=3, **sizes)
    trainer.train()
    for key, value in trainer.model.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[key], atol=1e-5, rtol=1e-4)


def test_reduce_on_plateau_halves(tmp_path):
    for name, keys in {
        "AE": ["learning_rate"],
        "RAE_L2": ["encoder_learning_rate", "decoder_learning_rate"],
    }.items():
        # An absolute threshold that no loss can improve by: every epoch is on the plateau.
        plateau = {"factor": 0.5, "patience": 0, "threshold": 1e6, "threshold_mode": "abs"}
        build(name, tmp_path / name, epochs=4, lr=1e-3, plateau=plateau).train()
        for key in keys:
            rates = [row[key] for row in read_log(tmp_path / name)]
            assert rates == pytest.approx([1e-3, 1e-3, 5e-4, 2.5e-4])


def test_rae_l2_decays_the_decoder_alone(tmp_path):
    config = build_config("RAE_L2")
    trainer = build_trainer(build_model("RAE_L2"), Images(), None, config, run_dir=tmp_path)
    trainer.prepare_training()
    assert trainer.decoder_optimizer.param_groups[0]["weight_decay"] == 1e-3
    assert trainer.encoder_optimizer.param_groups[0]["weight_decay"] == 0
    assert config.decoder_optimizer_params is None, "the caller's configuration is left alone"


# FIFTrainer


def fif_trainer(folder, *, name="FIF", run=True, **options):
    """A trainer of a small model on uint8 images; a kind of training that draws no noise."""
    images = torch.randint(256, (48, *SHAPE), generator=torch.Generator().manual_seed(3))
    torch.manual_seed(1)
    nets = build_networks("convnet", SHAPE, LATENT)
    if name == "FIF":
        model = FIF(FIFConfig(input_dim=SHAPE, latent_dim=LATENT, eval_nll_samples=8), *nets)
    else:
        model = AE(AEConfig(input_dim=SHAPE, latent_dim=LATENT), *nets)
    data = ImageDataset(images.to(torch.uint8))
    arguments = {k: options.pop(k) for k in ("on_epoch", "callbacks") if k in options}
    config = FIFTrainerConfig(
        num_epochs=3, per_device_train_batch_size=16, learning_rate=1e-3, no_cuda=True, **options
    )
    return FIFTrainer(
        model, data, data, config, run_dir=folder, checkpoint_every_seconds=0, **arguments
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_fif_trainer_resumes_exactly(precision, tmp_path):
    options = {"precision": precision, "max_grad_norm": 50.0, "channels_last": True}
    whole = fif_trainer(tmp_path / "whole", **options)
    whole.train()
    with pytest.raises(Killed):
        fif_trainer(tmp_path / "cut", **options, on_epoch=kill_at(2)).train()
    resumed = fif_trainer(tmp_path / "cut", **options)
    resumed.train()
    assert_same_weights(resumed.model, whole.model)


def test_bfloat16_is_another_training_that_ends_near(tmp_path):
    ends = {}
    for precision in ("float32", "bfloat16"):
        trainer = fif_trainer(tmp_path / precision, name="AE", precision=precision)
        ends[precision] = trainer.train().best_eval_loss
        assert next(trainer.model.parameters()).dtype == torch.float32
    assert ends["float32"] != ends["bfloat16"]
    assert ends["bfloat16"] == pytest.approx(ends["float32"], rel=0.02)


def test_channels_last_changes_rounding_alone(tmp_path):
    ends = [
        fif_trainer(tmp_path / str(flag), name="AE", channels_last=flag).train().best_eval_loss
        for flag in (False, True)
    ]
    assert ends[0] == pytest.approx(ends[1], rel=1e-4)


def test_gradients_are_clipped(tmp_path):
    """Adam does not see the size of gradients, plain descent does."""
    moved = []
    for norm in (None, 1e-3):
        trainer = fif_trainer(
            tmp_path / str(norm), name="AE", optimizer_cls="SGD", max_grad_norm=norm
        )
        before = torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])
        trainer.train()
        after = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
        moved.append((after - before).norm().item())
    # Nine steps of at most learning rate times norm.
    assert moved[1] <= 9 * 1e-3 * 1e-3 * 1.01 < moved[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amp": True}, "precision='bfloat16'"),
        ({"steps_predict": 2}, "steps_predict=2: not of this trainer"),
        ({"max_grad_norm": 0.0}, "max_grad_norm=0.0: above 0"),
        ({"precision": "float16"}, "bfloat16"),
        ({"gradient_clip": 1.0}, "gradient_clip"),
    ],
)
def test_fif_trainer_config_rejects(options, message):
    with pytest.raises((ConfigError, ValidationError), match=message):
        FIFTrainerConfig(**options)


def test_pipeline_uses_the_trainer_of_the_configuration(tmp_path):
    for config, kind in ((FIFTrainerConfig, FIFTrainer), (BaseTrainerConfig, BaseTrainer)):
        model = build_model("AE")
        pipeline = TrainingPipeline(model, config(output_dir=str(tmp_path), num_epochs=1))
        with quiet_pythae():
            pipeline(train_data=Images().batch(torch.arange(40)).data)
        assert type(pipeline.trainer) is kind
        reloaded = AutoModel.load_from_folder(f"{pipeline.trainer.training_dir}/final_model")
        assert_same_weights(reloaded, model)


def test_callbacks_hear_of_every_epoch(tmp_path):
    class Listener(TrainingCallback):
        def __init__(self):
            self.heard = []

        def on_train_begin(self, training_config, **kwargs):
            self.heard.append(kwargs["model_config"].name)

        def on_train_step_begin(self, training_config, **kwargs):
            self.heard.append((kwargs["epoch"], len(kwargs["train_loader"])))

        def on_train_step_end(self, training_config, **kwargs):
            self.heard.append("step")

        def on_eval_step_begin(self, training_config, **kwargs):
            self.heard.append((kwargs["epoch"], len(kwargs["eval_loader"])))

        def on_eval_step_end(self, training_config, **kwargs):
            self.heard.append("batch")

        def on_log(self, training_config, logs, **kwargs):
            self.heard.append((kwargs["global_step"], sorted(logs)))

        def on_train_end(self, training_config, **kwargs):
            self.heard.append("end")

    listener = Listener()
    fif_trainer(tmp_path, callbacks=[listener]).train()
    losses = ["eval_epoch_loss", "train_epoch_loss"]
    epochs = [
        heard
        for epoch in (1, 2, 3)
        for heard in ((epoch, 3), "step", "step", "step", (epoch, 1), "batch", (epoch, losses))
    ]
    assert listener.heard == ["FIFConfig", *epochs, "end"]


def test_tensorboard_shows_the_log_once_though_resumed(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    writes = tensorboard_writer(tmp_path)

    def killed(epoch, *rest):
        writes(epoch, *rest)
        kill_at(2)(epoch, *rest)

    with pytest.raises(Killed):
        fif_trainer(tmp_path, on_epoch=killed).train()
    fif_trainer(tmp_path, on_epoch=tensorboard_writer(tmp_path)).train()
    events = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    rows = read_log(tmp_path)
    assert events.Tags()["scalars"] == ["loss/train", "loss/eval", "learning_rate", "seconds"]
    for tag, key in (("loss/train", "train_loss"), ("loss/eval", "eval_loss")):
        shown = [(event.step, event.value) for event in events.Scalars(tag)]
        assert shown == [(row["epoch"], pytest.approx(row[key], rel=1e-6)) for row in rows]


def test_pythaes_mlflow_callback_logs_every_epoch(tmp_path, monkeypatch):
    """The real one, to a folder."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    try:
        callback = MLFlowCallback()
        callback.setup(FIFTrainerConfig(num_epochs=3), run_name="digits")
        fif_trainer(tmp_path, callbacks=[callback]).train()
        run = mlflow.last_active_run()
        client = mlflow.MlflowClient()
        history = client.get_metric_history(run.info.run_id, "train/epoch_loss")
    finally:
        mlflow.end_run()
        mlflow.set_tracking_uri(before)
    rows = read_log(tmp_path)
    assert [(m.step, m.value) for m in history] == [(r["epoch"], r["train_loss"]) for r in rows]


def test_pythaes_wandb_callback_logs_every_epoch(tmp_path, monkeypatch):
    """The real one, offline."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    callback, summary = WandbCallback(), {}
    callback.setup(FIFTrainerConfig(num_epochs=3))

    class Before(TrainingCallback):
        def on_train_end(self, training_config, **kwargs):  # of wandb's, which closes the run
            summary.update(callback.run.summary)

    fif_trainer(tmp_path, callbacks=[Before(), callback]).train()
    wandb.finish()
    last = read_log(tmp_path)[-1]
    assert summary["train/epoch_loss"] == last["train_loss"]
    assert summary["eval/epoch_loss"] == last["eval_loss"]
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_freed_memory_can_be_kept():
    """In a process of its own: the setting cannot be taken back."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = int(keep_freed_memory())
        finally:
            os._exit(code)
    glibc = platform.libc_ver()[0] == "glibc"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == glibc


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_on_a_gpu(precision, tmp_path):
    trainer = fif_trainer(tmp_path, precision=precision)
    config = dataclasses.replace(trainer.training_config, no_cuda=False)
    trainer = FIFTrainer(
        trainer.model, trainer.train_dataset, trainer.eval_dataset, config, run_dir=tmp_path / "g"
    )
    assert trainer.train_loader.dataset.images.device.type == "cuda"
    trainer.train()
    losses = [row["eval_loss"] for row in read_log(tmp_path / "g")]
    assert losses[-1] < losses[0]


# Resuming


@pytest.mark.parametrize("name", [*FIVE, "Adversarial_AE"])
def test_killed_and_resumed_equals_uninterrupted(name, tmp_path):
    plateau = {"factor": 0.5, "patience": 0}
    whole = build(name, tmp_path / "whole", plateau=plateau)
    expected = whole.train()

    for epoch in (2, 5):
        with pytest.raises(Killed):
            build(name, tmp_path / "cut", plateau=plateau, on_epoch=kill_at(epoch)).train()
        torch.manual_seed(99), np.random.seed(99), random.seed(99)
    resumed = build(name, tmp_path / "cut", plateau=plateau)
    result = resumed.train()

    assert_same_weights(resumed.model, whole.model)
    rows = read_log(tmp_path / "cut")
    assert without_times(rows) == without_times(read_log(tmp_path / "whole"))
    assert (result.best_epoch, result.best_eval_loss) == (
        expected.best_epoch,
        expected.best_eval_loss,
    )
    assert result.seconds == pytest.approx(sum(row["seconds"] for row in rows))
    assert not (tmp_path / "cut" / "checkpoint.pt").exists()


def test_pythaes_own_data_sets_resume_too(tmp_path):
    batch = Images().batch(torch.arange(40))
    data = BaseDataset(batch.data, batch.labels)
    whole = build("VAE", tmp_path / "whole", train=data, evaluation=data, epochs=3)
    whole.train()
    with pytest.raises(Killed):
        build(
            "VAE", tmp_path / "cut", train=data, evaluation=data, epochs=3, on_epoch=kill_at(2)
        ).train()
    resumed = build("VAE", tmp_path / "cut", train=data, evaluation=data, epochs=3)
    resumed.train()
    assert_same_weights(resumed.model, whole.model)


def test_a_callback_that_draws_random_numbers_changes_nothing(tmp_path):
    plain = build("VAE", tmp_path / "plain", epochs=3)
    plain.train()
    drawing = build("VAE", tmp_path / "drawing", epochs=3, on_epoch=lambda *_: torch.randn(7))
    drawing.train()
    assert_same_weights(plain.model, drawing.model)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_interrupt_within_an_epoch_keeps_the_last_whole_epoch(interrupt, tmp_path):
    whole = build("VAE", tmp_path / "whole", epochs=4)
    whole.train()

    class Interrupted(Images):
        calls = 0

        def batch(self, indices, device=None):
            self.calls += 1
            if self.calls == 3 * 2 + 2:  # three batches an epoch: the second of epoch 3
                raise interrupt
            return super().batch(indices, device)

    with pytest.raises(interrupt):
        build("VAE", tmp_path / "cut", train=Interrupted(), epochs=4).train()
    state = torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)
    assert state["progress"]["epoch"] == 2
    resumed = build("VAE", tmp_path / "cut", epochs=4)
    resumed.train()
    assert_same_weights(resumed.model, whole.model)
    assert [row["epoch"] for row in read_log(tmp_path / "cut")] == [1, 2, 3, 4]


def test_checkpoints_keep_their_distance_in_time(tmp_path):
    found = []
    trainer = build("AE", tmp_path, epochs=2)
    trainer.on_epoch = lambda *_: found.append((tmp_path / "checkpoint.pt").exists())
    trainer.checkpoint_every_seconds = 1e6
    trainer.train()
    assert found == [False, False]


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path):
    with pytest.raises(Killed):
        build("AE", tmp_path, on_epoch=kill_at(2)).train()
    with open(tmp_path / "train_log.jsonl", "a") as file:
        file.write('{"epoch": 3, "train_loss": 0.0}\n{"epo')
    build("AE", tmp_path).train()
    rows = read_log(tmp_path)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[2]["train_loss"] > 0


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "other model", "missing key"])
def test_corrupt_checkpoint_is_set_aside(damage, tmp_path, caplog):
    fresh = build("VAE", tmp_path / "fresh", epochs=2)
    fresh.train()
    folder = tmp_path / "damaged"
    with pytest.raises(Killed):
        name = "AE" if damage == "other model" else "VAE"
        build(name, folder, epochs=2, on_epoch=kill_at(1)).train()
    path = folder / "checkpoint.pt"
    whole = path.read_bytes()
    if damage == "missing key":
        # Found only once the weights are already replaced: those too must be put back.
        state = torch.load(path, weights_only=True)
        del state["optimizers"]
        torch.save(state, path)
    elif damage != "other model":
        content = {"cut": whole[: len(whole) // 2], "empty": b"", "noise": b"noise" * 99}[damage]
        path.write_bytes(content)
    damaged = path.read_bytes()

    trainer = build("VAE", folder, epochs=2)
    with caplog.at_level(logging.WARNING):
        assert trainer.train().epochs == 2
    assert "set aside as checkpoint.corrupt.pt" in caplog.text
    assert (folder / "checkpoint.corrupt.pt").read_bytes() == damaged
    assert_same_weights(trainer.model, fresh.model)


# Errors


class Scaled(Images):
    """Images whose values are multiplied by `factor` from a given pass on."""

    def __init__(self, factor, from_call):
        super().__init__()
        self.factor, self.from_call, self.calls = factor, from_call, 0

    def batch(self, indices, device=None):
        self.calls += 1
        output = super().batch(indices, device)
        if self.calls >= self.from_call:
            output["data"] = output["data"] * self.factor
        return output


@pytest.mark.parametrize("name", ["AE", "RAE_L2"])
@pytest.mark.parametrize("where", ["train", "eval"])
def test_non_finite_loss_names_the_epoch(name, where, tmp_path):
    bad = Scaled(float("nan"), from_call=4)  # three batches an epoch: from epoch 2 on
    data = {"train": bad} if where == "train" else {"evaluation": bad}
    with pytest.raises(NonFiniteError, match="epoch 2") as caught:
        build(name, tmp_path, epochs=3, **data).train()
    assert where in str(caught.value) and "\n" not in str(caught.value)
    assert [row["epoch"] for row in read_log(tmp_path)] == [1]


def test_infinite_loss_is_caught(tmp_path):
    with pytest.raises(NonFiniteError, match="epoch 1: eval_loss is inf"):
        build("AE", tmp_path, evaluation=Scaled(1e30, from_call=1), epochs=2).train()


def test_other_arithmetic_errors_are_not_renamed(tmp_path):
    class Broken(Images):
        def batch(self, indices, device=None):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build("AE", tmp_path, train=Broken(), epochs=1).train()


def test_rejects_what_cannot_be_trained(tmp_path):
    with pytest.raises(ConfigError, match="RAE_L2 needs a CoupledOptimizerTrainerConfig"):
        build_trainer(build_model("RAE_L2"), Images(), None, build_config("AE"), run_dir=tmp_path)
    with pytest.raises(ConfigError, match="num_epochs must be at least 1, not 0"):
        build("AE", tmp_path, epochs=0)
    with pytest.raises(DataError, match="the evaluation set is empty"):
        build("AE", tmp_path, evaluation=Images(0))
    with pytest.raises(DataError, match="the training set is empty"):
        FIFTrainer(build_model("AE"), Images(0), run_dir=tmp_path / "none")
    with pytest.raises(DataError, match="the training set is a Tensor"):
        FIFTrainer(build_model("AE"), torch.rand(8, *SHAPE), run_dir=tmp_path / "none")
    with pytest.raises(ConfigError, match="VAEGAN needs a CoupledOptimizerAdv"):
        FIFTrainer(build_model("VAEGAN"), Images(), run_dir=tmp_path / "none")
    with pytest.raises(ConfigError, match="not a CoupledOptimizerTrainerConfig"):
        config = CoupledOptimizerTrainerConfig()
        FIFTrainer(build_model("AE"), Images(), None, config, run_dir=tmp_path / "none")
    with pytest.raises(ConfigError, match="RHVAE"):
        rhvae = RHVAE(RHVAEConfig(input_dim=SHAPE, latent_dim=2))
        FIFTrainer(rhvae, Images(), run_dir=tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(ConfigError, match="RHVAE"):
        rhvae = RHVAE(RHVAEConfig(input_dim=SHAPE, latent_dim=2))
        build_trainer(rhvae, Images(), None, build_config("VAE"), run_dir=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="run folder"):
        build("AE", tmp_path / "file" / "run")


def test_a_plain_configuration_of_pythae_will_do(tmp_path):
    config = BaseTrainerConfig(num_epochs=1, per_device_train_batch_size=7, learning_rate=1e-3)
    trainer = FIFTrainer(build_model("AE"), Images(), None, config, run_dir=tmp_path)
    assert isinstance(trainer.training_config, FIFTrainerConfig)
    assert trainer.training_config.per_device_train_batch_size == 7
    assert trainer.train().best_epoch == 1


def test_leaked_distributed_settings_are_ignored(tmp_path, monkeypatch):
    for key, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(key, value)
    trainer = build("AE", tmp_path, epochs=1)
    assert trainer.world_size == -1 and trainer.is_main_process
    trainer.train()
    assert (tmp_path / "model" / "model.pt").exists()


# Silence


def test_nothing_is_printed_and_levels_come_back(tmp_path, capfd):
    # Pythae's console handlers hold the stderr of import time, which capfd sees.
    names = ["pythae.trainers.base_trainer.base_trainer", "pythae.trainers.training_callbacks"]
    before = [logging.getLogger(name).level for name in names]
    build("AE", tmp_path / "a", evaluation=None, epochs=2).train()
    build("RAE_L2", tmp_path / "b", epochs=2).train()
    assert capfd.readouterr() == ("", "")
    assert [logging.getLogger(name).level for name in names] == before


def test_quiet_pythae_silences_pythaes_own_trainer(tmp_path, capfd):
    records = []

    class Collect(logging.Handler):
        def emit(self, record):
            records.append(record)

    handler = Collect()
    logging.getLogger("pythae").addHandler(handler)
    batch = Images(8).batch(torch.arange(8))

    def train():
        config = build_config("AE", epochs=1, output_dir=str(tmp_path))
        pipeline = TrainingPipeline(model=build_model("AE"), training_config=config)
        pipeline(train_data=BaseDataset(batch.data, batch.labels))

    try:
        with quiet_pythae():
            train()
        assert records == [] and capfd.readouterr() == ("", "")
        train()  # ... which talks otherwise
        assert records and "Training of epoch" in capfd.readouterr().err
    finally:
        logging.getLogger("pythae").removeHandler(handler)


def test_quiet_pythae_restores_after_an_error():
    logger = logging.getLogger("pythae.models.base.base_model")
    level = logger.level
    with pytest.raises(Killed), quiet_pythae(), quiet_pythae():
        assert not logger.isEnabledFor(logging.WARNING)
        raise Killed
    assert logger.level == level == logging.INFO


# Parts


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 50), batch_size=st.integers(1, 60), seed=st.integers(0, 9))
def test_loader_gives_what_pythaes_data_loader_gives(count, batch_size, seed):
    data = Images(count, seed)
    everything = data.batch(torch.arange(count))
    theirs = torch.utils.data.DataLoader(
        BaseDataset(everything.data, everything.labels),
        batch_size=batch_size,
        collate_fn=collate_dataset_output,
    )
    ours = BatchLoader(data, batch_size, shuffle=False)
    assert len(ours) == len(theirs) and len(ours.dataset) == count
    for mine, other in zip(ours, theirs, strict=True):
        assert list(mine) == list(other)
        assert torch.equal(mine.data, other.data) and torch.equal(mine.labels, other.labels)


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 50), batch_size=st.integers(1, 60), seed=st.integers(0, 9))
def test_shuffled_loader_gives_every_item_once(count, batch_size, seed):
    class Numbers:
        def __len__(self):
            return count

        def batch(self, indices, device=None):
            return DatasetOutput(data=indices)

    loader = BatchLoader(Numbers(), batch_size, shuffle=True)
    torch.manual_seed(seed)
    first, second = ([i for b in loader for i in b.data.tolist()] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(count))
    torch.manual_seed(seed)
    assert [i for b in loader for i in b.data.tolist()] == first
    if count > 20:
        assert first != second and first != sorted(first)


def test_random_state_restores_all_generators(tmp_path):
    def draw():
        return random.random(), np.random.rand(), np.random.randn(), torch.rand(()).item()

    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    np.random.randn()  # leaves the second Gaussian of a pair cached
    path = tmp_path / "state.pt"
    write_whole(path, lambda file: torch.save(random_state(), file))
    first = draw()
    set_random_state(torch.load(path, weights_only=True))
    assert draw() == first


def test_write_whole_leaves_the_old_file_when_cut_off(tmp_path):
    path = tmp_path / "file"
    write_whole(path, lambda file: file.write(b"old"))

    def write(file):
        file.write(b"ne")
        raise Killed

    with pytest.raises(Killed):
        write_whole(path, write)
    assert path.read_bytes() == b"old"
    with pytest.raises(StoreError, match="cannot write"):
        write_whole(tmp_path / "missing" / "file", lambda file: None)
