"""The contract of the training loop: it learns, keeps its budget, reports progress, is silent."""

import functools
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
from pythae.models import MSSSIM_VAE, VAE, MSSSIM_VAEConfig, VAEConfig
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.base_trainer import base_trainer
from pythae.trainers.training_callbacks import TrainingCallback
from support.processes import start_process
from support.trainings import (
    LATENT_DIM,
    MODELS,
    ONE_OF_A_KIND,
    SHAPE,
    Images,
    Killed,
    assert_same_weights,
    build_config,
    build_model,
    build_trainer,
    kill_at,
    read_log,
)

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig, FIFTrainingPipeline
from pythae_fif.baselines import DNF, DNFConfig
from pythae_fif.data import ImageDataset
from pythae_fif.errors import ConfigError, NonFiniteError
from pythae_fif.models.saved import load_model
from pythae_fif.nn import build_networks
from pythae_fif.nn.base import HeadedEncoder
from pythae_fif.training import progress, quiet_pythae
from pythae_fif.training.datasets import BatchLoader
from pythae_fif.training.precision import networks_in_bfloat16
from pythae_fif.training.progress import LossMeter


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_trains_logs_and_saves(name, tmp_path):
    epoch_rows = []
    trainer = build_trainer(name, tmp_path, epochs=8, run_id="1f", on_epoch=epoch_rows.append)
    result = trainer.train()

    rows = read_log(tmp_path)
    assert [row["epoch"] for row in rows] == list(range(1, 9))
    assert [{**asdict(row), "run_id": "1f"} for row in epoch_rows] == rows
    assert [row.share_done for row in epoch_rows] == [epoch / 8 for epoch in range(1, 9)]
    assert_losses_are_logged_and_fall(rows, MODELS[name].kind.prefixes)
    assert_result_agrees_with_log(result, rows)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "train_log.jsonl"]
    saved_config = json.loads((tmp_path / "model" / "training_config.json").read_text())
    assert saved_config["num_epochs"] == 8
    assert_same_weights(load_model(f"{tmp_path}/model", trust=True), trainer.model)


def assert_result_agrees_with_log(result, rows):
    best = min(rows, key=lambda row: row["eval"]["loss"])
    assert result.best_epoch == best["epoch"]
    assert result.best_eval_loss == best["eval"]["loss"]
    assert (result.epochs, result.images) == (8, 8 * 40)
    assert result.seconds == pytest.approx(sum(row["seconds"] for row in rows))
    assert result.images_per_second > 8 * 40 / result.seconds


def assert_losses_are_logged_and_fall(rows, prefixes):
    first = rows[0]
    for prefix in prefixes:
        assert f"{prefix}loss" in first["train"].keys() & first["eval"].keys()
        assert f"{prefix}learning_rate" in first["learning_rates"]

    if "discriminator_" not in prefixes:  # An adversarial loss need not fall.
        assert rows[-1]["train"]["loss"] < 0.95 * first["train"]["loss"]
        assert min(row["eval"]["loss"] for row in rows) < first["eval"]["loss"]


def test_an_impossible_training_is_refused_before_it_starts(tmp_path):
    with pytest.raises(ConfigError, match="wall_clock=-1"):
        build_trainer("FIF", tmp_path, wall_clock=-1)

    model = build_model("FIF")
    modules = model.encoder.modules()
    layer = next(module for module in modules if isinstance(module, torch.nn.Linear))
    torch.nn.utils.parametrizations.spectral_norm(layer)
    with pytest.raises(ConfigError, match=r"not be saved .*: RuntimeError: Serialization of param"):
        build_trainer("FIF", tmp_path, model=model).train()
    with pytest.raises(ConfigError, match=r"could not be saved .*: TypeError: .* not JSON"):
        build_trainer("FIF", tmp_path, optimizer_params={"eps": torch.tensor(1e-8)}).train()


