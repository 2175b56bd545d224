"""What cannot be trained is one line, before anything is written."""

import math

import numpy as np
import pytest
import torch
from pythae.data.datasets import BaseDataset
from pythae.models import RHVAE, RHVAEConfig
from pythae.trainers import BaseTrainerConfig, CoupledOptimizerTrainerConfig
from support.trainings import SHAPE, Images, config_of, model_of, trainer_of
from torch.utils.data import TensorDataset

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.data import ImageDataset
from pythae_fif.errors import ConfigError, DataError, StoreError
from pythae_fif.nn import build_networks

COUPLED = CoupledOptimizerTrainerConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amp": True}, "precision='bfloat16'"),
        ({"steps_predict": 2}, "steps_predict=2: not of this trainer"),
        ({"num_epochs": 0}, "num_epochs=0: at least 1 is needed"),
        ({"precision": "float16"}, "precision='float16': did you mean 'bfloat16'"),
        ({"lr": 1e-3}, "unknown key 'lr': did you mean 'learning_rate'"),
        ({"learn_rate": 1e-3}, "unknown key 'learn_rate': did you mean 'learning_rate'"),
        ({"epochs": 3}, "unknown key 'epochs': did you mean 'num_epochs'"),
        ({"batch_size": 3}, "'batch_size': did you mean 'per_device_train_batch_size'"),
        ({"optimizer_cls": "Adamm"}, "FIFTrainerConfig: .*Adamm"),
        ({"optimizer_params": {"wd": 1}}, "FIFTrainerConfig: .*'wd'"),
        ({"scheduler_cls": "StepLRR"}, "FIFTrainerConfig: .*StepLRR"),
        ({"optimizer_cls": "LBFGS"}, "not of this trainer"),
    ],
)
def test_fif_trainer_config_rejects(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        FIFTrainerConfig(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "data", "config", "error"),
    [
        ("RAE_L2", Images(), FIFTrainerConfig, "RAE_L2 needs a CoupledOptimizerTrainerConfig, not"),
        ("VAEGAN", Images(), FIFTrainerConfig, "VAEGAN needs a CoupledOptimizerAdv"),
        ("AE", Images(), COUPLED, "needs a FIFTrainerConfig, not a CoupledOptimizerTrainerConfig"),
        ("AE", Images(), lambda: BaseTrainerConfig(num_epochs=0), "num_epochs=0"),
        ("RAE_L2", Images(), lambda: COUPLED(num_epochs=0), "at least 1, not 0"),
        (
            RHVAE(RHVAEConfig(input_dim=SHAPE, latent_dim=2)),
            Images(),
            FIFTrainerConfig,
            "RHVAE cannot be trained here: .*; use pythae_fif.baselines.RHVAE",
        ),
        ("AE", Images(0), FIFTrainerConfig, "the training set is empty"),
        ("AE", torch.rand(8, *SHAPE), FIFTrainerConfig, "the training set is a Tensor"),
        ("AE", np.zeros((8, *SHAPE)), FIFTrainerConfig, "the training set is a ndarray"),
        ("AE", None, FIFTrainerConfig, "the training set is a NoneType"),
        ("AE", TensorDataset(torch.rand(8, *SHAPE)), FIFTrainerConfig, "is a TensorDataset: an Im"),
        (
            FIF(FIFConfig(input_dim=SHAPE, latent_dim=2, condition_dim=3)),
            ImageDataset(torch.zeros(8, *SHAPE, dtype=torch.uint8)),
            FIFTrainerConfig,
            "the training set has no labels",
        ),
        (
            FIF(FIFConfig(input_dim=SHAPE, latent_dim=2)),
            ImageDataset(torch.zeros(8, *reversed(SHAPE), dtype=torch.uint8)),
            FIFTrainerConfig,
            r"the training set has items \(4, 4, 1\), and FIF is of input_dim=\(1, 4, 4\)",
        ),
        (
            "AE",
            Images(),
            lambda: FIFTrainerConfig(
                scheduler_cls="LambdaLR", scheduler_params={"lr_lambda": lambda epoch: 1.0}
            ),
            "scheduler_params: cannot be saved",
        ),
    ],
)
def test_rejects_what_cannot_be_trained(model, data, config, error, tmp_path):
    if isinstance(model, str):
        model = model_of(model)
    with pytest.raises((ConfigError, DataError), match=error):
        FIFTrainer(model, data, training_config=config(), run_dir=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_rejects_an_empty_evaluation_set_and_a_folder_that_is_none(tmp_path):
    with pytest.raises(DataError, match="the evaluation set is empty"):
        trainer_of("AE", tmp_path, evaluation=Images(0))
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="run folder"):
        trainer_of("AE", tmp_path / "file" / "run")
    (tmp_path / "scratch").symlink_to(tmp_path / "unmounted")
    config = FIFTrainerConfig(output_dir=str(tmp_path / "scratch"), no_cuda=True)
    with pytest.raises(StoreError, match=r"cannot make a run folder in .*scratch"):
        FIFTrainer(model_of("FIF"), Images(), training_config=config)


