"""Trainings that are cut off: they resume bitwise, and write nothing once the run is another's."""

import json
import logging
import random
import time

import numpy as np
import pytest
import torch
from pythae.data.datasets import BaseDataset
from pythae.trainers.training_callbacks import TrainingCallback
from support.folders import contents, whole
from support.trainings import (
    LATENT,
    MODELS,
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
from pythae_fif.baselines import DNF, DNFConfig
from pythae_fif.device import random_state, set_random_state
from pythae_fif.errors import ClaimLostError, StoreError
from pythae_fif.files import write_whole
from pythae_fif.training import LOG_NAME
from pythae_fif.training import read_log as read_rows
from pythae_fif.training.run_files import PlainFolder, TrainingFiles


def without_times(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


ONE_OF_A_KIND = ["FIF", *{MODELS[name].kind: name for name in reversed(MODELS)}.values()]
"""A model for each rule by which weights are updated."""


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_killed_and_resumed_equals_uninterrupted(name, tmp_path):
    plateau = {"factor": 0.5, "patience": 0}
    whole = trainer_of(name, tmp_path / "whole", plateau=plateau)
    expected = whole.train()

    for epoch in (2, 5):
        with pytest.raises(Killed):
            trainer_of(name, tmp_path / "cut", plateau=plateau, on_epoch=kill_at(epoch)).train()
        torch.manual_seed(99), np.random.seed(99), random.seed(99)
    resumed = trainer_of(name, tmp_path / "cut", plateau=plateau)
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
    options = {"train": data, "evaluation": data, "epochs": 3}
    whole = trainer_of("VAE", tmp_path / "whole", **options)
    whole.train()
    with pytest.raises(Killed):
        trainer_of("VAE", tmp_path / "cut", on_epoch=kill_at(2), **options).train()
    resumed = trainer_of("VAE", tmp_path / "cut", **options)
    resumed.train()
    assert_same_weights(resumed.model, whole.model)


def test_a_callback_that_draws_random_numbers_changes_nothing(tmp_path):
    plain = trainer_of("VAE", tmp_path / "plain", epochs=3)
    plain.train()
    draws = lambda *_: torch.randn(7)  # noqa: E731

    class Drawing(TrainingCallback):
        def on_train_begin(self, *args, **kwargs):
            draws()

    drawing = trainer_of(
        "VAE", tmp_path / "drawing", epochs=3, on_epoch=draws, callbacks=[Drawing()]
    )
    drawing.train()
    assert_same_weights(plain.model, drawing.model)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_interrupt_within_an_epoch_keeps_the_last_whole_epoch(interrupt, tmp_path):
    whole = trainer_of("VAE", tmp_path / "whole", epochs=4)
    whole.train()

    class Interrupted(Images):
        calls = 0

        def batch(self, indices, device=None):
            self.calls += 1
            if self.calls == 3 * 2 + 2:  # three batches an epoch: the second of epoch 3
                raise interrupt
            return super().batch(indices, device)

    with pytest.raises(interrupt):
        trainer_of("VAE", tmp_path / "cut", train=Interrupted(), epochs=4).train()
    state = torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)
    assert state["progress"]["epoch"] == 2
    resumed = trainer_of("VAE", tmp_path / "cut", epochs=4)
    resumed.train()
    assert_same_weights(resumed.model, whole.model)
    assert [row["epoch"] for row in read_log(tmp_path / "cut")] == [1, 2, 3, 4]


def test_a_flow_that_two_networks_share_is_kept_once(tmp_path):
    sizes = {"steps": 1, "hidden_channels": 8, "latent_blocks": 1, "latent_hidden_dim": 8}
    model = DNF(DNFConfig(input_dim=SHAPE, latent_dim=2, **sizes))
    with pytest.raises(Killed):
        trainer_of("FIF", tmp_path, model=model, on_epoch=kill_at(1)).train()
    best = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["progress"]["best_state"]
    shared = [name for name, _ in model.flow.named_parameters()]
    assert shared
    for name in shared:
        one, other = (best[f"{side}.flow.{name}"] for side in ("encoder", "decoder"))
        assert one.data_ptr() == other.data_ptr()


def test_checkpoints_keep_their_distance_in_time(tmp_path):
    found = []
    tell = lambda *_: found.append((tmp_path / "checkpoint.pt").exists())  # noqa: E731
    trainer_of("AE", tmp_path, epochs=2, on_epoch=tell, checkpoint_every_seconds=1e6).train()
    assert found == [False, False]


def test_a_checkpoint_that_takes_long_is_followed_by_a_long_pause(tmp_path, monkeypatch):
    written = []

    def slow(self, progress, *_):
        written.append(progress.epoch)
        time.sleep(0.1)

    monkeypatch.setattr(TrainingFiles, "save_checkpoint", slow)
    trainer_of("AE", tmp_path / "often", epochs=4, checkpoint_every_seconds=0).train()
    assert written == [1, 2, 3, 4]
    trainer_of("AE", tmp_path / "seldom", epochs=4, checkpoint_every_seconds=1e-9).train()
    assert written == [1, 2, 3, 4, 1]  # the next would come 5 s later


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path):
    with pytest.raises(Killed):
        trainer_of("AE", tmp_path, on_epoch=kill_at(2)).train()
    with open(tmp_path / "train_log.jsonl", "a") as file:
        file.write('{"epoch": 3, "train_loss": 0.0}\n{"epo')
    trainer_of("AE", tmp_path).train()
    rows = read_log(tmp_path)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[2]["train_loss"] > 0


