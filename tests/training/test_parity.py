"""Our loop against Pythae's own four trainers: bitwise the same weights after several steps. Both
are given the same data set of Pythae's, so that they draw the same batches, noise and permutations
from the same random state. Between the epochs lie an evaluation, which draws too, and a step of the
schedulers that halves the learning rates."""

import pytest
import torch
from pythae.data.datasets import BaseDataset
from pythae.trainers import BaseTrainer
from pythae.trainers.training_callbacks import TrainingCallback
from support.trainings import DECAY, MODELS, ONE, SHAPE, assert_same_weights, config_of, model_of

from pythae_fif.training import FIFTrainer, quiet_pythae

# A threshold that no loss can improve by: every epoch but the first is on the plateau.
PLATEAU = {"factor": 0.5, "patience": 0, "threshold": 1e6, "threshold_mode": "abs"}
RATES = [3e-3, 3e-3, 1.5e-3, 7.5e-4]


def data(seed):
    generator = torch.Generator().manual_seed(seed)
    return BaseDataset(torch.rand(40, *SHAPE, generator=generator), torch.ones(40))


def training_of(name, **options):
    """Model, data and configuration of a training."""
    config = config_of(name, epochs=len(RATES), lr=RATES[0], plateau=PLATEAU, **options)
    return model_of(name, networks="mlp", latent_dim=4), data(0), data(1), config


class Losses(TrainingCallback):
    def __init__(self):
        self.rows = []

    def on_log(self, training_config, logs, **kwargs):
        self.rows.append({key.replace("epoch_", ""): loss for key, loss in logs.items()})


def trained_by_pythae(name, folder, monkeypatch, **options):
    """Pythae's trainer, with its last and its best model, and the losses that it logs."""
    # The trial batch draws random numbers and moves statistics before the training's seed is set.
    monkeypatch.setattr(BaseTrainer, "_run_model_sanity_check", lambda *_: None)
    if name == "RAE_L2":  # Pythae's pipeline sets it
        options["decoder_optimizer_params"]["weight_decay"] = DECAY
    model, train, evaluation, config = training_of(name, output_dir=str(folder), **options)
    losses = Losses()
    with quiet_pythae():
        trainer = MODELS[name].kind.trainer(
            model, train, evaluation, training_config=config, callbacks=[losses]
        )
        trainer.train()
    return trainer, losses.rows


@pytest.mark.parametrize("name", MODELS)
def test_weights_of_pythaes_own_trainer(name, tmp_path, monkeypatch):
    """The last and the best."""
    # Ours takes PyTorch's fused Adam, Pythae's the plain one.
    one, prefixes = MODELS[name].kind is ONE, MODELS[name].kind.prefixes
    fused = {f"{prefix}optimizer_params": {"fused": True} for prefix in prefixes}
    theirs, losses = trained_by_pythae(name, tmp_path / "theirs", monkeypatch, **fused)
    rows = []

    def on_epoch(row):
        rows.append(row)
        if row.share_done == 1:
            assert_same_weights(ours.model, theirs.model)

    ours = FIFTrainer(*training_of(name), run_dir=tmp_path / "ours", on_epoch=on_epoch)
    ours.train()
    assert_same_weights(ours.model, theirs._best_model)
    for prefix in prefixes:
        assert [row.learning_rates[f"{prefix}learning_rate"] for row in rows] == RATES
    # Our sum over one optimizer's batches is in float32, on the device.
    tolerance = {"rel": 1e-6} if one else {"rel": 0, "abs": 0}
    for row, their in zip(rows, losses, strict=True):
        found = {f"train_{name}": loss for name, loss in row.train.items()}
        found |= {f"eval_{name}": loss for name, loss in row.eval.items()}
        assert {key: found[key] for key in their} == pytest.approx(their, **tolerance)


def test_plain_adam_where_it_is_asked_for(tmp_path, monkeypatch):
    """And the last weights, which are not the best."""
    theirs, _ = trained_by_pythae("AE", tmp_path / "theirs", monkeypatch)
    plain = training_of("AE", optimizer_params={"fused": False})
    ours = FIFTrainer(*plain, run_dir=tmp_path / "ours", keep_last=True)
    ours.train()
    assert_same_weights(ours.model, theirs.model)


def test_vaegan_leaves_out_steps(tmp_path):
    """Else the parity of its trainings would not be that of its margins."""
    model, *rest = training_of("VAEGAN")
    taken = set()
    model.register_forward_hook(
        lambda model, inputs, output: taken.add(
            (output.update_decoder, output.update_discriminator)
        )
    )
    FIFTrainer(model, *rest, run_dir=tmp_path).train()
    assert taken == {(True, True), (True, False), (False, True)}