def test_without_evaluation_set_keeps_the_best_training_loss(tmp_path):
    config = build_config("VAE", epochs=3)
    trainer = FIFTrainer(build_model("VAE"), Images(), None, config, run_dir=tmp_path)
    result = trainer.train()
    rows = read_log(tmp_path)
    assert not any(row["eval"] for row in rows)
    assert result.best_eval_loss == min(row["train"]["loss"] for row in rows)
    assert not config.keep_best_on_train, "the caller's configuration is left alone"


# A wall clock. In the tests each look at it is a tick, so that nothing depends on the machine.


class TickingClock:
    """Replaces `time`: each look at the clock is a second later."""

    seconds = 0.0

    def perf_counter(self):
        self.seconds += 1
        return self.seconds

    monotonic = perf_counter


@pytest.fixture
def ticking_clock(monkeypatch):
    clock = TickingClock()
    for module in ("trainer", "progress"):
        monkeypatch.setattr(f"pythae_fif.training.{module}.time", clock)


@pytest.mark.parametrize("name", ["AE", "VAEGAN"])
@pytest.mark.usefixtures("ticking_clock")
def test_wall_clock_ends_the_training_and_cuts_passes(name, tmp_path):
    options = {"train": Images(400), "lr": 0.0}
    result = build_trainer(name, tmp_path, wall_clock=60.0, epochs=99, **options).train()

    rows = result.log
    assert len(rows) == 10 == result.epochs  # 25 batches do not fit in a tenth of the clock.
    shares = [row.share_done for row in rows]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert 60 <= result.train_seconds < 70
    assert result.seconds > result.train_seconds
    assert 0 < result.images < 10 * 400
    assert result.images % 16 == 0

    # The mean loss of a cut epoch is over the batches that it had.
    (full_pass,) = build_trainer(name, tmp_path / "full", epochs=1, **options).train().log
    assert rows[0].train["loss"] == pytest.approx(full_pass.train["loss"], rel=0.5)


@pytest.mark.usefixtures("ticking_clock")
def test_wall_clock_joins_short_passes_into_an_epoch(tmp_path):
    """Three steps make a pass; 1/100 of the clock is ten steps, so four passes make an epoch."""
    model = build_model("AE", networks="mlp")
    options = {"epochs": 10**6, "wall_clock": 1000.0, "checkpoint_every_seconds": 1e9}
    result = build_trainer("AE", tmp_path, model=model, **options).train()
    assert 60 <= result.epochs <= 100
    assert result.images / 40 == pytest.approx(4 * result.epochs, rel=0.1)


@pytest.mark.usefixtures("ticking_clock")
def test_whichever_of_epochs_and_wall_clock_comes_first_ends_the_training(tmp_path):
    result = build_trainer("AE", tmp_path / "epochs", epochs=9, wall_clock=1e4).train()
    assert (result.epochs, result.images) == (9, 9 * 40)  # Each is 1/9 of the training.
    assert result.log[3].share_done == 4 / 9

    result = build_trainer("AE", tmp_path / "clock", epochs=99, wall_clock=27.0).train()
    assert result.log[-1].share_done == 1.0
    assert 27 <= result.train_seconds < 37


@pytest.mark.usefixtures("ticking_clock")
def test_killed_training_does_not_get_its_time_back(tmp_path):
    options = {"wall_clock": 60.0, "epochs": 99, "train": Images(400)}
    with pytest.raises(Killed):
        build_trainer("AE", tmp_path, on_epoch=kill_at(4), **options).train()
    rows_until_killed = read_log(tmp_path)

    result = build_trainer("AE", tmp_path, **options).train()
    rows = read_log(tmp_path)
    assert rows[:4] == rows_until_killed
    assert len(rows) == 10
    assert 60 <= result.train_seconds < 70
    assert sum(row["seconds"] for row in rows) == pytest.approx(result.seconds)


def record_betas(monkeypatch, run_dir, **options):
    """Trains a FIF with a beta that changes from 20 to 40, and returns the values of beta."""
    betas = []
    original_beta_at = FIFConfig.beta_at

    def recording_beta_at(config, *share_done):
        beta = original_beta_at(config, *share_done)
        betas.append(beta)
        return beta

    monkeypatch.setattr(FIFConfig, "beta_at", recording_beta_at)
    config = FIFConfig(input_dim=SHAPE, latent_dim=LATENT_DIM, beta=20.0, beta_final=40.0)
    model = FIF(config, *build_networks("convnet", SHAPE, LATENT_DIM))
    build_trainer("FIF", run_dir, model=model, evaluation=None, **options).train()
    return betas


