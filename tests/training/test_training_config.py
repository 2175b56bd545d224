"""What cannot be trained is one line, before anything is written."""

import pytest
import torch
from pythae.models import RHVAE, RHVAEConfig
from pythae.trainers import AdversarialTrainerConfig, BaseTrainerConfig
from support.trainings import SHAPE, Images, config_of, model_of

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.data import ImageDataset
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.training.updates import Optimizers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_epochs": 0}, "num_epochs=0: should be greater than or equal to 1"),
        ({"precision": "float16"}, "precision='float16': did you mean 'bfloat16'"),
        ({"lr": 1e-3}, "unknown key 'lr': did you mean 'learning_rate'"),
        ({"epochs": 3}, "unknown key 'epochs': did you mean 'num_epochs'"),
    ],
)
def test_fif_trainer_config_rejects(options, message):
    with pytest.raises(ConfigError, match=message):
        FIFTrainerConfig(**options)


@pytest.mark.parametrize(
    ("model", "data", "config", "error"),
    [
        ("RAE_L2", Images(), FIFTrainerConfig, "A 'CoupledOptimizerTrainerConfig' is expected"),
        ("VAEGAN", Images(), FIFTrainerConfig, "A 'CoupledOptimizerAdv.* for training a VAEGAN"),
        ("AE", Images(), lambda: BaseTrainerConfig(amp=True), "amp, steps_saving and steps"),
        (
            RHVAE(RHVAEConfig(input_dim=SHAPE, latent_dim=2)),
            Images(),
            FIFTrainerConfig,
            "RHVAE saves no metric: use pythae_fif.baselines.RHVAE",
        ),
        (
            FIF(FIFConfig(input_dim=SHAPE, latent_dim=2)),
            Images(),
            AdversarialTrainerConfig,
            "FIF has one optimizer: give a FIFTrainerConfig",
        ),
        ("AE", Images(), lambda: BaseTrainerConfig(num_epochs=0), "num_epochs and batch sizes"),
        ("AE", Images(), lambda: FIFTrainerConfig(world_size=2), "torchrun give a BaseTrainerConf"),
        ("AE", Images(0), FIFTrainerConfig, "the (training|evaluation) set is empty"),
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
    for train, evaluation in ((data, None), (Images(), data)):
        with pytest.raises((ConfigError, DataError), match=error):
            FIFTrainer(model, train, evaluation, config(), run_dir=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_options_of_the_optimizer_come_before_ours():
    optimizers = Optimizers(model_of("AE"), config_of("AE", optimizer_params={"foreach": True}))
    (group,) = optimizers.state()["optimizers"][""]["param_groups"]
    assert group["foreach"] and not group["fused"]


def test_a_weight_that_is_a_slice_is_not_fused():  # what lies beside it would move too
    model, whole = model_of("AE"), torch.zeros(7, 9)
    for weight, fused in ((whole[:, :4], False), (whole.t(), True)):
        model.more = torch.nn.Parameter(weight)
        (group,) = Optimizers(model, config_of("AE")).state()["optimizers"][""]["param_groups"]
        assert group["fused"] == fused
