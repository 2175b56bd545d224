"""The training loop by contract: it learns, keeps its budget, tells what it does, and is silent."""

import json
import math
import sys
from contextlib import nullcontext
from dataclasses import asdict

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from pythae.data.datasets import BaseDataset, DatasetOutput, collate_dataset_output
from pythae.models import MSSSIM_VAE, VAE, AutoModel, MSSSIM_VAEConfig, VAEConfig
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.base_trainer import base_trainer
from pythae.trainers.training_callbacks import TrainingCallback
from support.processes import process_of
from support.trainings import (
    LATENT,
    MODELS,
    ONE_OF_A_KIND,
    SHAPE,
    Images,
    Killed,
    assert_same_weights,
    config_of,
    kill_at,
    model_of,
    read_log,
    trainer_of,
)

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.baselines import DNF, DNFConfig
from pythae_fif.data import ImageDataset
from pythae_fif.errors import ConfigError, NonFiniteError
from pythae_fif.nn import build_networks
from pythae_fif.nn.base import HeadedEncoder
from pythae_fif.training import quiet_pythae
from pythae_fif.training.loader import BatchLoader
from pythae_fif.training.precision import networks_in_bfloat16
from pythae_fif.training.progress import LossMeter


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_trains_logs_and_saves(name, tmp_path):
    seen = []
    trainer = trainer_of(name, tmp_path, epochs=8, run_id="1f", on_epoch=seen.append)
    result = trainer.train()

    rows = read_log(tmp_path)
    assert [row["epoch"] for row in rows] == list(range(1, 9))
    assert [{**asdict(row), "run_id": "1f"} for row in seen] == rows
    assert [row.share_done for row in seen] == [epoch / 8 for epoch in range(1, 9)]
    prefixes = MODELS[name].kind.prefixes
    for prefix in prefixes:
        assert f"{prefix}loss" in rows[0]["train"].keys() & rows[0]["eval"].keys()
        assert f"{prefix}learning_rate" in rows[0]["learning_rates"]
    if "discriminator_" not in prefixes:  # their losses need not fall
        assert rows[-1]["train"]["loss"] < 0.95 * rows[0]["train"]["loss"]
        assert min(row["eval"]["loss"] for row in rows) < rows[0]["eval"]["loss"]

    best = min(rows, key=lambda row: row["eval"]["loss"])
    assert (result.best_epoch, result.best_eval_loss) == (best["epoch"], best["eval"]["loss"])
    assert (result.epochs, result.images) == (8, 8 * 40)
    assert result.seconds == pytest.approx(sum(row["seconds"] for row in rows))
    assert result.images_per_second > 8 * 40 / result.seconds

    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "train_log.jsonl"]
    assert json.loads((tmp_path / "model" / "training_config.json").read_text())["num_epochs"] == 8
    assert_same_weights(AutoModel.load_from_folder(f"{tmp_path}/model", trust=True), trainer.model)


def test_what_cannot_be_trained_is_refused_before(tmp_path):
    with pytest.raises(ConfigError, match="wall_clock=-1"):
        trainer_of("FIF", tmp_path, wall_clock=-1)
    model = model_of("FIF")
    layer = next(of for of in model.encoder.modules() if isinstance(of, torch.nn.Linear))
    torch.nn.utils.parametrizations.spectral_norm(layer)
    with pytest.raises(ConfigError, match="cannot be saved: RuntimeError: Serialization of param"):
        trainer_of("FIF", tmp_path, model=model).train()
    with pytest.raises(ConfigError, match=r"cannot be saved: TypeError: .* not JSON"):
        trainer_of("FIF", tmp_path, optimizer_params={"eps": torch.tensor(1e-8)}).train()


def test_without_evaluation_set_keeps_the_best_training_loss(tmp_path):
    config = config_of("VAE", epochs=3)
    trainer = FIFTrainer(model_of("VAE"), Images(), None, config, run_dir=tmp_path)
    result = trainer.train()
    rows = read_log(tmp_path)
    assert not any(row["eval"] for row in rows)
    assert result.best_eval_loss == min(row["train"]["loss"] for row in rows)
    assert not config.keep_best_on_train, "the caller's configuration is left alone"


