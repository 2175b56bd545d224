"""The user's setting of TF32 comes back."""

import pytest
import torch

from pythae_fif import FIF, FIFConfig
from pythae_fif.device import full_float32
from pythae_fif.volume_change import encoder_log_volume
from pythae_fif.volume_change.replay import check_replay

SWITCHES = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)


def seen():
    return [switch.fp32_precision for switch in SWITCHES]


@pytest.fixture
def settings():
    before = seen()
    yield (["tf32", "ieee", "tf32"], ["ieee", "tf32", "ieee"])
    for switch, precision in zip(SWITCHES, before, strict=True):
        switch.fp32_precision = precision


@pytest.mark.parametrize("error", [None, KeyError])
def test_the_users_setting_comes_back(settings, error):
    for setting in settings:
        for switch, precision in zip(SWITCHES, setting, strict=True):
            switch.fp32_precision = precision
        try:
            with full_float32(), full_float32():
                assert seen() == ["ieee"] * 3
                if error:
                    raise error
        except KeyError:
            pass
        assert seen() == setting


@pytest.mark.parametrize("network", ["encoder", "decoder"])
def test_exact_numbers_are_computed_without_tf32(network):
    """All but the training step, for the setting is the user's there."""
    model, exact = FIF(FIFConfig(input_dim=(1, 4, 4), latent_dim=2)), []
    hook = lambda *_: exact.append(seen() == ["ieee"] * 3)  # noqa: E731
    getattr(model, network).register_forward_hook(hook)
    x = torch.rand(3, 1, 4, 4)
    for score in (model.log_prob, model.log_volume, model.singular_values):
        score(x)
    check_replay(model._encode, x, parts=False)
    encoder_log_volume(model._encode, x)
    assert exact and all(exact)
    model.train()({"data": x})
    assert not exact[-1]
