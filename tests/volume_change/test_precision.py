"""Exact numbers are computed without TF32, and the user's setting of TF32 is restored."""

import pytest
import torch

from pythae_fif import FIF, FIFConfig
from pythae_fif.device import full_float32
from pythae_fif.volume_change import encoder_log_volume
from pythae_fif.volume_change.replay import check_replay

SWITCHES = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)


def current_precisions():
    return [switch.fp32_precision for switch in SWITCHES]


@pytest.fixture
def settings():
    """Two settings; the present one is restored after the test."""
    present = current_precisions()
    yield (["tf32", "ieee", "tf32"], ["ieee", "tf32", "ieee"])
    for switch, precision in zip(SWITCHES, present, strict=True):
        switch.fp32_precision = precision


@pytest.mark.parametrize("error", [None, KeyError])
def test_the_users_setting_is_restored(settings, error):
    for setting in settings:
        for switch, precision in zip(SWITCHES, setting, strict=True):
            switch.fp32_precision = precision

        try:
            with full_float32(), full_float32():
                assert current_precisions() == ["ieee"] * 3
                if error:
                    raise error
        except KeyError:
            pass
        assert current_precisions() == setting


@pytest.mark.parametrize("network", ["encoder", "decoder"])
def test_exact_numbers_are_computed_without_tf32(network):
    """In a training step the user's setting applies."""
    model = FIF(FIFConfig(input_dim=(1, 4, 4), latent_dim=2))
    without_tf32 = []  # for each pass of the network

    def record_precision(*_):
        without_tf32.append(current_precisions() == ["ieee"] * 3)

    getattr(model, network).register_forward_hook(record_precision)
    x = torch.rand(3, 1, 4, 4)

    for score in (model.log_prob, model.log_volume, model.singular_values):
        score(x)
    check_replay(model._encode, x, parts=False)
    encoder_log_volume(model._encode, x)
    assert without_tf32
    assert all(without_tf32)

    model.train()({"data": x})
    assert not without_tf32[-1]
