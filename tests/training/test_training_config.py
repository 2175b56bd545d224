"""A training that cannot work is refused in one line, before anything is written."""

import pytest
import torch
from pythae.models import RHVAE, RHVAEConfig
from pythae.trainers import AdversarialTrainerConfig, BaseTrainerConfig
from support.trainings import SHAPE, Images, build_config, build_model
from torch.utils.data import Subset

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
            "RHVAE is not in its state_dict, .*: use Pythae's trainer",
        ),
        (
            FIF(FIFConfig(input_dim=SHAPE, latent_dim=2)),
            Images(),
            AdversarialTrainerConfig,
            "FIF has one optimizer: use a FIFTrainerConfig",
        ),
        ("AE", Images(), lambda: BaseTrainerConfig(num_epochs=0), "num_epochs and batch sizes"),
        ("AE", Images(), lambda: FIFTrainerConfig(world_size=2), "torchrun use BaseTrainerConf"),
        ("AE", Images(0), FIFTrainerConfig, "the (training|evaluation) set is empty"),
        (
            FIF(FIFConfig(input_dim=SHAPE, latent_dim=2, condition_dim=3)),
            ImageDataset(torch.zeros(8, *SHAPE, dtype=torch.uint8)),
            FIFTrainerConfig,
            "the training set has no labels",
        ),
        (
            FIF(FIFConfig(input_dim=SHAPE, latent_dim=2, condition_dim=3)),
            Subset(ImageDataset(torch.zeros(8, *SHAPE, dtype=torch.uint8)), [1, 2]),
            FIFTrainerConfig,
            "the training set has no labels",
        ),
    ],
)
def test_an_impossible_training_is_refused(model, data, config, error, tmp_path):
    if isinstance(model, str):
        model = build_model(model)
    for train, evaluation in ((data, None), (Images(), data)):
        with pytest.raises((ConfigError, DataError), match=error):
            FIFTrainer(model, train, evaluation, config(), run_dir=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_callers_optimizer_options_come_first():
    config = build_config("AE", optimizer_params={"foreach": True})
    optimizers = Optimizers(build_model("AE"), config)
    (group,) = optimizers.state()["optimizers"][""]["param_groups"]
    assert group["foreach"] and not group["fused"]


def test_a_weight_that_is_a_slice_is_not_fused():
    """The fused optimizer would also change the values between those of the slice."""
    model = build_model("AE")
    matrix = torch.zeros(7, 9)
    for weight, fused in ((matrix[:, :4], False), (matrix.t(), True)):
        model.extra_weight = torch.nn.Parameter(weight)
        optimizers = Optimizers(model, build_config("AE"))
        (group,) = optimizers.state()["optimizers"][""]["param_groups"]
        assert group["fused"] == fused
