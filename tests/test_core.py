"""The core package works without the packages of the extra `benchmark`."""

import configparser
import re
import subprocess
import sys
import venv
from importlib.metadata import packages_distributions

import pytest
from support.reference import ROOT

INSTALLED_ANYWAY = {"PIL", "jinja2", "joblib", "scipy", "threadpoolctl"}
"""Modules of the extra that the requirements of Pythae and torch install."""

HIDE = """
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec

def find_unblocked_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in BLOCKED else find_spec(name, path, target)

PathFinder.find_spec = find_unblocked_spec
"""

USE = """
import tempfile
import torch
from pythae.models import VAE, VAEConfig
from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig, FIFTrainingPipeline
from pythae_fif.baselines import DNF, Trumpet
from pythae_fif.data import ImageDataset, load_images
from pythae_fif.data.toy import TOY_DATA
from pythae_fif.ensemble import Ensemble
from pythae_fif.baselines import RectangularFlow
from pythae_fif.models import as_density
from pythae_fif.nn import build_networks
from pythae_fif.sampling.samplers import embed, generate
from pythae_fif.volume_change import fif_loss, log_volume

images = torch.from_numpy(load_images("digits").train[:40]) / 255
model = FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=2), *build_networks("convnet", (1, 8, 8), 2))
config = FIFTrainerConfig(output_dir=tempfile.mkdtemp(), num_epochs=1)
FIFTrainingPipeline(model, config)(images, images)
for kind in ("mixture", "flow", "flow_matching"):
    model.fit_prior(images, kind, steps=None if kind == "mixture" else 2)
    assert model.sample(3).shape == (3, 1, 8, 8)
    assert model.log_prob(images[:4]).isfinite().all()
vae = VAE(VAEConfig(input_dim=(1, 8, 8), latent_dim=2))
samples = generate("flow", vae, embed(vae, images), num_samples=3, seed=0, fit_steps=2)
assert samples.shape == (3, 1, 8, 8)
"""

MISSING = """
from pythae_fif.cli import main
from pythae_fif.data import load_images, load_table
from pythae_fif.errors import ConfigError
from pythae_fif.evaluation import load_extractor

for function, *arguments in (
    (load_extractor, "inception", (1, 8, 8)), (load_table, "a.csv"), (load_images, "mnist")
):
    try:
        function(*arguments)
    except ConfigError as error:
        print(error)
for words in ([], ["list"], ["score", "a", "b"], ["study", "linear"], ["verify", "a"]):
    assert main(words) == 2
"""


def blocked_modules() -> set[str]:
    """The modules that only the extra `benchmark` installs."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options.extras_require"]["benchmark"].split()
    packages = {re.split("[<>=]", line)[0] for line in lines}
    modules = {
        module
        for module, homes in packages_distributions().items()
        if packages & {home.lower() for home in homes} and not module.startswith("_")
    }
    return modules - INSTALLED_ANYWAY


def test_the_extra_has_the_expected_modules():
    """Otherwise the next test would pass without hiding anything."""
    expected = {"gdown", "matplotlib", "pandas", "pytorch_fid", "rich", "torchvision", "yaml"}
    assert expected <= blocked_modules()


def test_core_works_without_the_extra_and_a_missing_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHAE_FIF_DATA", str(tmp_path))
    code = "\n".join([f"BLOCKED = {blocked_modules()!r}", HIDE, USE, MISSING])
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr

    printed = process.stdout + process.stderr
    lines = [line for line in printed.splitlines() if "needs the package" in line]
    assert len(lines) == 3 + 5
    for line in lines:
        assert re.search(r" needs the package \w+: pip install 'pythae-fif\[benchmark\]'$", line)
    assert "Traceback" not in printed


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_readme_s_example_runs_in_a_fresh_environment_with_the_core_only(tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv/bin/python")

    def run(*arguments):
        return subprocess.run(
            [python, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
        )

    probe = run("-m", "pip", "download", "-q", "--no-deps", "--dest", ".", "zuko")
    if probe.returncode:
        pytest.skip(f"no package index: {probe.stderr.strip().splitlines()[-1]}")
    install = run("-m", "pip", "install", "-q", str(ROOT))
    assert install.returncode == 0, install.stderr

    (example,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M)
    absent = "import importlib.util as util\n" + "".join(
        f"assert util.find_spec({name!r}) is None, {name!r}\n" for name in blocked_modules()
    )
    process = run("-c", absent + example)
    assert process.returncode == 0, process.stderr