def test_the_log_is_read_as_it_was_written_but_for_a_half_line(tmp_path):
    trainer_of("FIF", tmp_path, epochs=2).train()
    log = tmp_path / LOG_NAME
    with open(log, "a") as file:
        file.write('{"epoch": 3, "tr')
    assert [row.to_json() for row in read_rows(log)] == [
        json.loads(line) for line in log.read_text().splitlines()[:2]
    ]
    assert read_rows(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "other model", "missing key"])
def test_corrupt_checkpoint_is_set_aside(damage, tmp_path, caplog):
    fresh = trainer_of("VAE", tmp_path / "fresh", epochs=2)
    fresh.train()
    folder = tmp_path / "damaged"
    with pytest.raises(Killed):
        name = "AE" if damage == "other model" else "VAE"
        trainer_of(name, folder, epochs=2, on_epoch=kill_at(1)).train()
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

    trainer = trainer_of("VAE", folder, epochs=2)
    with caplog.at_level(logging.WARNING):
        assert trainer.train().epochs == 2
    assert "set aside as checkpoint.pt.corrupt" in caplog.text
    assert (folder / "checkpoint.pt.corrupt").read_bytes() == damaged
    assert_same_weights(trainer.model, fresh.model)


def test_another_run_s_checkpoint_is_set_aside(tmp_path, caplog):
    for seed, run_id in enumerate(("ours", "theirs")):
        with pytest.raises(Killed):
            folder = PlainFolder(tmp_path / run_id, run_id)
            trainer_of("AE", folder, seed=seed, epochs=2, on_epoch=kill_at(1)).train()
    theirs = (tmp_path / "theirs" / "checkpoint.pt").read_bytes()
    (tmp_path / "ours" / "checkpoint.pt").write_bytes(theirs)
    fresh = trainer_of("AE", tmp_path / "fresh", epochs=2)
    fresh.train()
    resumed = trainer_of("AE", PlainFolder(tmp_path / "ours", "ours"), epochs=2)
    with caplog.at_level(logging.WARNING):
        resumed.train()
    assert "set aside as checkpoint.pt.corrupt" in caplog.text
    assert (tmp_path / "ours" / "checkpoint.pt.corrupt").read_bytes() == theirs
    assert_same_weights(resumed.model, fresh.model)


def test_a_folder_whose_training_is_done_is_refused(tmp_path):
    first, second = (trainer_of("AE", tmp_path, epochs=1) for _ in range(2))
    first.train()
    before = contents(tmp_path)
    for trainer in (first, second, trainer_of("AE", tmp_path, epochs=1)):
        with pytest.raises(StoreError, match=r"its training is done; load .*model, or give anoth"):
            trainer.train()
    assert contents(tmp_path) == before


def cut_off(folder, **options):
    with pytest.raises(Killed):
        trainer_of("FIF", folder, epochs=2, on_epoch=kill_at(1), **options).train()


@pytest.mark.parametrize(
    "change", ["learning rate", "model", "networks", "data", "evaluation data"]
)
def test_a_checkpoint_of_another_training_is_set_aside(change, tmp_path, caplog):
    options = {"epochs": 2}
    if change == "learning rate":
        options["lr"] = 1e-3
    elif change == "model":
        options["model"] = FIF(FIFConfig(input_dim=SHAPE, latent_dim=LATENT, beta=3.0))
    elif change == "networks":
        options["model"] = model_of("FIF", networks="mlp")
        options["model"].decoder.layers.append(torch.nn.Dropout(0.0))
    else:
        options["train" if change == "data" else "evaluation"] = Images(32)
    cut_off(tmp_path, model=model_of("FIF", networks="mlp"))
    trainer = trainer_of("FIF", tmp_path, **{"model": model_of("FIF", networks="mlp"), **options})
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert "of another model, configuration or number of data" in caplog.text
    assert (tmp_path / "checkpoint.pt.corrupt").exists()


def test_a_longer_training_goes_on(tmp_path):
    whole = trainer_of("FIF", tmp_path / "whole", epochs=3)
    whole.train()
    cut_off(tmp_path / "cut")
    longer = trainer_of("FIF", tmp_path / "cut", epochs=3, train_dataloader_num_workers=1)
    longer.train()
    assert_same_weights(longer.model, whole.model)
    assert not (tmp_path / "cut" / "checkpoint.pt.corrupt").exists()


class Claimed(PlainFolder):
    """A folder that is taken away from the training at one of its checks."""

    checks, taken_at = 0, -1

    def check(self):
        Claimed.checks += 1
        if Claimed.checks >= Claimed.taken_at >= 0:
            raise ClaimLostError("the run is another's")


def test_writes_nothing_once_the_run_is_another_s(tmp_path, monkeypatch):
    """Every write is checked: whenever the claim is lost, the folder stays as it was then."""
    monkeypatch.setattr(Claimed, "checks", 0)
    kept = {}
    check = Claimed.check

    def watched(files):
        kept.setdefault(Claimed.checks, contents(files.path))
        check(files)

    monkeypatch.setattr(Claimed, "check", watched)
    trainer_of("AE", Claimed(tmp_path / "whole"), epochs=2).train()
    # The log, then twice a line and a checkpoint, then the model before and after it is written.
    writes = Claimed.checks
    assert writes > 4
    for number in range(1, writes + 1):
        kept.clear()
        monkeypatch.setattr(Claimed, "checks", 0)
        monkeypatch.setattr(Claimed, "taken_at", number)
        folder = tmp_path / str(number)
        with pytest.raises(ClaimLostError):
            trainer_of("AE", Claimed(folder), epochs=2).train()
        left = whole(kept[number - 1])
        assert contents(folder) == left
        assert (len(left) > 0) == (number > 1)


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
