"""Trainings that are cut off: they resume bitwise, and use nothing that is of another."""

import json
import logging
import os
import random

import numpy as np
import pytest
import torch
from pythae.data.datasets import BaseDataset
from pythae.trainers.training_callbacks import TrainingCallback
from support.folders import contents
from support.trainings import (
    LATENT,
    ONE_OF_A_KIND,
    SHAPE,
    Images,
    Killed,
    assert_same_weights,
    kill_at,
    model_of,
    read_log,
    trainer_of,
)

from pythae_fif import FIF, FIFConfig
from pythae_fif.errors import StoreError
from pythae_fif.training.checkpoint import RunFiles


def without_times(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def plain_data(seed):
    batch = Images(seed=seed).batch(torch.arange(40))
    return BaseDataset(batch.data, batch.labels)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in ONE_OF_A_KIND),
        ("FIF", {"precision": "bfloat16"}),
        ("VAE", {"train": plain_data(0), "evaluation": plain_data(1)}),
    ],
    ids=[*ONE_OF_A_KIND, "bfloat16", "BaseDataset"],
)
def test_killed_and_resumed_equals_uninterrupted(name, options, tmp_path):
    options = {"plateau": {"factor": 0.5, "patience": 0}, **options}
    whole = trainer_of(name, tmp_path / "whole", **options)
    expected = whole.train()

    for epoch in (2, 5):
        with pytest.raises(Killed):
            trainer_of(name, tmp_path / "cut", on_epoch=kill_at(epoch), **options).train()
        torch.manual_seed(99), np.random.seed(99), random.seed(99)
    resumed = trainer_of(name, tmp_path / "cut", **options)
    result = resumed.train()

    assert_same_weights(resumed.model, whole.model)
    rows = read_log(tmp_path / "cut")
    assert without_times(rows) == without_times(read_log(tmp_path / "whole"))
    assert result.best_epoch == expected.best_epoch
    assert result.best_eval_loss == expected.best_eval_loss
    assert result.seconds == pytest.approx(sum(row["seconds"] for row in rows))
    assert not (tmp_path / "cut" / "checkpoint.pt").exists()


def test_a_log_on_a_full_disk_is_one_line(tmp_path):
    (tmp_path / "train_log.jsonl").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"cannot write .*train_log\.jsonl: No space left"):
        trainer_of("FIF", tmp_path).train()
    with pytest.raises(StoreError, match=r"cannot make .*below: Not a directory"):
        trainer_of("FIF", tmp_path / "train_log.jsonl" / "below")


def test_a_callback_that_draws_random_numbers_changes_nothing(tmp_path):
    def draws(*_, **__):
        torch.randn(7)

    class Drawing(TrainingCallback):
        on_train_begin = on_log = draws

    plain = trainer_of("VAE", tmp_path / "plain", epochs=3)
    plain.train()
    hearing = {"on_epoch": draws, "callbacks": [Drawing()]}
    drawing = trainer_of("VAE", tmp_path / "drawing", epochs=3, **hearing)
    drawing.train()
    assert_same_weights(plain.model, drawing.model)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_interrupt_within_an_epoch_keeps_the_last_whole_epoch(interrupt, tmp_path):
    class Interrupted(Images):
        calls = 0

        def batch(self, indices, device=None):
            self.calls += 1
            if self.calls == 3 * 2 + 2:  # three batches an epoch: the second of epoch 3
                raise interrupt
            return super().batch(indices, device)

    with pytest.raises(interrupt):
        trainer_of("VAE", tmp_path, train=Interrupted(), epochs=4).train()
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["progress"]["epochs"] == 2
    trainer_of("VAE", tmp_path, epochs=4).train()
    assert [row["epoch"] for row in read_log(tmp_path)] == [1, 2, 3, 4]


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path):
    with pytest.raises(Killed):
        trainer_of("AE", tmp_path, on_epoch=kill_at(2)).train()
    with open(tmp_path / "train_log.jsonl", "a") as file:
        file.write('{"epoch": 3}\n{"ep')
    log = trainer_of("AE", tmp_path).train().log
    assert [row["epoch"] for row in read_log(tmp_path)] == [row.epoch for row in log]
    assert [row.epoch for row in log] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "missing key"])
