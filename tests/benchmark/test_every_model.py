"""Every model of the benchmark, with the shape of every data set and every architecture."""

import types
from copy import deepcopy

import numpy as np
import pytest
import torch
from support.report_store import model_fields
from support.trainings import Killed, assert_same_weights, kill_at

from pythae_fif.benchmark.build import build_model, build_trainer
from pythae_fif.benchmark.models import list_configs, read_entry
from pythae_fif.benchmark.training import Training
from pythae_fif.models.saved import load_model
from pythae_fif.sampling.samplers import embed, generate

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:To copy construct from a tensor"),  # Pythae's SVAE
    pytest.mark.filterwarnings("ignore:scores of 20 samples"),
]

MODELS = [name for name in list_configs("models") if not read_entry(name).conditional]
ROW = (9,)
DIGITS = (1, 8, 8)
MNIST = (1, 28, 28)
CIFAR = (3, 32, 32)
CELEBA = (3, 64, 64)

OWN_NETWORKS = ("dnf", "trumpet")
"""Models that build their networks themselves, for every architecture."""
KINDS = (
    "ae", "vae", "svae", "poincare_vae", "vqvae_spatial", "vaegan", "msssim_vae", "vamp"
)  # fmt: skip
"""One model for each kind of networks and losses."""
SHARED_NETWORKS = [
    name for name in MODELS if name not in OWN_NETWORKS and not read_entry(name).rows_only
]

# All combinations would take minutes. So every model, or one of each kind if the networks are
# costly, sees every architecture once, and the shapes in turn.
LARGE = [
    (model, arch, shapes[index % len(shapes)])
    for arch, models, shapes in (
        ("convnet", KINDS, (MNIST, CIFAR, MNIST, CELEBA)),
        ("resnet", SHARED_NETWORKS, (MNIST, CIFAR, CELEBA)),
        ("fif_convnet", KINDS, (DIGITS, MNIST, DIGITS, CELEBA, DIGITS)),
        ("resnet_fc4", KINDS, (DIGITS,)),
    )
    for index, model in enumerate(models)
    if model != "vqvae_spatial" or arch not in ("fif_convnet", "resnet_fc4")
]
LARGE += [(model, "convnet", shape) for model in OWN_NETWORKS for shape in (MNIST, CIFAR, CELEBA)]

# FIF's networks are always tested. Those of other models for colour images are slow tests.
LARGE_CASES = [
    pytest.param(*case, marks=[pytest.mark.slow] if case[0] != "fif" and case[2][0] == 3 else [])
    for case in LARGE
]


def make_training(model: str, arch: str = "convnet", *, epochs: int = 1) -> Training:
    entry = read_entry(model)
    return Training(
        dataset="any", arch=arch, model=model, **model_fields(model),
        parameters={**entry.fixed, **entry.choices()[0]},
        latent_dim=ROW[0] if entry.all_dims else 4, epochs=epochs,
        batch_size=4, learning_rate=1e-3, data_hash="0" * 16,
    )  # fmt: skip


def make_splits(shape: tuple[int, ...], count: int = 4):
    images = np.random.default_rng(0).integers(0, 256, (2 * count, *shape), dtype=np.uint8)
    if shape == ROW:
        images = images.astype(np.float32) / 255
    return types.SimpleNamespace(
        train=images[:count], val=images[count:], input_dim=shape, columns=None, class_names=None
    )


@pytest.mark.parametrize("model", MODELS)
def test_builds_takes_a_step_saves_reloads_and_samples(model, tmp_path):
    training = make_training(model)
    shape = ROW if read_entry(model).rows_only else DIGITS
    splits = make_splits(shape, 6)
    torch.manual_seed(0)
    initial_weights = build_model(training, shape).state_dict()
    trainer = build_trainer(training, splits, {}, tmp_path)
    assert trainer.keep_last == read_entry(model).keep_last

    result = trainer.train()
    assert np.isfinite(result.best_eval_loss)
    assert result.images_per_second > 0
    trained = trainer.model
    weights = trained.state_dict()
    for network in ("encoder", "decoder"):
        changed = [
            not torch.equal(value, initial_weights[name])
            for name, value in weights.items()
            if name.startswith(network)
        ]
        assert any(changed) or model == "vaegan"  # which may skip the decoder's step

    by_pythae = load_model(str(tmp_path / "model"), trust=True)
    for pickled in (tmp_path / "model").glob("*.pkl"):
        pickled.write_bytes(b"pickles are not read")
    loaded = build_model(training, shape)
    saved = torch.load(tmp_path / "model" / "model.pt", weights_only=True)
    loaded.load_state_dict(saved["model_state_dict"])
    assert type(by_pythae) is type(loaded) is type(trained)
    for copy in (by_pythae, loaded):
        assert_same_weights(copy, trained)

    codes = embed(trained, splits.train, seed=3)
    assert torch.equal(codes, embed(loaded, splits.train, seed=3))
    sampler = read_entry(model).samplers[0]
    samples = generate(sampler, trained, codes, num_samples=5, seed=1, fit_steps=2)
    assert samples.shape == (5, *shape)
    same_samples = generate(sampler, loaded, codes, num_samples=5, seed=1, fit_steps=2)
    assert torch.equal(samples, same_samples)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 2e-7)])