# A wall clock; the clock of the tests ticks once a look, so that nothing depends on the machine.


class Ticks:
    """Stands for `time`: each look at the clock is a second later."""

    now = 0.0

    def perf_counter(self):
        self.now += 1
        return self.now

    monotonic = perf_counter


@pytest.fixture
def ticks(monkeypatch):
    clock = Ticks()
    for module in ("trainer", "progress"):
        monkeypatch.setattr(f"pythae_fif.training.{module}.time", clock)


@pytest.mark.parametrize("name", ["AE", "VAEGAN"])
def test_wall_clock_ends_the_training_and_cuts_passes(name, tmp_path, ticks):
    resting = {"train": Images(400), "lr": 0.0}
    result = trainer_of(name, tmp_path, wall_clock=60.0, epochs=99, **resting).train()
    rows = result.log
    assert len(rows) == 10 == result.epochs  # 25 batches do not fit in a tenth
    assert [row.share_done for row in rows] == sorted(row.share_done for row in rows)
    assert rows[-1].share_done == 1.0
    assert 60 <= result.train_seconds < 70 and result.seconds > result.train_seconds
    assert 0 < result.images < 10 * 400 and result.images % 16 == 0
    (row,) = trainer_of(name, tmp_path / "whole", epochs=1, **resting).train().log
    # the mean of a cut epoch is that of its own batches
    assert rows[0].train["loss"] == pytest.approx(row.train["loss"], rel=0.5)


def test_wall_clock_puts_short_passes_together(tmp_path, ticks):
    """Three steps make a pass; 1/100 of the clock is ten steps, so four passes make an epoch."""
    seldom = {"checkpoint_every_seconds": 1e9}
    result = trainer_of("AE", tmp_path, epochs=10**6, wall_clock=1000.0, **seldom).train()
    assert 60 <= result.epochs <= 100
    assert result.images / 40 == pytest.approx(4 * result.epochs, rel=0.1)


def test_whichever_of_epochs_and_wall_clock_comes_first_ends_the_training(tmp_path, ticks):
    result = trainer_of("AE", tmp_path / "epochs", epochs=9, wall_clock=1e4).train()
    assert (result.epochs, result.images) == (9, 9 * 40)  # each is 1/9 of the training
    assert result.log[3].share_done == 4 / 9
    result = trainer_of("AE", tmp_path / "clock", epochs=99, wall_clock=27.0).train()
    assert result.log[-1].share_done == 1.0 and 27 <= result.train_seconds < 37


def test_killed_training_does_not_get_its_time_back(tmp_path, ticks):
    arguments = {"wall_clock": 60.0, "epochs": 99, "train": Images(400)}
    with pytest.raises(Killed):
        trainer_of("AE", tmp_path, on_epoch=kill_at(4), **arguments).train()
    before = read_log(tmp_path)
    result = trainer_of("AE", tmp_path, **arguments).train()
    rows = read_log(tmp_path)
    assert rows[:4] == before and len(rows) == 10
    assert 60 <= result.train_seconds < 70
    assert sum(row["seconds"] for row in rows) == pytest.approx(result.seconds)


def betas_of(monkeypatch, *arguments, **options):
    """The values that beta has in a training of FIF in which it is to go from 20 to 40."""
    seen, beta_at = [], FIFConfig.beta_at

    def watched(config, *share_done):
        seen.append(beta_at(config, *share_done))
        return seen[-1]

    monkeypatch.setattr(FIFConfig, "beta_at", watched)
    config = FIFConfig(input_dim=SHAPE, latent_dim=LATENT, beta=20.0, beta_final=40.0)
    model = FIF(config, *build_networks("convnet", SHAPE, LATENT))
    trainer_of("FIF", *arguments, model=model, evaluation=None, **options).train()
    return seen


