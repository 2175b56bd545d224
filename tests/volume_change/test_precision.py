"""The user's setting of TF32 comes back, whichever of PyTorch's ways it was written in.

In a subprocess: what was set stays readable in one way alone.
"""

import subprocess
import sys

import pytest
import torch

from pythae_fif import FIF, FIFConfig
from pythae_fif.volume_change import encoder_log_volume
from pythae_fif.volume_change.precision import allows_tf32
from pythae_fif.volume_change.replay import check_replay

SCRIPT = """
import torch
from pythae_fif.volume_change.precision import allows_tf32, full_float32
matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
READERS = [lambda: matmul.allow_tf32, torch.get_float32_matmul_precision,
           lambda: cudnn.allow_tf32] + [
    lambda module=module: module.fp32_precision
    for module in (matmul, cudnn, cudnn.conv, cudnn.rnn, torch.backends)
    if hasattr(module, "fp32_precision")]
def seen():
    found = []
    for read in READERS:
        try:
            found.append(read())
        except RuntimeError:
            found.append("cannot be read")
    return found
for setting in SETTINGS:
    exec(setting)
    before, allowed = seen(), allows_tf32()
    for error in (None, KeyError):
        try:
            with full_float32():
                assert allows_tf32() == {"matmul": False, "cudnn": False}
                with full_float32():
                    pass
                assert allows_tf32() == {"matmul": False, "cudnn": False}
                if error:
                    raise error
        except KeyError:
            pass
        assert (seen(), allows_tf32()) == (before, allowed), (setting, before, seen())
    print(allowed["matmul"], allowed["cudnn"])
"""

OLD = {
    "pass": (False, True),
    "matmul.allow_tf32 = True": (True, True),
    "torch.set_float32_matmul_precision('medium')": (True, True),
    "matmul.allow_tf32 = cudnn.allow_tf32 = False": (False, False),
}
NEW = {
    "cudnn.allow_tf32 = True; matmul.fp32_precision = 'tf32'": (True, True),
    "cudnn.conv.fp32_precision = 'ieee'": (True, True),
    "cudnn.rnn.fp32_precision = 'ieee'": (True, False),
    "matmul.fp32_precision = 'ieee'; cudnn.conv.fp32_precision = 'tf32'": (False, True),
}


def test_the_users_setting_comes_back():
    new = NEW if hasattr(torch.backends.cuda.matmul, "fp32_precision") else {}
    settings = {**OLD, **new}
    script = f"SETTINGS = {list(settings)!r}\n{SCRIPT}"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert out.stdout.split("\n")[:-1] == [f"{a} {b}" for a, b in settings.values()]


@pytest.mark.parametrize("network", ["encoder", "decoder"])
def test_exact_numbers_are_computed_without_tf32(network):
    """All but the training step, for the setting is the user's there."""
    model, seen = FIF(FIFConfig(input_dim=(1, 4, 4), latent_dim=2)), []
    getattr(model, network).register_forward_hook(lambda *_: seen.append(allows_tf32()["cudnn"]))
    x = torch.rand(3, 1, 4, 4)
    assert allows_tf32()["cudnn"]
    for exact in (model.log_prob, model.log_volume, model.singular_values):
        exact(x)
    check_replay(model._encode, x)
    encoder_log_volume(model._encode, x)
    assert seen and not any(seen)
    model.train()({"data": x})
    assert seen[-1] and allows_tf32()["cudnn"]
