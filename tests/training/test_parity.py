"""Our loop against Pythae's own four trainers: bitwise the same weights after several steps.

Both are given the same data set of Pythae's, so that they draw the same batches, noise and
permutations from the same random state. Between the epochs lie an evaluation, which draws too, and
a step of the schedulers that halves the learning rates.
"""

import pytest
import torch
from pythae.data.datasets import BaseDataset
from pythae.models import (
    AE,
    PIWAE,
    RAE_GP,
    RAE_L2,
    VAE,
    VAEGAN,
    VQVAE,
    Adversarial_AE,
    Adversarial_AE_Config,
    AEConfig,
    FactorVAE,
    FactorVAEConfig,
    PIWAEConfig,
    RAE_GP_Config,
    RAE_L2_Config,
    VAEConfig,
    VAEGANConfig,
    VQVAEConfig,
)
from pythae.trainers import (
    AdversarialTrainer,
    AdversarialTrainerConfig,
    BaseTrainer,
    BaseTrainerConfig,
    CoupledOptimizerAdversarialTrainer,
    CoupledOptimizerAdversarialTrainerConfig,
    CoupledOptimizerTrainer,
    CoupledOptimizerTrainerConfig,
)
from pythae.trainers.training_callbacks import TrainingCallback

from pythae_fif import FIF, FIFConfig
from pythae_fif.training import FIFTrainer, quiet_pythae

SHAPE, LATENT, EPOCHS = (1, 4, 4), 4, 4
DECAY = 1e-2

ONE = (BaseTrainer, BaseTrainerConfig, ("",))
COUPLED = (CoupledOptimizerTrainer, CoupledOptimizerTrainerConfig, ("encoder_", "decoder_"))
ADVERSARIAL = (
    AdversarialTrainer, AdversarialTrainerConfig, ("autoencoder_", "discriminator_"),
)  # fmt: skip
COUPLED_ADVERSARIAL = (
    CoupledOptimizerAdversarialTrainer, CoupledOptimizerAdversarialTrainerConfig,
    ("encoder_", "decoder_", "discriminator_"),
)  # fmt: skip

# name -> model class, configuration, its own arguments; Pythae's trainer with its own
MODELS = {
    "AE": (AE, AEConfig, {}, ONE),
    "VAE": (VAE, VAEConfig, {}, ONE),
    "RAE_GP": (RAE_GP, RAE_GP_Config, {}, ONE),
    "VQVAE": (VQVAE, VQVAEConfig, {"num_embeddings": 8}, ONE),
    "FIF": (FIF, FIFConfig, {"noise": 0.05}, ONE),
    "RAE_L2": (RAE_L2, RAE_L2_Config, {"reg_weight": DECAY}, COUPLED),
    "PIWAE": (PIWAE, PIWAEConfig, {"number_gradient_estimates": 2, "number_samples": 3}, COUPLED),
    "Adversarial_AE": (Adversarial_AE, Adversarial_AE_Config, {}, ADVERSARIAL),
    "FactorVAE": (FactorVAE, FactorVAEConfig, {}, ADVERSARIAL),
    # Its margins leave out the discriminator's or the decoder's step now and then.
    "VAEGAN": (VAEGAN, VAEGANConfig, {"margin": 0.01, "equilibrium": 0.69}, COUPLED_ADVERSARIAL),
}


def model_of(name):
    cls, config, arguments, _ = MODELS[name]
    torch.manual_seed(1)
    return cls(config(input_dim=SHAPE, latent_dim=LATENT, **arguments))


def data(seed):
    generator = torch.Generator().manual_seed(seed)
    return BaseDataset(torch.rand(40, *SHAPE, generator=generator), torch.ones(40))


def config_of(name, folder, *, fused=None, **options):
    _, config, prefixes = MODELS[name][3]
    # A threshold that no loss can improve by: every epoch but the first is on the plateau.
    plateau = {"factor": 0.5, "patience": 0, "threshold": 1e6, "threshold_mode": "abs"}
    for prefix in prefixes:
        options[f"{prefix}learning_rate"] = 3e-3
        options[f"{prefix}scheduler_cls"] = "ReduceLROnPlateau"
        options[f"{prefix}scheduler_params"] = plateau
        if fused is not None:
            options[f"{prefix}optimizer_params"] = {"fused": fused}
    return config(
        output_dir=str(folder), num_epochs=EPOCHS, no_cuda=True,
        per_device_train_batch_size=16, per_device_eval_batch_size=16, **options,
    )  # fmt: skip


class Losses(TrainingCallback):
    def __init__(self):
        self.rows = []

    def on_log(self, training_config, logs, **kwargs):
        self.rows.append(dict(logs))


def trained_by_pythae(name, folder, monkeypatch, fused=None):
    """The model of Pythae's trainer, its best weights, and the losses that it logs."""
    # The trial batch draws random numbers and moves statistics before the training's seed is set.
    monkeypatch.setattr(BaseTrainer, "_run_model_sanity_check", lambda *_: None)
    config = config_of(name, folder, fused=fused)
    if name == "RAE_L2":  # Pythae's pipeline sets it
        config.decoder_optimizer_params = {"weight_decay": DECAY}
    losses = Losses()
    with quiet_pythae():
        trainer = MODELS[name][3][0](
            model_of(name), data(0), data(1), training_config=config, callbacks=[losses]
        )
        trainer.train()
    return trainer.model, trainer._best_model, losses.rows


@pytest.mark.parametrize("keep_last", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_weights_of_pythaes_own_trainer(name, keep_last, tmp_path, monkeypatch):
    # Ours takes PyTorch's fused Adam where one optimizer trains all, Pythae's the plain one.
    fused = True if MODELS[name][3] is ONE else None
    last, best, losses = trained_by_pythae(name, tmp_path / "theirs", monkeypatch, fused)
    rows = []
    ours = FIFTrainer(
        model_of(name),
        data(0),
        data(1),
        config_of(name, tmp_path),
        run_dir=tmp_path / "ours",
        on_epoch=lambda epoch, epochs, row: rows.append(row.to_json()),
        keep_last=keep_last,
    )
    ours.train()
    theirs = (last if keep_last else best).state_dict()
    weights = ours.model.state_dict()
    assert weights.keys() == theirs.keys()
    assert [key for key in theirs if not torch.equal(weights[key], theirs[key])] == []
    prefix = MODELS[name][3][2][-1]
    assert [row[f"{prefix}learning_rate"] for row in rows] == [3e-3, 3e-3, 1.5e-3, 7.5e-4]
    for row, their in zip(rows, losses, strict=True):
        # The mean over one optimizer's batches is summed in float32 on the device.
        tolerance = {"rel": 1e-6} if fused else {"rel": 0, "abs": 0}
        for key, loss in their.items():
            assert row[key.replace("epoch_", "")] == pytest.approx(loss, **tolerance)


def test_plain_adam_where_it_is_asked_for(tmp_path, monkeypatch):
    last, _, _ = trained_by_pythae("VAE", tmp_path / "theirs", monkeypatch)
    config = config_of("VAE", tmp_path, fused=False)
    ours = FIFTrainer(
        model_of("VAE"), data(0), data(1), config, run_dir=tmp_path / "ours", keep_last=True
    )
    ours.train()
    for key, value in last.state_dict().items():
        assert torch.equal(ours.model.state_dict()[key], value), key