def test_wall_clock_drives_the_schedule_of_beta(tmp_path, ticks, monkeypatch):
    betas = betas_of(monkeypatch, tmp_path, wall_clock=100.0, epochs=99, train=Images(400))
    assert betas == sorted(betas)
    assert betas[0] < 21 and betas[-1] > 37
    assert betas[len(betas) // 2] == pytest.approx(30, abs=3)


def test_beta_follows_the_epochs_where_there_is_no_wall_clock(tmp_path, monkeypatch):
    betas = betas_of(monkeypatch, tmp_path, epochs=2, train=Images(32))
    assert betas == [20, 25, 30, 35]


# Precision and speed


@pytest.mark.parametrize("name", ["AE", "RAE_L2"])
def test_bfloat16_is_another_training_that_ends_near(name, tmp_path):
    ends = {}
    for precision in ("float32", "bfloat16"):
        trainer = trainer_of(name, tmp_path / precision, precision=precision, epochs=3)
        ends[precision] = trainer.train().best_eval_loss
        weights = [p for p in trainer.model.parameters() if p.ndim == 4 and min(p.shape[:2]) > 1]
        assert {weight.dtype for weight in weights} == {torch.float32}
        layouts = {w.is_contiguous(memory_format=torch.channels_last) for w in weights}
        assert layouts == {precision == "bfloat16"}
    assert ends["float32"] != ends["bfloat16"]
    assert ends["bfloat16"] == pytest.approx(ends["float32"], rel=0.02)
    with pytest.raises(ConfigError, match="precision='bf16': float32 or bfloat16 needed"):
        trainer_of(name, tmp_path, precision="bf16")


def test_volumes_train_in_bfloat16(tmp_path):
    """Channels last are a layout of images alone."""
    model = model_of("FIF")
    layers = torch.nn.Unflatten(1, (1, 1)), torch.nn.Conv3d(1, 1, 1), torch.nn.Flatten()
    model.set_encoder(HeadedEncoder(torch.nn.Sequential(*layers), torch.nn.Linear(16, 2)))
    trainer_of("FIF", tmp_path, model=model, precision="bfloat16", epochs=1).train()


@pytest.mark.parametrize(
    ("kind", "config"), [(VAE, VAEConfig), (MSSSIM_VAE, MSSSIM_VAEConfig)], ids=["VAE", "MSSSIM"]
)
def test_losses_stay_float32_where_networks_are_bfloat16(kind, config):
    model, x = kind(config(input_dim=(1, 28, 28), latent_dim=2)), torch.rand(16, 1, 28, 28)
    losses = []
    for context in (nullcontext(), networks_in_bfloat16(model, "cpu")):
        torch.manual_seed(0)
        with torch.no_grad(), context:
            losses.append(model({"data": x}))
    full, low = losses
    assert low.recon_loss != full.recon_loss
    for name in ("recon_loss", "reg_loss", "loss"):
        assert low[name].dtype == torch.float32
        torch.testing.assert_close(low[name], full[name], rtol=0.01, atol=1e-3)
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("bias", [True, False])
def test_a_transposed_convolution_in_bfloat16_is_autocast_s(bias):
    """Its bias is added apart, for speed."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.ConvTranspose2d(3, 5, 3, 2, 1, 1, bias=bias))
    x, autocast = torch.randn(4, 3, 7, 7), torch.autocast("cpu", dtype=torch.bfloat16)
    found = []
    for context in (networks_in_bfloat16(model, "cpu"), autocast):
        with context:
            y = model(x).float()
        found.append([y, *torch.autograd.grad(y.square().sum(), list(model.parameters()))])
    for ours, right in zip(*found, strict=True):
        torch.testing.assert_close(ours, right, rtol=0.02, atol=0.02 * float(right.abs().max()))


def test_the_likelihood_of_dnf_stays_float32_where_its_flow_is_bfloat16():
    sizes = {"steps": 1, "hidden_channels": 8, "latent_blocks": 2, "latent_hidden_dim": 8}
    model = DNF(DNFConfig(input_dim=(1, 28, 28), latent_dim=2, **sizes))
    x, normal = torch.rand(16, 1, 28, 28), torch.distributions.Normal(0.0, 1.0)
    with torch.no_grad(), networks_in_bfloat16(model, "cpu"):
        model({"data": x})  # which sets the scales
        z, v, log_det = model.flow.split(x)
        found, _ = model._inflated(x)
    assert v.dtype == torch.bfloat16
    expected = normal.log_prob(z).sum(1) + normal.log_prob(v.float()).sum(1) + log_det
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("name", ["AE", "RAE_L2", "VAEGAN"])
def test_looks_at_the_loss_every_50_steps(name, tmp_path, monkeypatch):
    """Each look makes the host wait for a GPU; VAEGAN's flags make it wait by themselves."""
    looks, tolist = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda t: looks.append(len(t)) or tolist(t))
    sizes = {"epochs": 1, "per_device_train_batch_size": 1}
    trainer_of(name, tmp_path, train=Images(120), evaluation=None, **sizes).train()
    assert len(looks) == 3


