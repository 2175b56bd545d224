"""Small trainings: every kind of model, Pythae's trainer for it, and tiny data."""

import json
from dataclasses import fields
from typing import NamedTuple

import torch
from pythae import models, trainers

from pythae_fif import FIF, FIFConfig
from pythae_fif.data import ImageDataset
from pythae_fif.nn import build_networks
from pythae_fif.training import FIFTrainer, TrainerOptions

SHAPE = (1, 4, 4)
LATENT_DIM = 2
WEIGHT_DECAY = 1e-2


class TrainerKind(NamedTuple):
    """One of Pythae's trainers, its configuration, and the prefixes of its optimizers."""

    trainer: type
    config: type
    prefixes: tuple[str, ...]


def _trainer_kind(trainer, *prefixes):
    return TrainerKind(getattr(trainers, trainer), getattr(trainers, f"{trainer}Config"), prefixes)


BASE = _trainer_kind("BaseTrainer", "")
COUPLED = _trainer_kind("CoupledOptimizerTrainer", "encoder_", "decoder_")
ADVERSARIAL = _trainer_kind("AdversarialTrainer", "autoencoder_", "discriminator_")
COUPLED_ADVERSARIAL = _trainer_kind(
    "CoupledOptimizerAdversarialTrainer", "encoder_", "decoder_", "discriminator_"
)


class ModelEntry(NamedTuple):
    """A model's class, the class and arguments of its configuration, and its trainer.

    Attributes:
        variational: Whether its ConvNet encoder is variational; None if it keeps its own MLPs.
    """

    model: type
    config: type
    arguments: dict
    kind: TrainerKind
    variational: bool | None = None


MODELS = {
    "AE": ModelEntry(models.AE, models.AEConfig, {}, BASE, False),
    "VAE": ModelEntry(models.VAE, models.VAEConfig, {}, BASE, True),
    "BetaVAE": ModelEntry(models.BetaVAE, models.BetaVAEConfig, {"beta": 0.1}, BASE, True),
    "WAE_MMD": ModelEntry(models.WAE_MMD, models.WAE_MMD_Config, {"reg_weight": 1e-2}, BASE, False),
    "RAE_GP": ModelEntry(models.RAE_GP, models.RAE_GP_Config, {}, BASE, False),
    "VQVAE": ModelEntry(models.VQVAE, models.VQVAEConfig, {"num_embeddings": 8}, BASE),
    "FIF": ModelEntry(FIF, FIFConfig, {"noise": 0.05}, BASE, False),
    "RAE_L2": ModelEntry(
        models.RAE_L2, models.RAE_L2_Config, {"reg_weight": WEIGHT_DECAY}, COUPLED, False
    ),
    "PIWAE": ModelEntry(
        models.PIWAE, models.PIWAEConfig, {"number_gradient_estimates": 2}, COUPLED, True
    ),
    "Adversarial_AE": ModelEntry(
        models.Adversarial_AE, models.Adversarial_AE_Config, {}, ADVERSARIAL, True
    ),
    "FactorVAE": ModelEntry(models.FactorVAE, models.FactorVAEConfig, {}, ADVERSARIAL, True),
    # With these margins it skips steps of its decoder and of its discriminator.
    "VAEGAN": ModelEntry(
        models.VAEGAN,
        models.VAEGANConfig,
        {"margin": 0.02, "equilibrium": 0.66},
        COUPLED_ADVERSARIAL,
    ),
}
ONE_OF_A_KIND = ["FIF", *{MODELS[name].kind: name for name in reversed(MODELS)}.values()]
"""A model for each rule by which weights are updated."""


class Images(ImageDataset):
    """Images that have one shade each."""

    def __init__(self, count=40, seed=0):
        generator = torch.Generator().manual_seed(seed)
        shades = torch.randint(0, 256, (count, 1, 1, 1), generator=generator)
        super().__init__(shades.expand(count, *SHAPE).to(torch.uint8))


def build_model(name, *, networks="convnet", latent_dim=LATENT_DIM):
    """Builds a model with the same weights each time.

    Its networks are ConvNets with batch statistics, or Pythae's MLPs if `networks` is 'mlp'.
    """
    torch.manual_seed(1)
    entry = MODELS[name]
    config = entry.config(input_dim=SHAPE, latent_dim=latent_dim, **entry.arguments)
    if entry.variational is None or networks == "mlp":
        return entry.model(config)

    encoder_and_decoder = build_networks(networks, SHAPE, latent_dim, variational=entry.variational)
    return entry.model(config, *encoder_and_decoder)


def build_config(name, *, epochs=6, lr=2e-3, plateau=None, one_cycle=None, **arguments):
    """Builds Pythae's configuration, with the same rate and schedule for each optimizer.

    The schedule is ReduceLROnPlateau with the parameters `plateau`, or OneCycleLR.
    """
    kind = MODELS[name].kind
    for prefix in kind.prefixes:
        arguments[f"{prefix}learning_rate"] = lr
        if plateau is not None:
            arguments[f"{prefix}scheduler_cls"] = "ReduceLROnPlateau"
            arguments[f"{prefix}scheduler_params"] = plateau
        if one_cycle is not None:
            arguments[f"{prefix}scheduler_cls"] = "OneCycleLR"
            arguments[f"{prefix}scheduler_params"] = one_cycle

    defaults = {
        "num_epochs": epochs,
        "no_cuda": True,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 16,
    }
    return kind.config(**{**defaults, **arguments})


TRAINER_ARGUMENTS = (
    "on_epoch", "wall_clock", "processor_time", "keep_last", "callbacks",
    "checkpoint_every_seconds", "run_id",
)  # fmt: skip
OPTION_NAMES = [field.name for field in fields(TrainerOptions)]


def build_trainer(name, run_dir, *, train=None, evaluation="default", model=None, **options):
    """Builds a trainer of a model; `options` go to the trainer or to its configuration."""
    arguments = {key: options.pop(key) for key in TRAINER_ARGUMENTS if key in options}
    trainer_options = {key: options.pop(key) for key in OPTION_NAMES if key in options}
    return FIFTrainer(
        model or build_model(name),
        train or Images(),
        Images(seed=1) if evaluation == "default" else evaluation,
        build_config(name, **options),
        run_dir=run_dir,
        options=TrainerOptions(**trainer_options),
        **{"checkpoint_every_seconds": 0, **arguments},
    )


def read_log(run_dir):
    lines = (run_dir / "train_log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def assert_same_weights(first_model, second_model):
    first = first_model.state_dict()
    second = second_model.state_dict()
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


class Killed(Exception):
    """Raised in place of a signal that ends the process."""


def kill_at(epoch):
    """Returns an `on_epoch` that raises `Killed` after an epoch."""

    def on_epoch(row):
        if row.epoch == epoch:
            raise Killed

    return on_epoch
