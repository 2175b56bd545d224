"""Every model of the benchmark trains, samples and is scored on a pretended GPU."""

import pytest
from pythae_fif.benchmark.run import IMAGES
from pythae_fif.benchmark.yaml_files import names_in
from pythae_fif.runs.execute import execute
from support.devices import ON_GPU
from support.experiments import ENVIRONMENT, tiny

from pythae_fif.benchmark.plan import expand
from pythae_fif.runs.store import Store

SIZES = {
    "batch_size": 10, "train_size": 20, "val_size": 10, "test_size": 10, "configurations": 1,
    "fit_steps": 2,
}  # fmt: skip
MODELS = [
    model if model == "fif" else pytest.param(model, marks=pytest.mark.slow)
    for model in names_in("models")
]


def _execute(run_dir):
    record = execute(run_dir, IMAGES)
    return record.provenance.device, set(record.scores)


def _run_of(model, folder):
    """The specification and the folder of a run that is about to start."""
    flags = {"models": [model], "samplers": ["all"]}
    sizes = SIZES | ({"train_size": 100} if model == "fif_conditional" else {})  # of each class
    (spec,) = expand(*tiny(folder, flags, **sizes))
    return spec, Store(folder / "results", IMAGES).prepare(spec, ENVIRONMENT)


@pytest.mark.parametrize("model", MODELS)
def test_run_of_a_model(gpu, model, tmp_path):
    spec, run_dir = _run_of(model, tmp_path)
    device, samplers = gpu(_execute, run_dir)
    assert device.startswith("pretended:0") and samplers == set(spec.samplers)


@pytest.mark.parametrize("model", [pytest.param(m, marks=ON_GPU) for m in names_in("models")])
def test_run_of_a_model_on_a_real_gpu(model, tmp_path):
    spec, run_dir = _run_of(model, tmp_path)
    device, samplers = _execute(run_dir)
    assert device.startswith("cuda:0") and samplers == set(spec.samplers)