# Callbacks, pipelines, several processes


def test_pipeline_uses_the_trainer_of_the_configuration(tmp_path):
    for config, kind in ((FIFTrainerConfig, FIFTrainer), (BaseTrainerConfig, BaseTrainer)):
        model = model_of("AE")
        pipeline = TrainingPipeline(model, config(output_dir=str(tmp_path), num_epochs=1))
        with quiet_pythae():
            pipeline(train_data=Images().batch(torch.arange(40)).data)
        assert type(pipeline.trainer) is kind
        own = AutoModel.load_from_folder(f"{pipeline.trainer.training_dir}/final_model", trust=True)
        assert_same_weights(own, model)


def _train_in_one_of_two(rank, folder):
    """A process of a training; Pythae makes DistributedDataParallel for GPUs alone."""
    base_trainer.DDP = lambda model, device_ids: torch.nn.parallel.DistributedDataParallel(model)
    of_two = {"rank": rank, "world_size": 2}
    torch.distributed.init_process_group("gloo", f"file://{folder}/group", **of_two)
    torch.manual_seed(0)
    model, data = FIF(FIFConfig(input_dim=(1, 4, 4), latent_dim=2)), torch.rand(20, 1, 4, 4)
    data, options = BaseDataset(data, torch.ones(20)), {"local_rank": rank, "no_cuda": True}
    config = BaseTrainerConfig(output_dir=str(folder), num_epochs=2, **of_two, **options)
    trainer = BaseTrainer(model, data, data, training_config=config)
    trained = [torch.cat([p.detach().flatten() for p in model.parameters()])]
    trainer.train()
    trained += [torch.cat([p.detach().flatten() for p in model.parameters()])]
    torch.save(trained, folder / f"{rank}.pt")


def test_a_fif_trains_in_several_processes_by_pythae(tmp_path):
    processes = [process_of(_train_in_one_of_two, rank, tmp_path) for rank in range(2)]
    for process in processes:
        process.join(240)
    (before, one), (_, other) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert torch.equal(one, other) and not torch.equal(one, before) and one.isfinite().all()


def test_callbacks_hear_of_every_epoch(tmp_path):
    heard = []

    class Listener(TrainingCallback):
        def __getattribute__(self, event):
            return lambda config, logs=None, **told: heard.append(
                (
                    event.removeprefix("on_"),
                    *(told[k] for k in ("epoch", "global_step") if k in told),
                )
            )

    trainer_of("AE", tmp_path, epochs=2, callbacks=[Listener()]).train()
    steps = [("train_step_end",)] * 3
    one, two = [[("epoch_begin", n), *steps, ("epoch_end",), ("log", n)] for n in (1, 2)]
    assert heard == [("train_begin",), *one, *two, ("train_end",)]


# A loss that is no number


class Scaled(Images):
    """Images whose values are multiplied by `factor` from the second epoch on."""

    def __init__(self, factor):
        super().__init__()
        self.factor, self.calls = factor, 0

    def batch(self, indices, device=None):
        self.calls += 1
        output = super().batch(indices, device)
        if self.calls > 3:  # batches an epoch
            output["data"] = output["data"] * self.factor
        return output


