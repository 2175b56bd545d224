"""The user's setting of TF32 comes back, whichever of PyTorch's ways it was written in.

In a subprocess a setting: PyTorch forbids to mix them, and nothing may stay for other tests.
"""

import subprocess
import sys

import pytest

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
    "matmul.fp32_precision = 'tf32'": (True, True),
    "cudnn.conv.fp32_precision = 'ieee'": (True, True),
    "cudnn.rnn.fp32_precision = 'ieee'": (True, False),
    "matmul.fp32_precision = 'ieee'; cudnn.conv.fp32_precision = 'tf32'": (False, True),
}


@pytest.mark.parametrize("settings", [OLD, NEW])
def test_the_users_setting_comes_back(settings):
    import torch

    if settings is NEW and not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("PyTorch before 2.9")
    script = f"SETTINGS = {list(settings)!r}\n{SCRIPT}"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert out.stdout.split("\n")[:-1] == [f"{a} {b}" for a, b in settings.values()]
