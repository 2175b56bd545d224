"""Our loop against Pythae's own four trainers: bitwise the same weights after several steps.

Both get the same data set of Pythae's, so that they draw the same batches, noise and permutations
from the same random state. Between the epochs there are an evaluation, which also draws, and a step
of the schedulers that halves the learning rates.
"""

import pytest
import torch
from pythae.data.datasets import BaseDataset
from pythae.trainers import BaseTrainer
from pythae.trainers.training_callbacks import TrainingCallback
from support.trainings import (
    BASE,
    MODELS,
    SHAPE,
    WEIGHT_DECAY,
    assert_same_weights,
    build_config,
    build_model,
)

from pythae_fif.training import FIFTrainer, quiet_pythae

# No loss improves by this threshold, so every epoch but the first is on the plateau.
PLATEAU = {"factor": 0.5, "patience": 0, "threshold": 1e6, "threshold_mode": "abs"}
LEARNING_RATES = [3e-3, 3e-3, 1.5e-3, 7.5e-4]


def noise_dataset(seed):
    generator = torch.Generator().manual_seed(seed)
    return BaseDataset(torch.rand(40, *SHAPE, generator=generator), torch.ones(40))


def trainer_arguments(name, **options):
    """Model, data sets and configuration of a training."""
    model = build_model(name, networks="mlp", latent_dim=4)
    config = build_config(
        name, epochs=len(LEARNING_RATES), lr=LEARNING_RATES[0], plateau=PLATEAU, **options
    )
    return model, noise_dataset(0), noise_dataset(1), config


class LossRecorder(TrainingCallback):
    """Records the losses that a trainer logs."""

    def __init__(self):
        self.rows = []

    def on_log(self, training_config, logs, **kwargs):
        self.rows.append({key.replace("epoch_", ""): loss for key, loss in logs.items()})


def train_by_pythae(name, folder, monkeypatch, **options):
    """Trains by Pythae's trainer, and returns it with the losses that it logs."""
    # The trial batch draws random numbers and moves statistics before the training's seed is set.
    monkeypatch.setattr(BaseTrainer, "_run_model_sanity_check", lambda *_: None)
    if name == "RAE_L2":  # Pythae's pipeline sets it.
        options["decoder_optimizer_params"]["weight_decay"] = WEIGHT_DECAY

    model, train, evaluation, config = trainer_arguments(name, output_dir=str(folder), **options)
    recorder = LossRecorder()
    with quiet_pythae():
        trainer = MODELS[name].kind.trainer(
            model, train, evaluation, training_config=config, callbacks=[recorder]
        )
        trainer.train()
    return trainer, recorder.rows


@pytest.mark.parametrize("name", MODELS)
def test_weights_equal_those_of_pythaes_trainer(name, tmp_path, monkeypatch):
    """Both the last and the best weights."""
    # Our trainer uses PyTorch's fused Adam, Pythae's the plain one.
    prefixes = MODELS[name].kind.prefixes
    fused = {f"{prefix}optimizer_params": {"fused": True} for prefix in prefixes}
    pythae_trainer, pythae_rows = train_by_pythae(name, tmp_path / "pythae", monkeypatch, **fused)

    rows = []

    def on_epoch(row):
        rows.append(row)
        if row.share_done == 1:
            assert_same_weights(trainer.model, pythae_trainer.model)

    trainer = FIFTrainer(*trainer_arguments(name), run_dir=tmp_path / "fif", on_epoch=on_epoch)
    trainer.train()
    assert_same_weights(trainer.model, pythae_trainer._best_model)
    for prefix in prefixes:
        assert [row.learning_rates[f"{prefix}learning_rate"] for row in rows] == LEARNING_RATES

    # Our sum over one optimizer's batches is in float32, on the device.
    has_one_optimizer = MODELS[name].kind is BASE
    tolerance = {"rel": 1e-6} if has_one_optimizer else {"rel": 0, "abs": 0}
    for row, pythae_losses in zip(rows, pythae_rows, strict=True):
        losses = {f"train_{key}": loss for key, loss in row.train.items()}
        losses |= {f"eval_{key}": loss for key, loss in row.eval.items()}
        assert {key: losses[key] for key in pythae_losses} == pytest.approx(
            pythae_losses, **tolerance
        )


def test_plain_adam_if_the_configuration_says_so(tmp_path, monkeypatch):
    """The last weights, which are not the best."""
    pythae_trainer, _ = train_by_pythae("AE", tmp_path / "pythae", monkeypatch)

    arguments = trainer_arguments("AE", optimizer_params={"fused": False})
    trainer = FIFTrainer(*arguments, run_dir=tmp_path / "fif", keep_last=True)
    trainer.train()
    assert_same_weights(trainer.model, pythae_trainer.model)


def test_vaegan_skips_steps(tmp_path):
    """Otherwise the parity of its trainings would say nothing about its margins."""
    model, *data_and_config = trainer_arguments("VAEGAN")
    updates = set()
    model.register_forward_hook(
        lambda model, inputs, output: updates.add(
            (output.update_decoder, output.update_discriminator)
        )
    )
    FIFTrainer(model, *data_and_config, run_dir=tmp_path).train()
    assert updates == {(True, True), (True, False), (False, True)}
