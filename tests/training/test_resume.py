"""Interrupted trainings resume bitwise, and use nothing that belongs to another training."""

import io
import json
import logging
import os
import random

import numpy as np
import pytest
import torch
from pythae.data.datasets import BaseDataset
from pythae.trainers.training_callbacks import TrainingCallback
from support.folders import read_folder
from support.trainings import (
    LATENT_DIM,
    ONE_OF_A_KIND,
    SHAPE,
    Images,
    Killed,
    assert_same_weights,
    build_model,
    build_trainer,
    kill_at,
    read_log,
)

from pythae_fif import FIF, FIFConfig
from pythae_fif.errors import StoreError
from pythae_fif.training.checkpoint import RunFiles


def without_times(rows):
    times = {"seconds", "train_seconds"}
    return [{key: value for key, value in row.items() if key not in times} for row in rows]


def float_dataset(seed):
    """Images as a data set of Pythae's, in place of an `ImageDataset`."""
    batch = Images(seed=seed).batch(torch.arange(40))
    return BaseDataset(batch.data, batch.labels)


CLIPPED_ONE_CYCLE = {
    "plateau": None,
    "one_cycle": {"max_lr": 1e-2, "total_steps": 18},
    "scheduler_interval": "step",
    "gradient_clip_norm": 0.1,
}
"""Options of a training of six epochs with three steps each."""


def train_until_killed(epoch, name, folder, **options):
    """Starts or resumes a training, and interrupts it after an epoch."""
    with pytest.raises(Killed):
        build_trainer(name, folder, on_epoch=kill_at(epoch), **options).train()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in ONE_OF_A_KIND),
        ("FIF", {"precision": "bfloat16"}),
        ("VAE", {"train": float_dataset(0), "evaluation": float_dataset(1)}),
        ("FIF", CLIPPED_ONE_CYCLE),
        ("VAEGAN", CLIPPED_ONE_CYCLE),
    ],
    ids=[*ONE_OF_A_KIND, "bfloat16", "BaseDataset", "FIF in one cycle", "VAEGAN in one cycle"],
)
def test_killed_and_resumed_equals_uninterrupted(name, options, tmp_path):
    options = {"plateau": {"factor": 0.5, "patience": 0}, **options}
    uninterrupted = build_trainer(name, tmp_path / "uninterrupted", **options)
    expected = uninterrupted.train()

    for epoch in (2, 5):
        train_until_killed(epoch, name, tmp_path / "killed", **options)
        torch.manual_seed(99)
        np.random.seed(99)
        random.seed(99)
    resumed = build_trainer(name, tmp_path / "killed", **options)
    result = resumed.train()

    assert_same_weights(resumed.model, uninterrupted.model)
    rows = read_log(tmp_path / "killed")
    assert without_times(rows) == without_times(read_log(tmp_path / "uninterrupted"))

    assert result.best_epoch == expected.best_epoch
    assert result.best_eval_loss == expected.best_eval_loss
    for name in ("seconds", "train_seconds"):
        assert getattr(result, name) == pytest.approx(sum(row[name] for row in rows))
    assert not (tmp_path / "killed" / "checkpoint.pt").exists()


def test_early_stopping_counts_the_epochs_before_an_interrupt(tmp_path):
    options = {"lr": 0.0, "model": build_model("AE", networks="mlp"), "early_stopping_patience": 3}
    train_until_killed(2, "AE", tmp_path, **options)
    result = build_trainer("AE", tmp_path, **options).train()
    assert (result.epochs, result.best_epoch) == (4, 1)
    assert result.ended_by == "early_stopping_patience"
    saved = json.loads((tmp_path / "model" / "training.json").read_text())["result"]
    assert saved["ended_by"] == "early_stopping_patience"


def test_a_training_that_stopped_early_goes_on_with_more_patience(tmp_path):
    """It was interrupted after its last epoch and before its model was written."""
    model = build_model("AE", networks="mlp")
    options = {"lr": 0.0, "model": model, "epochs": 4}
    train_until_killed(2, "AE", tmp_path, early_stopping_patience=1, **options)
    result = build_trainer("AE", tmp_path, early_stopping_patience=2, **options).train()
    assert (result.epochs, result.ended_by) == (3, "early_stopping_patience")