@pytest.mark.parametrize("wall_clock", [0.0, -1.0, math.nan, math.inf])
def test_wall_clock_out_of_range(wall_clock, tmp_path):
    with pytest.raises(ConfigError, match="wall_clock="):
        trainer_of("AE", tmp_path, wall_clock=wall_clock)


def test_a_scheduler_without_what_it_needs_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"scheduler StepLR: .*step_size"):
        trainer_of("AE", tmp_path, scheduler_cls="StepLR").train()


@pytest.mark.parametrize("as_items", [False, True])
@pytest.mark.parametrize(("batch_size", "works"), [(3, 2), (1, 2), (13, 12)])
def test_one_item_for_batch_norm_is_one_line_that_says_what_works(
    as_items, batch_size, works, tmp_path
):
    shape = (1, 16, 16)  # of which the ConvNet's last map is one pixel
    data = ImageDataset(torch.randint(256, (40, *shape), dtype=torch.uint8))
    if as_items:
        batch = data.batch(torch.arange(40))
        data = BaseDataset(batch.data, batch.labels)

    def training(size):
        networks = build_networks("fif_convnet", shape, 2)
        model = FIF(FIFConfig(input_dim=shape, latent_dim=2), *networks)
        config = FIFTrainerConfig(per_device_train_batch_size=size, num_epochs=1, no_cuda=True)
        return FIFTrainer(model, data, None, config, run_dir=tmp_path / str(size))

    with pytest.raises(ConfigError, match=f"per_device_train_batch_size={works} leaves more"):
        training(batch_size).train()
    training(works).train()


def test_a_plain_configuration_of_pythae_will_do(tmp_path):
    config = BaseTrainerConfig(num_epochs=1, per_device_train_batch_size=7, learning_rate=1e-3)
    trainer = FIFTrainer(model_of("AE"), Images(), None, config, run_dir=tmp_path)
    assert isinstance(trainer.training_config, FIFTrainerConfig)
    assert trainer.training_config.per_device_train_batch_size == 7
    assert trainer.train().best_epoch == 1


def test_options_of_the_optimizer_come_before_ours(tmp_path):
    trainer = trainer_of("AE", tmp_path, optimizer_params={"foreach": True})
    trainer.prepare_training()
    (group,) = trainer._optimizers.state()["optimizers"][""]["param_groups"]
    assert group["foreach"] and not group["fused"]


@pytest.mark.parametrize("name", ["AE", "RAE_L2"])
def test_of_several_processes_a_leaked_number_is_ignored_and_torchrun_refused(
    name, tmp_path, monkeypatch
):
    for key, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(key, value)
    assert config_of(name).world_size == 4
    trainer = trainer_of(name, tmp_path)
    assert trainer.training_config.world_size == trainer.training_config.rank == -1
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(ConfigError, match="trains in one process, and torchrun started 4"):
        trainer_of(name, tmp_path)
