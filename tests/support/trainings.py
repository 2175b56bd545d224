"""Small trainings: every kind of model, the trainer that Pythae has for it, and tiny data."""

import json
from typing import NamedTuple

import torch
from pythae import models as m
from pythae import trainers

from pythae_fif import FIF, FIFConfig
from pythae_fif.data import ImageDataset
from pythae_fif.nn import build_networks
from pythae_fif.training import FIFTrainer

SHAPE, LATENT = (1, 4, 4), 2


class Kind(NamedTuple):
    trainer: type
    config: type
    prefixes: tuple[str, ...]


def _kind(trainer, *prefixes):
    return Kind(getattr(trainers, trainer), getattr(trainers, f"{trainer}Config"), prefixes)


ONE = _kind("BaseTrainer", "")
COUPLED = _kind("CoupledOptimizerTrainer", "encoder_", "decoder_")
ADVERSARIAL = _kind("AdversarialTrainer", "autoencoder_", "discriminator_")
BOTH = _kind("CoupledOptimizerAdversarialTrainer", "encoder_", "decoder_", "discriminator_")


class Model(NamedTuple):
    model: type
    config: type
    arguments: dict
    kind: Kind
    variational: bool | None = None  # of its ConvNets; None for the model's own MLPs


DECAY = 1e-2
MODELS = {
    "AE": Model(m.AE, m.AEConfig, {}, ONE, False),
    "VAE": Model(m.VAE, m.VAEConfig, {}, ONE, True),
    "BetaVAE": Model(m.BetaVAE, m.BetaVAEConfig, {"beta": 0.1}, ONE, True),
    "WAE_MMD": Model(m.WAE_MMD, m.WAE_MMD_Config, {"reg_weight": 1e-2}, ONE, False),
    "RAE_GP": Model(m.RAE_GP, m.RAE_GP_Config, {}, ONE, False),
    "VQVAE": Model(m.VQVAE, m.VQVAEConfig, {"num_embeddings": 8}, ONE),
    "FIF": Model(FIF, FIFConfig, {"noise": 0.05}, ONE, False),
    "RAE_L2": Model(m.RAE_L2, m.RAE_L2_Config, {"reg_weight": DECAY}, COUPLED, False),
    "PIWAE": Model(m.PIWAE, m.PIWAEConfig, {"number_gradient_estimates": 2}, COUPLED, True),
    "Adversarial_AE": Model(m.Adversarial_AE, m.Adversarial_AE_Config, {}, ADVERSARIAL, True),
    "FactorVAE": Model(m.FactorVAE, m.FactorVAEConfig, {}, ADVERSARIAL, True),
    # Margins at which it leaves out steps of its decoder and of its discriminator.
    "VAEGAN": Model(m.VAEGAN, m.VAEGANConfig, {"margin": 0.02, "equilibrium": 0.66}, BOTH),
}
ONE_OF_A_KIND = ["FIF", *{MODELS[name].kind: name for name in reversed(MODELS)}.values()]
"""A model for each rule by which weights are updated."""


class Images(ImageDataset):
    """Images of one shade each."""

    def __init__(self, count=40, seed=0):
        generator = torch.Generator().manual_seed(seed)
        shades = torch.randint(0, 256, (count, 1, 1, 1), generator=generator)
        super().__init__(shades.expand(count, *SHAPE).to(torch.uint8))


def model_of(name, *, networks="convnet", latent_dim=LATENT):
    """A new model, alike each time: of ConvNets with batch statistics, or of Pythae's own MLPs."""
    torch.manual_seed(1)
    entry = MODELS[name]
    config = entry.config(input_dim=SHAPE, latent_dim=latent_dim, **entry.arguments)
    if entry.variational is None or networks == "mlp":
        return entry.model(config)
    nets = build_networks(networks, SHAPE, latent_dim, variational=entry.variational)
    return entry.model(config, *nets)


def config_of(name, *, epochs=6, lr=2e-3, plateau=None, **arguments):
    """Pythae's configuration, with the same learning rate and schedule for each optimizer."""
    kind = MODELS[name].kind
    for prefix in kind.prefixes:
        arguments[f"{prefix}learning_rate"] = lr
        if plateau is not None:
            arguments[f"{prefix}scheduler_cls"] = "ReduceLROnPlateau"
            arguments[f"{prefix}scheduler_params"] = plateau
    sizes = {"per_device_train_batch_size": 16, "per_device_eval_batch_size": 16}
    return kind.config(**{"num_epochs": epochs, "no_cuda": True, **sizes, **arguments})


OF_TRAINER = (
    "on_epoch", "wall_clock", "keep_last", "callbacks", "checkpoint_every_seconds", "precision",
    "run_id",
)  # fmt: skip


def trainer_of(name, run_dir, *, train=None, evaluation="default", model=None, **options):
    """A trainer of a model, whose other options are of the trainer or of the configuration."""
    own = {key: options.pop(key) for key in OF_TRAINER if key in options}
    return FIFTrainer(
        model or model_of(name),
        train or Images(),
        Images(seed=1) if evaluation == "default" else evaluation,
        config_of(name, **options),
        run_dir=run_dir,
        **{"checkpoint_every_seconds": 0, **own},
    )


def read_log(run_dir):
    return [json.loads(line) for line in (run_dir / "train_log.jsonl").read_text().splitlines()]


def assert_same_weights(left, right):
    left, right = left.state_dict(), right.state_dict()
    assert left.keys() == right.keys()
    assert [k for k in left if not torch.equal(left[k], right[k])] == []


class Killed(Exception):
    pass


def kill_at(epoch):
    def on_epoch(row):
        if row.epoch == epoch:
            raise Killed

    return on_epoch