def test_a_log_on_a_full_disk_is_one_line(tmp_path):
    (tmp_path / "train_log.jsonl").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"cannot write .*train_log\.jsonl: No space left"):
        build_trainer("FIF", tmp_path).train()
    with pytest.raises(StoreError, match=r"cannot make .*below: Not a directory"):
        build_trainer("FIF", tmp_path / "train_log.jsonl" / "below")


def test_a_callback_that_draws_random_numbers_changes_nothing(tmp_path):
    def draw(*_, **__):
        torch.randn(7)

    class DrawingCallback(TrainingCallback):
        on_train_begin = on_log = draw

    plain = build_trainer("VAE", tmp_path / "plain", epochs=3)
    plain.train()

    callbacks = {"on_epoch": draw, "callbacks": [DrawingCallback()]}
    drawing = build_trainer("VAE", tmp_path / "drawing", epochs=3, **callbacks)
    drawing.train()
    assert_same_weights(plain.model, drawing.model)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_interrupt_within_an_epoch_keeps_the_last_complete_epoch(interrupt, tmp_path):
    class InterruptingImages(Images):
        calls = 0

        def batch(self, indices, device=None):
            self.calls += 1
            if self.calls == 3 * 2 + 2:  # Epochs have three batches: the second one of epoch 3.
                raise interrupt
            return super().batch(indices, device)

    with pytest.raises(interrupt):
        build_trainer("VAE", tmp_path, train=InterruptingImages(), epochs=4).train()
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["progress"]["epochs"] == 2

    build_trainer("VAE", tmp_path, epochs=4).train()
    assert [row["epoch"] for row in read_log(tmp_path)] == [1, 2, 3, 4]


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path):
    train_until_killed(2, "AE", tmp_path)
    with open(tmp_path / "train_log.jsonl", "a") as file:
        file.write('{"epoch": 3}\n{"ep')

    log = build_trainer("AE", tmp_path).train().log
    assert [row["epoch"] for row in read_log(tmp_path)] == [row.epoch for row in log]
    assert [row.epoch for row in log] == [1, 2, 3, 4, 5, 6]


def without_optimizers(content):
    """A checkpoint whose fault is noticed only after the weights are replaced."""
    state = torch.load(io.BytesIO(content), weights_only=True)
    del state["optimizers"]
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def fif_with_dropout():
    model = build_model("FIF", networks="mlp")
    model.decoder.layers.append(torch.nn.Dropout(0.0))
    return model


DAMAGES = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "noise": lambda content: b"noise" * 99,
    "missing key": without_optimizers,
}
OTHER_TRAININGS = {
    "run": lambda: {"run_id": "second"},
    "learning rate": lambda: {"lr": 1e-3},
    "model": lambda: {"model": FIF(FIFConfig(input_dim=SHAPE, latent_dim=LATENT_DIM, beta=3.0))},
    "networks": lambda: {"model": fif_with_dropout()},
    "data": lambda: {"train": Images(32)},
    "evaluation data": lambda: {"evaluation": Images(32)},
    "precision": lambda: {"precision": "bfloat16"},
    "clipping": lambda: {"gradient_clip_norm": 1.0},
}