@pytest.mark.parametrize("model", ["wae_imq", "info_vae_imq"])
def test_kernel_and_its_gradient_equal_pythaes(model, dtype, rtol):
    built = deepcopy(build_model(make_training(model), DIGITS))
    z = torch.randn(2, 100, 4, dtype=dtype, requires_grad=True)
    weights = torch.rand(100, 100)

    def gradient(kernel):
        return torch.autograd.grad((weights * kernel).sum(), z, retain_graph=True)[0]

    for pair in (z, z[[0, 0]]):
        kernel = built.imq_kernel(*pair)
        expected = type(built).imq_kernel(built, *pair)
        assert (kernel - expected).norm() <= rtol * expected.norm()
        expected_gradient = gradient(expected)
        difference = gradient(kernel) - expected_gradient
        assert difference.norm() <= rtol * expected_gradient.norm()


def test_each_column_of_codes_is_permuted_independently():
    z = torch.arange(40.0)[:, None].expand(40, 3)
    permuted = build_model(make_training("factor_vae"), DIGITS)._permute_dims(z)
    assert torch.equal(permuted.sort(0).values, z)
    assert len(permuted.unique(dim=1).T) == 3


@pytest.mark.parametrize(
    ("model", "arch", "shape"), LARGE_CASES, ids=lambda v: v if isinstance(v, str) else str(v[1])
)
def test_large_networks_take_a_step_and_sample(model, arch, shape, tmp_path, monkeypatch):
    """They are pickled before the training, but not saved after it, which takes a third of it."""
    # Each component of VAMP is an image of parameters.
    changes = {"number_components": 3} if model == "vamp" else {}
    training = make_training(model, arch)
    training = training.model_copy(update={"parameters": {**training.parameters, **changes}})
    splits = make_splits(shape, 4 if model == "factor_vae" else 2)
    trainer = build_trainer(training, splits, {}, tmp_path)
    monkeypatch.setattr(trainer.model, "save", lambda folder: None)
    (row,) = trainer.train().log
    assert np.isfinite([*row.train.values(), *row.eval.values()]).all()

    codes = embed(trainer.model, splits.train)
    sampler = read_entry(model).samplers[0]
    samples = generate(sampler, trainer.model, codes, num_samples=2, seed=1, fit_steps=2)
    assert samples.shape == (2, *shape)


@pytest.mark.parametrize("model", ["fif", "dnf", "trumpet"])
def test_killed_run_resumes_to_the_same_weights(model, tmp_path):
    """For models with a state of a special form; others are in `training/test_resume.py`."""
    changes = {"beta": "auto", "surrogate_fraction": 0.25} if model == "fif" else {}
    training = make_training(model, epochs=4)
    training = training.model_copy(update={"parameters": {**training.parameters, **changes}})
    splits = make_splits(DIGITS, 12)
    uninterrupted = build_trainer(training, splits, {}, tmp_path / "uninterrupted")
    expected = uninterrupted.train()

    with pytest.raises(Killed):
        build_trainer(training, splits, {}, tmp_path / "killed", on_epoch=kill_at(2)).train()
    torch.manual_seed(99)  # a new process has another random state
    resumed = build_trainer(training, splits, {}, tmp_path / "killed")
    result = resumed.train()
    assert result.epochs == 4
    assert result.best_epoch == expected.best_epoch
    assert result.best_eval_loss == expected.best_eval_loss
    assert_same_weights(resumed.model, uninterrupted.model)
