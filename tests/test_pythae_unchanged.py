"""Importing pythae_fif changes nothing of Pythae, apart from three methods of its auto classes."""

import json
import subprocess
import sys

from support import pythae_models

SNAPSHOTS = """
import importlib, inspect, logging, pkgutil, sys, tempfile
import pythae
for module in pkgutil.walk_packages(pythae.__path__, "pythae."):
    importlib.import_module(module.name)

def snapshot():
    values = {}
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] != "pythae":
            continue
        values[module_name, ""] = logging.getLogger(module_name).level
        for name, value in vars(module).items():
            values[module_name, name] = value
            if inspect.isclass(value) and value.__module__.startswith("pythae."):
                values.update({(value, key): entry for key, entry in vars(value).items()})
    # Python itself sets __slotnames__ when it pickles or copies an object.
    return {key: value for key, value in values.items() if key[1] != "__slotnames__"}

def report(stage):
    after = snapshot()
    changes = [key for key in {*before, *after} if before.get(key) is not after.get(key)]
    names = sorted(f"{getattr(owner, '__name__', owner)}.{name}" for owner, name in changes)
    print(stage, *names)

before = snapshot()
import pythae_fif
report("import")
for module in pkgutil.walk_packages(pythae_fif.__path__, "pythae_fif."):
    importlib.import_module(module.name)
report("submodules")

import torch
from pythae.models import VAE, VAEConfig
from pythae_fif.sampling.samplers import embed, generate
model = VAE(VAEConfig(input_dim=(1, 8, 8), latent_dim=2))
config = pythae_fif.FIFTrainerConfig(output_dir=tempfile.mkdtemp(), num_epochs=1)
images = torch.rand(40, 1, 8, 8)
pythae_fif.FIFTrainingPipeline(model, config)(images)
for name in ("gmm", "maf", "two_stage"):
    generate(name, model, embed(model, images), num_samples=3, seed=0, fit_steps=2)
report("use")
"""


def run_python(*arguments) -> str:
    """Runs Python in a process of its own, and returns what it prints."""
    process = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_only_the_documented_attributes_change():
    documented = [
        "AutoConfig.from_json_file",
        "AutoModel.load_from_folder",
        "AutoModel.load_from_hf_hub",
    ]
    lines = run_python("-c", SNAPSHOTS).splitlines()
    assert lines == [" ".join([stage, *documented]) for stage in ("import", "submodules", "use")]


def test_pythae_s_models_are_loaded_as_without_the_import(tmp_path):
    pythae_models.save(str(tmp_path))
    results = json.loads(run_python(pythae_models.__file__, tmp_path, "pythae_fif"))
    without_import, with_import = results
    assert with_import == without_import

    loaded = [text for text in without_import.values() if text.startswith("<class")]
    num_models = len(list(tmp_path.iterdir()))
    assert num_models > 50
    assert len(loaded) == num_models + 1