@pytest.mark.usefixtures("ticking_clock")
def test_wall_clock_drives_the_schedule_of_beta(tmp_path, monkeypatch):
    betas = record_betas(monkeypatch, tmp_path, wall_clock=100.0, epochs=99, train=Images(400))
    assert betas == sorted(betas)
    assert betas[0] < 21
    assert betas[-1] > 37
    assert betas[len(betas) // 2] == pytest.approx(30, abs=3)


def test_epochs_drive_the_schedule_of_beta_without_a_wall_clock(tmp_path, monkeypatch):
    betas = record_betas(monkeypatch, tmp_path, epochs=2, train=Images(32))
    assert betas == [20, 25, 30, 35]


# Precision and speed


@pytest.mark.parametrize("name", ["AE", "RAE_L2"])
def test_bfloat16_is_another_training_with_a_similar_end(name, tmp_path):
    losses = {}
    for precision in ("float32", "bfloat16"):
        trainer = build_trainer(name, tmp_path / precision, precision=precision, epochs=3)
        losses[precision] = trainer.train().best_eval_loss
        kernels = [
            weight
            for weight in trainer.model.parameters()
            if weight.ndim == 4 and min(weight.shape[:2]) > 1
        ]
        assert {kernel.dtype for kernel in kernels} == {torch.float32}
        channels_last = {
            kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels
        }
        assert channels_last == {precision == "bfloat16"}

    assert losses["float32"] != losses["bfloat16"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)


@pytest.mark.parametrize("name", ["AE", "RAE_L2"])
def test_an_unknown_precision_is_refused(name, tmp_path):
    with pytest.raises(ConfigError, match="precision='bf16': did you mean 'bfloat16'"):
        build_trainer(name, tmp_path, precision="bf16")


def test_volumes_train_in_bfloat16(tmp_path):
    """The layout channels last exists only for images."""
    model = build_model("FIF")
    layers = torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, 1)), torch.nn.Conv3d(1, 1, 1), torch.nn.Flatten()
    )
    model.set_encoder(HeadedEncoder(layers, torch.nn.Linear(16, 2)))
    build_trainer("FIF", tmp_path, model=model, precision="bfloat16", epochs=1).train()


