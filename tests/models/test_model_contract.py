"""What all models of this package share: density, samples, files, AutoModel, a fresh process."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pythae.data.datasets import DatasetOutput
from pythae.models import AE, AEConfig, AutoModel, BaseAEConfig
from support.networks import Opened, hand_built_networks
from torch import nn

from pythae_fif.baselines import (
    DNF,
    DNFConfig,
    RectangularFlow,
    RectangularFlowConfig,
    Trumpet,
    TrumpetConfig,
)
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.models import FIF, FIFConfig
from pythae_fif.models.saved import load_model
from pythae_fif.nn import build_networks
from pythae_fif.nn.base import HeadedEncoder, LayeredDecoder
from pythae_fif.nn.coupling import build_coupling

FLOW = {"steps": 1, "hidden_channels": 8, "latent_blocks": 2, "latent_hidden_dim": 8}


def fif(*nets, **options):
    return FIF(FIFConfig(input_dim=(1, 4, 4), latent_dim=3, beta=4.0, **options), *nets)


def rectangular(*nets):
    config = RectangularFlowConfig(input_dim=(5,), latent_dim=3, cg_tolerance=0.1)
    return RectangularFlow(config, *nets)


MODELS = {
    "fif": fif,
    "fif-on-manifold": lambda: fif(jacobian_at="reconstruction"),
    "fif-other-nets": lambda: fif(*hand_built_networks(), latent_distribution="student_t"),
    "rectangular": rectangular,
    "rectangular-other-nets": lambda: rectangular(
        *build_coupling((5,), 3, data_blocks=2, data_hidden=[8], latent_hidden=[8])
    ),
    "dnf": lambda: DNF(DNFConfig(input_dim=(1, 8, 8), latent_dim=3, **FLOW)),
    "trumpet": lambda: Trumpet(TrumpetConfig(input_dim=(1, 8, 8), latent_dim=3, **FLOW)),
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().eval()


@pytest.fixture
def x(model):
    return torch.rand(6, *model.model_config.input_dim)


def test_codes_and_reconstructions(model, x):
    z = model.embed(x)
    assert z.shape == (6, 3)
    assert torch.equal(model.predict(x).embedding, z)
    assert torch.equal(model.predict(x).recon_x, model.reconstruct(x))
    reversed_codes = z.detach().flip(0).numpy()[::-1]  # with negative strides
    assert torch.equal(model.decode(reversed_codes), model.decode(z))
    assert torch.equal(copy.deepcopy(model).embed(x), z)


def test_density_and_samples(model, x):
    assert model.sample(5).shape == (5, *x.shape[1:])
    volume = model.log_volume(x)
    log_values = model.singular_values(x).log()
    torch.testing.assert_close(log_values.sum(1), volume, rtol=1e-3, atol=1e-3)
    z = model.embed(x)
    log_prior = model.latent_distribution(z).log_prob(z)
    torch.testing.assert_close(model.log_prob(x), log_prior - volume)


def test_interpolation_goes_from_one_reconstruction_to_another(model, x):
    start = x[:2]
    end = x[2:4]
    lines = model.interpolate(start, end, granularity=5)
    assert lines.shape == (2, 5, *x.shape[1:])
    torch.testing.assert_close(lines[:, 0], model.reconstruct(start), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(lines[:, -1], model.reconstruct(end), atol=1e-4, rtol=1e-4)


def test_losses_of_both_modes(model, x):
    output = model(DatasetOutput(data=x), dataset_size=6)
    second_output = model(DatasetOutput(data=x), dataset_size=6)
    assert output.loss.item() == second_output.loss.item()
    torch.testing.assert_close(output.recon_x, model.reconstruct(x))
    assert torch.equal(output.z, model.embed(x))

    model.train()(DatasetOutput(data=x), epoch=1, share_done=0.0).loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_exact_numbers_stay_exact_under_autocast(model, x):
    methods = (model.log_prob, model.log_volume, model.singular_values)
    expected_values = [method(x) for method in methods]
    expected_loss = model(DatasetOutput(data=x), dataset_size=6).loss

    with torch.autocast("cpu", torch.bfloat16):
        values = [method(x) for method in methods]
        loss = model(DatasetOutput(data=x), dataset_size=6).loss
    for value, expected in zip(values, expected_values, strict=True):
        assert value.dtype == torch.float32
        assert torch.equal(value, expected)
    torch.testing.assert_close(loss.float(), expected_loss, rtol=0.1, atol=0.1)


def test_training_mode_of_every_layer_is_kept(model, x):
    lines = model.interpolate(x[:2], x[2:4])
    model.train()
    next(model.decoder.children()).eval()
    modes = [module.training for module in model.modules()]

    model.log_prob(x)
    model.log_volume(x)
    model.sample(2)
    assert torch.equal(model.interpolate(x[:2].numpy(), x[2:4].numpy(), 10), lines)
    model(DatasetOutput(data=x), epoch=1, share_done=0.0)
    assert [module.training for module in model.modules()] == modes


def test_saved_and_loaded(model, x, tmp_path):
    model.save(str(tmp_path))
    is_pickled = isinstance(model.encoder, HeadedEncoder)
    random_state = torch.get_rng_state()
    loaders = (type(model).load_from_folder, AutoModel.load_from_folder, load_model)
    for loader in loaders:
        loaded = loader(str(tmp_path), trust=is_pickled).eval()
        assert type(loaded) is type(model)
        assert loaded.model_config == model.model_config
        assert torch.equal(loaded.embed(x), model.embed(x))
        assert torch.equal(loaded.reconstruct(x), model.reconstruct(x))
        assert torch.equal(torch.get_rng_state(), random_state)


def test_a_pickled_network_is_not_opened_unless_it_is_trusted(tmp_path):
    MODELS["fif-other-nets"]().save(str(tmp_path))
    for loader in (FIF.load_from_folder, AutoModel.load_from_folder, load_model):
        with pytest.raises(ConfigError, match=r"encoder.pkl can run any code .*trust=True"):
            loader(str(tmp_path))


@pytest.mark.parametrize("name", ["rectangular", "rectangular-other-nets", "dnf", "trumpet"])
def test_two_directions_of_a_flow_are_still_one_flow_when_loaded(name, tmp_path):
    model = MODELS[name]()
    model.save(str(tmp_path))
    loaded = type(model).load_from_folder(str(tmp_path))
    assert hasattr(loaded.encoder, "flow") == hasattr(loaded.decoder, "flow")
    if hasattr(loaded.encoder, "flow"):
        assert loaded.encoder.flow is loaded.decoder.flow


def test_transposed_weights_and_types_are_loaded_as_they_were(tmp_path):
    encoder = HeadedEncoder(nn.Linear(3, 3), nn.Linear(3, 2))
    decoder = LayeredDecoder(nn.Linear(2, 3), nn.Linear(3, 3))
    decoder.layers[1].weight = nn.Parameter(encoder.features.weight.t())
    encoder.register_buffer("mean", torch.ones(3, dtype=torch.float64))
    FIF(FIFConfig(input_dim=(3,), latent_dim=2), encoder, decoder).save(str(tmp_path))
    loaded = FIF.load_from_folder(str(tmp_path), trust=True)
    assert [buffer.dtype for buffer in loaded.encoder.buffers()] == [torch.float64]
    assert torch.equal(loaded.encoder.features.weight, encoder.features.weight)
    assert torch.equal(loaded.decoder.layers[1].weight, decoder.layers[1].weight)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["model_config.json", "environment.json", "model.pt"])
@pytest.mark.parametrize("damage", [truncate, Path.unlink])
def test_a_damaged_folder_is_one_line(name, damage, tmp_path):
    fif().save(str(tmp_path))
    damage(tmp_path / name)
    if name == "environment.json":  # it records versions, and is not needed
        assert FIF.load_from_folder(str(tmp_path)).latent_dim == 3
        return
    with pytest.raises(DataError, match="cannot load a model from") as raised:
        FIF.load_from_folder(str(tmp_path))
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize("config", [{}, BaseAEConfig((1, 4, 4), 3), DNFConfig((1, 4, 4), 3)])
def test_a_configuration_of_another_model_is_refused(config):
    with pytest.raises(ConfigError, match=f"^FIF needs a FIFConfig, not {type(config).__name__}$"):
        FIF(config)


def test_two_models_with_one_configuration(tmp_path):
    config = FIFConfig(input_dim=(1, 4, 4), latent_dim=3)
    model = FIF(config).eval()
    encoder, decoder = hand_built_networks()
    model.set_encoder(encoder)
    model.set_decoder(decoder)
    FIF(config)  # with default networks

    model.save(str(tmp_path))
    loaded = FIF.load_from_folder(str(tmp_path), trust=True).eval()
    x = torch.rand(2, 1, 4, 4)
    assert torch.equal(loaded.embed(x), model.embed(x))


BUILDERS = {
    "convnet": lambda: build_networks("convnet", (1, 8, 8), 3),
    "pythae's": lambda: build_networks("resnet", (1, 28, 28), latent_dim=3),
    "fif_convnet": lambda: build_networks("fif_convnet", (1, 28, 28), 3),
    "conditional": lambda: build_networks("resnet", (1, 28, 28), 3, condition_dim=2),
    "latent blocks": lambda: build_networks("resnet_fc4", (1, 28, 28), 3),
}


REBUILT = [(name, torch.float32) for name in BUILDERS] + [("convnet", torch.float64)]


@pytest.mark.parametrize(("name", "dtype"), REBUILT)
def test_networks_of_this_package_are_rebuilt_without_their_pickles(name, dtype, tmp_path):
    shape = (1, 8, 8) if name == "convnet" else (1, 28, 28)
    classes = 2 if name == "conditional" else 0
    config = FIFConfig(input_dim=shape, latent_dim=3, condition_dim=classes)
    model = FIF(config, *BUILDERS[name]()).to(dtype).train()
    x = torch.rand(4, *shape, dtype=dtype)
    labels = [0, 1, 0, 1] if classes else None
    model.embed(x, labels)  # moves BatchNorm's running statistics

    model.eval().save(str(tmp_path))
    for side in ("encoder", "decoder"):
        (tmp_path / f"{side}.pkl").write_bytes(pickle.dumps(Opened()))
    saved_again = tmp_path / "saved-again"
    AutoModel.load_from_folder(str(tmp_path)).save(str(saved_again))

    for folder in (tmp_path, saved_again):
        loaded = AutoModel.load_from_folder(str(folder)).eval()
        assert str(loaded) == str(model)
        assert torch.equal(loaded.reconstruct(x, labels), model.reconstruct(x, labels))


def test_a_network_that_was_changed_is_not_rebuilt(tmp_path):
    encoder, decoder = BUILDERS["conditional"]()
    relus = [name for name, layer in encoder.named_modules() if isinstance(layer, nn.ReLU)]
    parent, _, child = relus[0].rpartition(".")
    setattr(encoder.get_submodule(parent), child, nn.SiLU())
    encoder.__class__ = type("Own", (type(encoder),), {"__module__": "of_another_process"})
    config = FIFConfig(input_dim=(1, 28, 28), latent_dim=3, condition_dim=2)
    model = FIF(config, encoder, decoder).eval()

    model.save(str(tmp_path))
    recipes = json.loads((tmp_path / "networks.json").read_text())
    assert recipes["encoder"] is None
    assert recipes["decoder"]["args"] == ["resnet", [1, 28, 28], 3]
    with pytest.raises(ConfigError, match=r"encoder.pkl can run any code"):
        FIF.load_from_folder(str(tmp_path))

    x = torch.rand(4, 1, 28, 28)
    loaded = FIF.load_from_folder(str(tmp_path), trust=True).eval()
    assert torch.equal(loaded.reconstruct(x, 1), model.reconstruct(x, 1))


@pytest.mark.parametrize(
    "recipe",
    [
        {"builder": "system", "args": ["id"], "kwargs": {}, "structure": ""},
        {"builder": "build_networks", "args": ["x", [1, 8, 8], 3], "kwargs": {}, "structure": ""},
        {"builder": "build_networks", "args": ["convnet", [1, 8, 8], 3], "kwargs": {},
         "structure": ""},
        [1],
    ],
)  # fmt: skip
def test_an_unknown_recipe_is_one_line(recipe, tmp_path):
    model = FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=3), *BUILDERS["convnet"]())
    model.save(str(tmp_path))
    (tmp_path / "networks.json").write_text(json.dumps({"encoder": recipe, "decoder": recipe}))
    with pytest.raises(ConfigError, match="has no encoder of this version"):
        FIF.load_from_folder(str(tmp_path))


PRINT_IMPORTED = "print(*(name in sys.modules for name in ('torch', 'pythae', 'torch._dynamo')))"
PRINT_LOADED = "print(type(AutoModel.load_from_folder(sys.argv[1])).__name__)"
PRINT_TRACER = """
import pythae_fif.ensemble
print([name for name in {*sys.modules} - names if "proxy_tensor" in name or name == "sympy"])
"""


@pytest.mark.parametrize("pythae_first", [True, False])
def test_a_fresh_process_loads_by_automodel(pythae_first, tmp_path):
    """It imports torch, Pythae and the tracer when they are needed, and dynamo not for a model."""
    torch.manual_seed(0)
    model = rectangular(*build_coupling((5,), 3, data_blocks=2, data_hidden=[8], latent_hidden=[8]))
    model.save(str(tmp_path))
    import_pythae = "from pythae.models import AutoModel; names = {*sys.modules}"
    imports = ["import pythae_fif", PRINT_IMPORTED, import_pythae]
    if pythae_first:
        imports.reverse()
    first_lines = ["import sys", *imports, "from pythae_fif import FIF"]
    lines = [*first_lines, PRINT_IMPORTED, PRINT_LOADED, PRINT_TRACER]

    command = [sys.executable, "-c", "\n".join(lines), str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True)
    with_torch_and_pythae = ["True", "True", "False"]
    first_printed = with_torch_and_pythae if pythae_first else ["False"] * 3
    expected = [*first_printed, *with_torch_and_pythae, "RectangularFlow", "[]"]
    assert process.stdout.split() == expected, process.stderr


def test_automodel_still_loads_pythae_s_models_and_refuses_unknown_ones(tmp_path):
    AE(AEConfig(input_dim=(1, 4, 4), latent_dim=2)).save(str(tmp_path))
    assert isinstance(AutoModel.load_from_folder(str(tmp_path)), AE)
    (tmp_path / "model_config.json").write_text('{"name": "NoSuchConfig"}')
    with pytest.raises(NameError):
        AutoModel.load_from_folder(str(tmp_path))


def test_load_model_opens_no_pickle_of_pythae_s_models_unless_it_is_trusted(tmp_path):
    AE(AEConfig(input_dim=(1, 28, 28), latent_dim=3), *BUILDERS["pythae's"]()).save(str(tmp_path))
    (tmp_path / "encoder.pkl").write_bytes(pickle.dumps(Opened()))
    with pytest.raises(ConfigError, match=r"pkl can run any code when it is opened: .*trust=True"):
        load_model(str(tmp_path))
    with pytest.raises(pytest.fail.Exception, match="a pickle was opened"):
        load_model(str(tmp_path), trust=True)