@pytest.mark.parametrize("cause", [*DAMAGES, *OTHER_TRAININGS])
def test_a_checkpoint_that_cannot_be_resumed_is_set_aside(cause, tmp_path, caplog):
    """It is damaged or of another training: the training is as in an empty folder."""

    def build(folder):
        defaults = {"model": build_model("FIF", networks="mlp"), "epochs": 2}
        changes = OTHER_TRAININGS.get(cause, dict)()
        return build_trainer("FIF", folder, **{**defaults, **changes})

    fresh = build(tmp_path / "fresh")
    fresh.train()

    folder = tmp_path / "run"
    model = build_model("FIF", networks="mlp")
    train_until_killed(1, "FIF", folder, model=model, epochs=2)
    path = folder / "checkpoint.pt"
    if cause in DAMAGES:
        path.write_bytes(DAMAGES[cause](path.read_bytes()))
    checkpoint = path.read_bytes()

    trainer = build(folder)
    with caplog.at_level(logging.WARNING):
        assert trainer.train().epochs == 2
    assert "set aside as checkpoint.pt.corrupt" in caplog.text
    is_other = "it is for another model, configuration or number of data" in caplog.text
    assert is_other == (cause in OTHER_TRAININGS)
    assert (folder / "checkpoint.pt.corrupt").read_bytes() == checkpoint
    assert_same_weights(trainer.model, fresh.model)
    assert without_times(read_log(folder)) == without_times(read_log(tmp_path / "fresh"))


@pytest.mark.parametrize("damage", ["changed", "gone", "no record", "pipe", "another run's"])
def test_a_model_that_cannot_be_used_is_set_aside(damage, tmp_path):
    build_trainer("AE", tmp_path, epochs=1, run_id="1f").train()
    run_id = "2f" if damage == "another run's" else "1f"
    files = RunFiles(tmp_path, run_id)
    record = json.loads((files.model / "training.json").read_text())
    assert {"model.pt", "model_config.json"} <= set(record["files"])

    if damage == "changed":
        with open(files.model / "model.pt", "ab") as file:
            file.write(b"0")
    elif damage != "another run's":
        damaged = files.model / ("training.json" if damage == "no record" else "model.pt")
        damaged.unlink()
        if damage == "pipe":  # A reader would wait for it.
            os.mkfifo(damaged)

    assert files.read_result() is None
    assert (tmp_path / "model.corrupt").is_dir()
    assert build_trainer("AE", tmp_path, epochs=1, run_id=run_id).train().epochs == 1
    assert [row["run_id"] for row in read_log(tmp_path)] == [run_id]


def test_a_training_that_resumes_after_its_last_epoch_names_its_surrogate(tmp_path):
    options = {"model": build_model("FIF"), "epochs": 2, "run_id": "1f"}
    train_until_killed(2, "FIF", tmp_path, **options)
    for _ in ("from the checkpoint", "from the finished model"):
        result = build_trainer("FIF", tmp_path, **options | {"model": build_model("FIF")}).train()
        assert result.surrogate == "replay"


def test_a_folder_with_a_finished_training_is_refused(tmp_path):
    first = build_trainer("AE", tmp_path, epochs=1)
    second = build_trainer("AE", tmp_path, epochs=1)
    first.train()
    finished_contents = read_folder(tmp_path)
    for trainer in (first, second):
        with pytest.raises(
            StoreError, match=r"finished training: load .*load_from_folder\('.*model'\), or use"
        ):
            trainer.train()
    assert read_folder(tmp_path) == finished_contents


@pytest.mark.parametrize("name", [*ONE_OF_A_KIND, "RAE_GP"])
def test_a_run_with_an_id_is_not_trained_twice(name, tmp_path):
    first = build_trainer(name, tmp_path, epochs=1, run_id="1f")
    result = first.train()
    finished_contents = read_folder(tmp_path)

    second = build_trainer(name, tmp_path, model=build_model(name), epochs=1, run_id="1f")
    assert second.train() == result
    assert_same_weights(second.model, first.model)
    assert read_folder(tmp_path) == finished_contents
    assert not second.model.training


def test_a_longer_training_resumes_a_shorter_one(tmp_path, monkeypatch):
    uninterrupted = build_trainer("FIF", tmp_path / "uninterrupted", epochs=3)
    uninterrupted.train()

    train_until_killed(1, "FIF", tmp_path / "killed", epochs=2)
    monkeypatch.setenv("MASTER_ADDR", "another-node")  # Pythae's configurations read it.
    longer = build_trainer("FIF", tmp_path / "killed", epochs=3)
    longer.train()
    assert_same_weights(longer.model, uninterrupted.model)