def test_a_damaged_checkpoint_is_set_aside(damage, tmp_path, caplog):
    fresh = trainer_of("VAE", tmp_path / "fresh", epochs=2)
    fresh.train()
    folder = tmp_path / "damaged"
    with pytest.raises(Killed):
        trainer_of("VAE", folder, epochs=2, on_epoch=kill_at(1)).train()
    path = folder / "checkpoint.pt"
    whole = path.read_bytes()
    if damage == "missing key":  # found only once the weights are already replaced
        state = torch.load(path, weights_only=True)
        del state["optimizers"]
        torch.save(state, path)
    else:
        content = {"cut": whole[: len(whole) // 2], "empty": b"", "noise": b"noise" * 99}
        path.write_bytes(content[damage])
    damaged = path.read_bytes()

    trainer = trainer_of("VAE", folder, epochs=2)
    with caplog.at_level(logging.WARNING):
        assert trainer.train().epochs == 2
    assert "set aside as checkpoint.pt.corrupt" in caplog.text
    assert (folder / "checkpoint.pt.corrupt").read_bytes() == damaged
    assert_same_weights(trainer.model, fresh.model)


def test_what_another_run_left_is_set_aside(tmp_path, caplog):
    """The checkpoint of one that was cut off, then the model of one that was finished."""
    fresh = trainer_of("AE", tmp_path / "fresh", epochs=2)
    fresh.train()
    folder = tmp_path / "run"
    with pytest.raises(Killed):
        trainer_of("AE", folder, run_id="theirs", seed=1, epochs=2, on_epoch=kill_at(1)).train()
    theirs = (folder / "checkpoint.pt").read_bytes()
    ours = trainer_of("AE", folder, run_id="ours", epochs=2)
    ours.train()
    assert_same_weights(ours.model, fresh.model)
    assert (folder / "checkpoint.pt.corrupt").read_bytes() == theirs
    assert [row["run_id"] for row in read_log(folder)] == ["ours", "ours"]

    assert RunFiles(folder, "ours").trained().epochs == 2
    third = trainer_of("AE", folder, run_id="third", epochs=1)
    assert third.train().epochs == 1
    assert (folder / "model.corrupt").is_dir()
    assert RunFiles(folder, "third").trained().epochs == 1
    assert caplog.text.count("set aside as") == 2


@pytest.mark.parametrize("damage", ["changed", "gone", "no record", "pipe"])
def test_a_model_that_is_not_what_was_written_is_set_aside(damage, tmp_path):
    trainer_of("AE", tmp_path, epochs=1, run_id="ours").train()
    files = RunFiles(tmp_path, "ours")
    written = json.loads((files.model / "training.json").read_text())
    assert {"model.pt", "model_config.json"} <= set(written["files"])
    if damage == "changed":
        with open(files.model / "model.pt", "ab") as file:
            file.write(b"0")
    else:
        left = files.model / ("training.json" if damage == "no record" else "model.pt")
        left.unlink()
        if damage == "pipe":  # which a reader would wait for
            os.mkfifo(left)
    assert files.trained() is None
    assert (tmp_path / "model.corrupt").is_dir()
    assert trainer_of("AE", tmp_path, epochs=1, run_id="ours").train().epochs == 1


def test_a_folder_whose_training_is_done_is_refused(tmp_path):
    first, second = (trainer_of("AE", tmp_path, epochs=1) for _ in range(2))
    first.train()
    before = contents(tmp_path)
    for trainer in (first, second):
        with pytest.raises(StoreError, match=r"its training is done; load .*model, or give anoth"):
            trainer.train()
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", [*ONE_OF_A_KIND, "RAE_GP"])
def test_a_run_that_has_an_id_is_not_trained_twice(name, tmp_path):
    first = trainer_of(name, tmp_path, epochs=1, run_id="1f")
    result = first.train()
    before = contents(tmp_path)
    again = trainer_of(name, tmp_path, model=model_of(name), epochs=1, run_id="1f")
    assert again.train() == result
    assert_same_weights(again.model, first.model)
    assert contents(tmp_path) == before and not again.model.training


@pytest.mark.parametrize(
    "change", ["learning rate", "model", "networks", "data", "evaluation data", "precision"]
)
def test_a_checkpoint_of_another_training_is_set_aside(change, tmp_path, caplog):
    model = model_of("FIF", networks="mlp")
    options = {"epochs": 2, "model": model_of("FIF", networks="mlp")}
    with pytest.raises(Killed):
        trainer_of("FIF", tmp_path, model=model, epochs=2, on_epoch=kill_at(1)).train()
    if change == "networks":
        options["model"].decoder.layers.append(torch.nn.Dropout(0.0))
    options |= {
        "learning rate": {"lr": 1e-3},
        "model": {"model": FIF(FIFConfig(input_dim=SHAPE, latent_dim=LATENT, beta=3.0))},
        "networks": {},
        "data": {"train": Images(32)},
        "evaluation data": {"evaluation": Images(32)},
        "precision": {"precision": "bfloat16"},
    }[change]
    with caplog.at_level(logging.WARNING):
        trainer_of("FIF", tmp_path, **options).train()
    assert "of another model, configuration or number of data" in caplog.text
    assert (tmp_path / "checkpoint.pt.corrupt").exists()


def test_a_longer_training_goes_on(tmp_path, monkeypatch):
    whole = trainer_of("FIF", tmp_path / "whole", epochs=3)
    whole.train()
    with pytest.raises(Killed):
        trainer_of("FIF", tmp_path / "cut", epochs=2, on_epoch=kill_at(1)).train()
    monkeypatch.setenv("MASTER_ADDR", "another-node")  # which Pythae's configurations read
    longer = trainer_of("FIF", tmp_path / "cut", epochs=3)
    longer.train()
    assert_same_weights(longer.model, whole.model)
