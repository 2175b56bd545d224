"""What cannot be trained is one line, before anything is written."""

import numpy as np
import pytest
import torch
from pythae.models import RHVAE, RHVAEConfig
from pythae.trainers import BaseTrainerConfig, CoupledOptimizerTrainerConfig
from support.trainings import SHAPE, Images, config_of, model_of, trainer_of
from torch.utils.data import TensorDataset

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.data import ImageDataset
from pythae_fif.errors import ConfigError, DataError, StoreError

COUPLED = CoupledOptimizerTrainerConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amp": True}, "precision='bfloat16'"),
        ({"steps_predict": 2}, "steps_predict=2: no predictions"),
        ({"num_epochs": 0}, "num_epochs=0: should be greater than or equal to 1"),
        ({"precision": "float16"}, "precision='float16': did you mean 'bfloat16'"),
        ({"lr": 1e-3}, "unknown key 'lr': did you mean 'learning_rate'"),
        ({"learn_rate": 1e-3}, "unknown key 'learn_rate': did you mean 'learning_rate'"),
        ({"epochs": 3}, "unknown key 'epochs': did you mean 'num_epochs'"),
        ({"batch_size": 3}, "'batch_size': did you mean 'per_device_train_batch_size'"),
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