@pytest.mark.parametrize(
    ("kind", "config"), [(VAE, VAEConfig), (MSSSIM_VAE, MSSSIM_VAEConfig)], ids=["VAE", "MSSSIM"]
)
def test_losses_stay_float32_where_networks_are_bfloat16(kind, config):
    model = kind(config(input_dim=(1, 28, 28), latent_dim=2))
    x = torch.rand(16, 1, 28, 28)
    outputs = []
    for context in (nullcontext(), networks_in_bfloat16(model, "cpu")):
        torch.manual_seed(0)
        with torch.no_grad(), context:
            outputs.append(model({"data": x}))

    float32_output, bfloat16_output = outputs
    assert bfloat16_output.recon_loss != float32_output.recon_loss
    for name in ("recon_loss", "reg_loss", "loss"):
        loss = bfloat16_output[name]
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, float32_output[name], rtol=0.01, atol=1e-3)
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("bias", [True, False])
def test_a_transposed_convolution_in_bfloat16_agrees_with_autocast(bias):
    """Our mode adds its bias separately, for speed."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.ConvTranspose2d(3, 5, 3, 2, 1, 1, bias=bias))
    x = torch.randn(4, 3, 7, 7)
    autocast = torch.autocast("cpu", dtype=torch.bfloat16)

    results = []
    for context in (networks_in_bfloat16(model, "cpu"), autocast):
        with context:
            y = model(x).float()
        gradients = torch.autograd.grad(y.square().sum(), list(model.parameters()))
        results.append([y.detach(), *gradients])

    for tensor, expected in zip(*results, strict=True):
        tolerance = 0.02 * float(expected.abs().max())
        torch.testing.assert_close(tensor, expected, rtol=0.02, atol=tolerance)


def test_the_likelihood_of_dnf_stays_float32_where_its_flow_is_bfloat16():
    sizes = {"steps": 1, "hidden_channels": 8, "latent_blocks": 2, "latent_hidden_dim": 8}
    model = DNF(DNFConfig(input_dim=(1, 28, 28), latent_dim=2, **sizes))
    x = torch.rand(16, 1, 28, 28)
    with torch.no_grad(), networks_in_bfloat16(model, "cpu"):
        model({"data": x})  # It sets the scales.
        z, v, log_det = model.flow.split(x)
        log_prob, _ = model._inflated_log_prob(x)
    assert v.dtype == torch.bfloat16

    normal = torch.distributions.Normal(0.0, 1.0)
    expected = normal.log_prob(z).sum(1) + normal.log_prob(v.float()).sum(1) + log_det
    torch.testing.assert_close(log_prob, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("name", ["AE", "RAE_L2", "VAEGAN"])
def test_the_loss_is_read_every_50_steps(name, tmp_path, monkeypatch):
    """Each reading makes the host wait for a GPU. VAEGAN's flags also make it wait."""
    readings = []
    original_tolist = torch.Tensor.tolist

    def recording_tolist(tensor):
        readings.append(len(tensor))
        return original_tolist(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", recording_tolist)
    options = {"epochs": 1, "per_device_train_batch_size": 1}
    build_trainer(name, tmp_path, train=Images(120), evaluation=None, **options).train()
    assert len(readings) == 3


# Callbacks, pipelines, several processes


@pytest.mark.parametrize("config_class", [FIFTrainerConfig, BaseTrainerConfig])
@pytest.mark.parametrize(
    ("pipeline_class", "trainer_class"),
    [(FIFTrainingPipeline, FIFTrainer), (TrainingPipeline, BaseTrainer)],
)
def test_the_pipeline_and_not_the_configuration_decides_on_the_trainer(
    pipeline_class, trainer_class, config_class, tmp_path
):
    images = Images().batch(torch.arange(40)).data
    model = build_model("AE")
    pipeline = pipeline_class(model, config_class(output_dir=str(tmp_path), num_epochs=1))
    with quiet_pythae():
        pipeline(train_data=images.numpy(), eval_data=Images())
    assert type(pipeline.trainer) is trainer_class
    loaded = load_model(f"{pipeline.trainer.training_dir}/final_model", trust=True)
    assert_same_weights(loaded, model)


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_the_pipeline_trains_every_kind_of_model(name, tmp_path):
    config = build_config(name, epochs=1, output_dir=str(tmp_path))
    result = FIFTrainingPipeline(build_model(name), config)(Images(), Images())
    assert (result.epochs, result.best_epoch) == (1, 1)


class OwnTrainer(BaseTrainer):
    """A trainer of a user."""


def test_pythae_s_trainers_take_our_configuration_for_their_own(tmp_path):
    """By keyword, by position or in a subclass: Pythae's loop in float32."""
    data = Images().batch(torch.arange(40))
    dataset = BaseDataset(data.data, data.labels)
    weights = []
    for config_class, options in (
        (BaseTrainerConfig, {}),
        (FIFTrainerConfig, {"precision": "bfloat16"}),
    ):
        config = config_class(output_dir=str(tmp_path), num_epochs=1, no_cuda=True, **options)
        for trainer_class in (BaseTrainer, OwnTrainer):
            for arguments in ((dataset, None, config), (dataset,)):
                torch.manual_seed(0)
                keywords = {} if len(arguments) == 3 else {"training_config": config}
                trainer = trainer_class(build_model("AE"), *arguments, **keywords)
                with quiet_pythae():
                    trainer.train()
                assert type(trainer) is trainer_class
                weights.append(_flat_weights(trainer.model))

    assert all(torch.equal(vector, weights[0]) for vector in weights)


def _flat_weights(model):
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def _train_in_process(rank, folder):
    """Runs one of the two processes of a training, and saves the weights before and after it.

    Pythae makes DistributedDataParallel only for GPUs, so its class is replaced.
    """
    base_trainer.DDP = lambda model, device_ids: torch.nn.parallel.DistributedDataParallel(model)
    group = {"rank": rank, "world_size": 2}
    torch.distributed.init_process_group("gloo", f"file://{folder}/group", **group)
    torch.manual_seed(0)
    model = FIF(FIFConfig(input_dim=(1, 4, 4), latent_dim=2))
    data = BaseDataset(torch.rand(20, 1, 4, 4), torch.ones(20))
    config = BaseTrainerConfig(
        output_dir=str(folder), num_epochs=2, local_rank=rank, no_cuda=True, **group
    )
    trainer = BaseTrainer(model, data, data, training_config=config)

    initial_weights = _flat_weights(model)
    trainer.train()
    torch.save([initial_weights, _flat_weights(model)], folder / f"{rank}.pt")


def test_a_fif_trains_in_several_processes_by_pythae(tmp_path):
    processes = [start_process(_train_in_process, rank, tmp_path) for rank in range(2)]
    for process in processes:
        process.join(240)

    initial_weights, weights = torch.load(tmp_path / "0.pt")
    _, weights_of_second_process = torch.load(tmp_path / "1.pt")
    assert torch.equal(weights, weights_of_second_process)
    assert not torch.equal(weights, initial_weights)
    assert weights.isfinite().all()


def test_callbacks_are_called_for_every_epoch(tmp_path):
    events = []

    class EventRecorder(TrainingCallback):
        def __getattribute__(self, event):
            def record(config, logs=None, **info):
                numbers = [info[key] for key in ("epoch", "global_step") if key in info]
                events.append((event.removeprefix("on_"), *numbers))

            return record

    build_trainer("AE", tmp_path, epochs=2, callbacks=[EventRecorder()]).train()
    steps = [("train_step_end",)] * 3
    expected = [("train_begin",)]
    for epoch in (1, 2):
        expected += [("epoch_begin", epoch), *steps, ("epoch_end",), ("log", epoch)]
    assert events == [*expected, ("train_end",)]


# Losses that are NaN or infinite


class ScaledImages(Images):
    """Images with values that are multiplied by `factor` from the second epoch on."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor
        self.calls = 0

    def batch(self, indices, device=None):
        self.calls += 1
        output = super().batch(indices, device)
        if self.calls > 3:  # An epoch has three batches.
            output["data"] = output["data"] * self.factor
        return output


@pytest.mark.parametrize(
    ("name", "factor", "split"),
    [("AE", math.nan, "train"), ("AE", math.nan, "eval"), ("RAE_L2", 1e30, "train")],
)
def test_a_non_finite_loss_names_the_epoch(name, split, factor, tmp_path):
    argument = {"train": "train", "eval": "evaluation"}[split]
    with pytest.raises(NonFiniteError, match=f"epoch 2, {split} loss: (nan|inf)"):
        build_trainer(name, tmp_path, epochs=3, **{argument: ScaledImages(factor)}).train()
    assert [row["epoch"] for row in read_log(tmp_path)] == [1]


def test_an_infinite_evaluation_loss_is_never_the_best(tmp_path):
    meter = LossMeter("epoch 1", "cpu", infinite=True)
    meter.add({"loss": torch.tensor(-math.inf)}, 1)  # as of a decoder without volume
    assert meter.means() == {"loss": math.inf}

    trainer = build_trainer("RAE_L2", tmp_path, epochs=3, evaluation=ScaledImages(1e30))
    result = trainer.train()
    assert [row.eval["loss"] == math.inf for row in result.log] == [False, True, True]
    assert result.best_epoch == 1

    scaled_from_the_start = ScaledImages(1e30)
    scaled_from_the_start.calls = 3
    trainer = build_trainer(
        "RAE_L2", tmp_path / "second", epochs=2, evaluation=scaled_from_the_start
    )
    with pytest.raises(NonFiniteError, match=r"infinite in all 2 epochs: .*use SiLU"):
        trainer.train()


@pytest.mark.parametrize(
    "trainer_class, evaluate",
    [
        (FIFTrainer, lambda trainer: trainer._evaluate(epoch=1, pass_number=1)),
        (BaseTrainer, lambda trainer: trainer.eval_step(epoch=1)),
    ],
)
def test_an_interrupted_evaluation_does_not_change_the_next(trainer_class, evaluate, tmp_path):
    model = build_model("FIF")
    config = build_config("FIF", epochs=1, output_dir=str(tmp_path))
    trainer = trainer_class(model, Images(), Images(150), training_config=config)
    trainer.train()

    torch.manual_seed(0)  # Pythae's trainer shuffles
    loss = evaluate(trainer)
    batches = []

    def interrupt(module, inputs):
        batches.append(inputs)
        if len(batches) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), model.register_forward_pre_hook(interrupt):
        evaluate(trainer)
    torch.manual_seed(0)
    assert evaluate(trainer) == loss


# Silence, and a bar on a terminal


def test_nothing_is_printed(tmp_path, capfd):
    build_trainer("RAE_L2", tmp_path, epochs=2).train()
    assert capfd.readouterr() == ("", "")  # It also captures Pythae's console handlers.


def test_a_bar_on_a_terminal(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    every_step = functools.partial(progress.tqdm, mininterval=0)
    monkeypatch.setattr(progress, "tqdm", every_step)
    with pytest.raises(Killed):
        build_trainer("AE", tmp_path, epochs=2, on_epoch=kill_at(1)).train()
    build_trainer("AE", tmp_path, epochs=2).train()

    printed = capfd.readouterr().err
    for part in ("training", "50%", "100%"):
        assert part in printed


def test_quiet_pythae_silences_pythaes_own_trainer(tmp_path, capfd, caplog):
    batch = Images(8).batch(torch.arange(8))

    def train():
        config = build_config("AE", epochs=1, output_dir=str(tmp_path))
        pipeline = TrainingPipeline(model=build_model("AE"), training_config=config)
        pipeline(train_data=BaseDataset(batch.data, batch.labels))

    with pytest.raises(Killed), quiet_pythae(), quiet_pythae():
        train()
        raise Killed
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")

    train()  # Outside the block it prints.
    assert caplog.records
    assert "Training of epoch" in capfd.readouterr().err


# Loaders


@example(count=7, batch_size=3, seed=0)
@given(count=st.integers(1, 50), batch_size=st.integers(1, 60), seed=st.integers(0, 9))
def test_loader_agrees_with_pythaes_data_loader(count, batch_size, seed):
    data = Images(count, seed)
    everything = data.batch(torch.arange(count))
    pythae_loader = torch.utils.data.DataLoader(
        BaseDataset(everything.data, everything.labels),
        batch_size=batch_size,
        collate_fn=collate_dataset_output,
    )
    expected_batches = [*pythae_loader]
    if count > batch_size > 1 and count % batch_size == 1:
        expected_batches[-2:] = [_concatenate(*expected_batches[-2:])]

    loader = BatchLoader(data, batch_size, shuffle=False)
    batches = [*loader]
    assert len(loader) == len(batches)
    for batch, expected in zip(batches, expected_batches, strict=True):
        assert list(batch) == list(expected)
        assert torch.equal(batch.data, expected.data)
        assert torch.equal(batch.labels, expected.labels)


def _concatenate(first, second):
    """Joins two batches: a last batch of one image joins the batch before it."""
    joint = {key: torch.cat([first[key], second[key]]) for key in ("data", "labels")}
    return DatasetOutput(**joint)


def test_shuffled_loader_gives_every_item_once_in_a_seeded_order():
    data = ImageDataset(torch.zeros(50, *SHAPE, dtype=torch.uint8), torch.arange(50))
    loader = BatchLoader(data, 7, shuffle=True)

    def labels_of_a_pass():
        return [label for batch in loader for label in batch.labels.tolist()]

    torch.manual_seed(3)
    first = labels_of_a_pass()
    second = labels_of_a_pass()
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert first != sorted(first)

    torch.manual_seed(3)
    assert labels_of_a_pass() == first
