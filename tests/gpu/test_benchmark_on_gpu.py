"""Every model of the benchmark trains, samples and is scored on a pretended GPU."""

from unittest import mock

import pytest
from support.devices import ON_GPU
from support.experiments import make_tiny_plan

from pythae_fif.benchmark import job as job_module
from pythae_fif.benchmark.models import list_configs
from pythae_fif.benchmark.results import read
from pythae_fif.runs.store import Store
from pythae_fif.runs.worker import execute_run

SIZES = {
    "batch_size": 10, "train_size": 20, "val_size": 10, "test_size": 10, "max_configurations": 1,
    "fit_steps": 2,
}  # fmt: skip
MODELS = list_configs("models")


def _execute(model, samplers, folder):
    """Runs a model, and returns its device, its samplers with scores, and its samplers."""
    sizes = dict(SIZES)
    if model == "fif_conditional":
        sizes["train_size"] = 100  # so that it has images of each class
    flags = {"models": [model], "samplers": samplers, "latent_dim": 4}  # IAF needs d passes.
    (job,) = make_tiny_plan(folder, flags, **sizes)

    store = Store(folder / "results")
    execute_run(job, store)
    result = read(store, job)
    samplers = {scoring.sampler for scoring in job.scorings}
    return result.evaluation.provenance.device, set(result.scores), samplers


def _execute_without_likelihoods(*arguments):
    """The pretended device cannot hold the tensors of a Jacobian by forward mode."""
    with mock.patch.object(job_module, "marginal_likelihoods", return_value={}):
        return _execute(*arguments)


@pytest.mark.parametrize(
    ("model", "samplers"),
    [
        ("fif", ["normal", "gmm"]),
        *(pytest.param(model, ["all"], marks=pytest.mark.slow) for model in MODELS),
    ],
)
def test_run_of_a_model(gpu, model, samplers, tmp_path):
    call = (_execute_without_likelihoods, model, samplers, tmp_path)
    device, scored_samplers, all_samplers = gpu(*call)
    assert device.startswith("pretended:0")
    assert scored_samplers == all_samplers


@pytest.mark.parametrize("model", [pytest.param(model, marks=ON_GPU) for model in MODELS])
def test_run_of_a_model_on_a_real_gpu(model, tmp_path):
    device, scored_samplers, all_samplers = _execute(model, ["all"], tmp_path)
    assert device.startswith("cuda:0")
    assert scored_samplers == all_samplers