@pytest.mark.parametrize(
    ("name", "factor", "where"),
    [("AE", math.nan, "train"), ("AE", math.nan, "eval"), ("RAE_L2", 1e30, "train")],
)
def test_a_loss_that_is_no_number_names_the_epoch(name, where, factor, tmp_path):
    key = {"train": "train", "eval": "evaluation"}[where]
    with pytest.raises(NonFiniteError, match=f"epoch 2, {where} loss: (nan|inf)"):
        trainer_of(name, tmp_path, epochs=3, **{key: Scaled(factor)}).train()
    assert [row["epoch"] for row in read_log(tmp_path)] == [1]


def test_an_infinite_evaluation_loss_is_never_the_best(tmp_path):
    means = LossMeter("epoch 1", "cpu", infinite=True)
    means.add({"loss": torch.tensor(-math.inf)}, 1)  # of a decoder without volume
    assert means.losses() == {"loss": math.inf}
    result = trainer_of("RAE_L2", tmp_path, epochs=3, evaluation=Scaled(1e30)).train()
    assert [row.eval["loss"] == math.inf for row in result.log] == [False, True, True]
    assert result.best_epoch == 1
    always = Scaled(1e30)
    always.calls = 3
    with pytest.raises(NonFiniteError, match=r"infinite in all 2 epochs: .*take SiLU"):
        trainer_of("RAE_L2", tmp_path / "other", epochs=2, evaluation=always).train()


# Silence, and a bar on a terminal


def test_nothing_is_printed(tmp_path, capfd):
    trainer_of("RAE_L2", tmp_path, epochs=2).train()
    assert capfd.readouterr() == ("", "")  # which sees Pythae's console handlers


def test_a_bar_on_a_terminal(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with pytest.raises(Killed):
        trainer_of("AE", tmp_path, epochs=2, on_epoch=kill_at(1)).train()
    trainer_of("AE", tmp_path, epochs=2).train()
    shown = capfd.readouterr().err
    assert "training" in shown and "50%" in shown and "100%" in shown


def test_quiet_pythae_silences_pythaes_own_trainer(tmp_path, capfd, caplog):
    batch = Images(8).batch(torch.arange(8))

    def train():
        config = config_of("AE", epochs=1, output_dir=str(tmp_path))
        pipeline = TrainingPipeline(model=model_of("AE"), training_config=config)
        pipeline(train_data=BaseDataset(batch.data, batch.labels))

    with pytest.raises(Killed), quiet_pythae(), quiet_pythae():
        train()
        raise Killed
    assert caplog.records == [] and capfd.readouterr() == ("", "")
    train()  # it talks otherwise
    assert caplog.records and "Training of epoch" in capfd.readouterr().err


# Loaders


@example(count=7, batch_size=3, seed=0)
@given(count=st.integers(1, 50), batch_size=st.integers(1, 60), seed=st.integers(0, 9))
def test_loader_gives_what_pythaes_data_loader_gives(count, batch_size, seed):
    data = Images(count, seed)
    everything = data.batch(torch.arange(count))
    theirs = torch.utils.data.DataLoader(
        BaseDataset(everything.data, everything.labels),
        batch_size=batch_size,
        collate_fn=collate_dataset_output,
    )
    ours, theirs = [*BatchLoader(data, batch_size, shuffle=False)], [*theirs]
    assert len(BatchLoader(data, batch_size, shuffle=False)) == len(ours)
    if count > batch_size > 1 and count % batch_size == 1:  # one alone joins those before
        *theirs, last, one = theirs
        both = {key: torch.cat([last[key], one[key]]) for key in ("data", "labels")}
        theirs.append(DatasetOutput(**both))
    for mine, other in zip(ours, theirs, strict=True):
        assert list(mine) == list(other)
        assert torch.equal(mine.data, other.data) and torch.equal(mine.labels, other.labels)


def test_shuffled_loader_gives_every_item_once_in_a_seeded_order():
    data = ImageDataset(torch.zeros(50, *SHAPE, dtype=torch.uint8), torch.arange(50))
    loader = BatchLoader(data, 7, shuffle=True)

    def one_pass():
        return [label for batch in loader for label in batch.labels.tolist()]

    torch.manual_seed(3)
    first, second = one_pass(), one_pass()
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second and first != sorted(first)
    torch.manual_seed(3)
    assert one_pass() == first
