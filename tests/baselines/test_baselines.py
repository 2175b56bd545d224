"""DNF and Trumpet: exact inverses, log-determinants and densities, and stages of training."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pythae.data.datasets import BaseDataset
from pythae.models import AutoModel
from pythae.pipelines import GenerationPipeline, TrainingPipeline
from pythae.samplers import NormalSampler
from pythae.trainers import BaseTrainerConfig

from pythae_fif import FIFTrainer, FIFTrainerConfig
from pythae_fif.baselines import DNF, DNFConfig, Trumpet, TrumpetConfig
from pythae_fif.baselines.glow import (
    ActNorm,
    Chain,
    ConvCoupling,
    InjectiveConv,
    InvertibleConv,
    Squeeze,
    flow_steps,
)
from pythae_fif.errors import ConfigError

KINDS = {"dnf": (DNF, DNFConfig), "trumpet": (Trumpet, TrumpetConfig)}
SMALL = {"steps": 2, "hidden_channels": 8, "latent_blocks": 2, "latent_hidden_dim": 8}


def build(kind, input_dim, latent_dim, *, seed=0, weight_noise=0.05, **config):
    """A model with noise on its initial weights, with which couplings would be the identity."""
    torch.manual_seed(seed)
    model_class, config_class = KINDS[kind]
    model = model_class(
        config_class(input_dim=input_dim, latent_dim=latent_dim, **{**SMALL, **config})
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += weight_noise * torch.randn_like(parameter)
    return model.eval()


def jacobian(function, x):
    """The Jacobian (B, outputs, inputs) of a map that treats samples separately, by autograd."""
    row_jacobian = torch.func.jacrev(lambda row: function(row[None])[0].flatten())
    return torch.stack([row_jacobian(row).flatten(1) for row in x])


LAYERS = {
    "ActNorm": lambda: ActNorm(4),
    "InvertibleConv": lambda: InvertibleConv(4, 4),
    "ConvCoupling": lambda: ConvCoupling(4, 8, 3),
    "Chain": lambda: Chain([Squeeze(), *flow_steps(16, 2, 8, kernel=1)]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_invert_and_give_their_log_determinant(name):
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn_like(parameter)

    x = torch.randn(3, 4, 2, 4, dtype=torch.float64)
    z, log_det = layer(x)
    torch.testing.assert_close(layer.inverse(z), x)
    expected = torch.linalg.slogdet(jacobian(lambda x: layer(x)[0], x)).logabsdet
    torch.testing.assert_close(log_det.expand(3), expected)


def test_act_norm_takes_the_statistics_of_the_first_training_batch_only():
    layer = ActNorm(2)
    x = 3 + 5 * torch.randn(64, 2, 4, 4)
    layer.eval()
    assert torch.equal(layer(x)[0], x)

    layer.train()
    z = layer(x)[0]
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3), correction=0), torch.ones(2))

    loaded = ActNorm(2).train()
    loaded.load_state_dict(layer.state_dict())
    assert torch.equal(loaded(2 * x)[0], layer(2 * x)[0])


@pytest.mark.parametrize("kind", KINDS)
@given(
    shape=st.sampled_from([(1, 8, 8), (3, 4, 6), (2, 16, 8), (1, 6, 10)]),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
@settings(max_examples=12, deadline=None)
def test_encoder_is_the_left_inverse_of_the_decoder(kind, shape, share, seed):
    latent_dim = max(1, round(share * math.prod(shape)))
    model = build(kind, shape, latent_dim, seed=seed)
    z = torch.randn(4, latent_dim)
    x = model.decoder(z)["reconstruction"]
    assert x.shape == (4, *shape)
    torch.testing.assert_close(model.embed(x), z, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.reconstruct(x), x, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 4, 2)])
def test_density_of_inflated_data_has_the_autograd_jacobian(shape):
    model = build("dnf", shape, 3).double()
    x = torch.rand(3, *shape, dtype=torch.float64)

    def latents(x):
        z, v, _ = model.flow.split(x)
        return torch.cat([z, v], 1)

    log_det = torch.linalg.slogdet(jacobian(latents, x)).logabsdet
    normal = torch.distributions.Normal(0, 1)
    expected = normal.log_prob(latents(x)).sum(1) + log_det
    torch.testing.assert_close(model._inflated_log_prob(x)[0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_density_on_the_manifold_has_the_autograd_jacobian(kind):
    model = build(kind, (1, 4, 4), 3).double()
    x = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    z = model.embed(x)
    columns = jacobian(lambda z: model.decoder(z)["reconstruction"], z)
    volume = torch.linalg.slogdet(columns.mT @ columns).logabsdet / 2
    expected = torch.distributions.Normal(0, 1).log_prob(z).sum(1) - volume
    torch.testing.assert_close(model.log_prob(x), expected)

    latent_flow = model.flow.latent_flow
    u = torch.randn(3, 3, dtype=torch.float64)
    z, log_det = latent_flow(u)
    latent_jacobian = jacobian(lambda u: latent_flow(u)[0], u)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(latent_jacobian).logabsdet)
    torch.testing.assert_close(latent_flow.inverse(z), u)


@pytest.mark.parametrize(
    ("kind", "latent_dim", "millions"), [("dnf", 512, 39.4), ("trumpet", 192, 19.1)]
)
def test_sizes_of_table_2(kind, latent_dim, millions):
    file = Path(__file__).parents[2] / "benchmark_configs/experiments/table2.yaml"
    sizes = yaml.safe_load(file.read_text())["profiles"]["table2"]["models"][kind]["fixed"]
    model_class, config_class = KINDS[kind]
    model = model_class(config_class(input_dim=(3, 64, 64), latent_dim=latent_dim, **sizes))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(1e6 * millions, rel=0.03)

    layers = [module for module in model.modules() if isinstance(module, InjectiveConv)]
    factors = [layer.weight.shape[0] // layer.weight.shape[1] for layer in layers]
    assert factors == ([2] * 6 if kind == "trumpet" else [])


def test_a_step_of_adam_moves_wide_couplings_no_farther():
    def mean_change(hidden_channels):
        torch.manual_seed(0)
        coupling = ConvCoupling(12, hidden_channels, 3)
        x = torch.randn(4, 12, 8, 8)
        optimizer = torch.optim.Adam(coupling.parameters(), lr=1e-3)
        z = coupling(x)[0]
        z.square().sum().backward()
        optimizer.step()
        return (coupling(x)[0] - z).abs().mean().item()

    assert mean_change(hidden_channels=1024) < 1.5 * mean_change(hidden_channels=128)


def test_a_coupling_magnifies_by_no_more_than_its_bound():
    coupling = ConvCoupling(2, 8, 3)
    coupling.net[-1].bias.data.fill_(-1e3)
    image = torch.ones(1, 2, 1, 1)
    assert coupling(image)[1].item() == pytest.approx(math.log(torch.tensor(-2.0).sigmoid()))
    torch.testing.assert_close(coupling.inverse(coupling(image)[0]), image, atol=1e-3, rtol=0)


def images(count):
    """Random images, always the same for a count."""
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(count))


def dataset(count):
    """A Pythae data set of random images."""
    return BaseDataset(images(count), torch.zeros(count))


def weights(module):
    """All weights of a module in one vector."""
    return torch.cat([value.detach().flatten() for value in module.parameters()])


def test_trumpet_trains_the_manifold_first_and_then_only_the_density(tmp_path):
    model = build("trumpet", (1, 8, 8), 4, weight_noise=0, manifold_share=0.5)
    stages = []
    manifold = []  # the data flow's weights after each epoch
    density = []  # the latent flow's weights after each epoch

    def record_epoch(row):
        stages.append(row.stage)
        manifold.append(weights(model.flow.data_flow))
        density.append(weights(model.flow.latent_flow))

    initial_density = weights(model.flow.latent_flow)
    config = FIFTrainerConfig(
        output_dir=str(tmp_path), num_epochs=4, per_device_train_batch_size=16, no_cuda=True
    )
    trainer = FIFTrainer(
        model,
        dataset(48),
        dataset(32),
        config,
        run_dir=tmp_path / "run",
        on_epoch=record_epoch,
    )
    result = trainer.train()
    assert stages == ["manifold", "manifold", "density", "density"]
    assert result.best_epoch in (3, 4)

    assert torch.equal(density[0], initial_density)
    assert torch.equal(density[1], initial_density)
    assert not torch.equal(density[2], initial_density)

    # The density is trained on the better of the two manifolds.
    assert not torch.equal(manifold[0], manifold[1])
    assert torch.equal(manifold[2], manifold[0]) or torch.equal(manifold[2], manifold[1])
    assert torch.equal(manifold[3], manifold[2])

    loaded = AutoModel.load_from_folder(str(tmp_path / "run" / "model")).eval()
    assert loaded.stage == "density"
    loss = loaded({"data": images(32)}).loss
    assert loss.item() == pytest.approx(result.best_eval_loss, rel=1e-4)


def test_stages_by_epochs_and_share():
    model = build("trumpet", (1, 8, 8), 4, manifold_epochs=2, manifold_share=0.25)
    assert model.stage_at(1.9, 0.2) == "manifold"
    assert model.stage_at(2.0, 0.2) == "density" == model.stage_at(0.1, 0.25)

    for training in (True, False):
        for model.stage, loss in (("manifold", "recon_loss"), ("density", "nll_loss")):
            output = model.train(training)({"data": images(8)})
            assert torch.equal(output.loss, output[loss])
            assert ("z" in output) == (not training or model.stage == "density")


@pytest.mark.parametrize("kind", KINDS)
def test_works_in_pythae_s_pipelines_and_loads_from_files(kind, tmp_path):
    model = build(kind, (1, 8, 8), 4, weight_noise=0)
    config = BaseTrainerConfig(
        output_dir=str(tmp_path), num_epochs=2, per_device_train_batch_size=16, no_cuda=True
    )
    pipeline = TrainingPipeline(model=model, training_config=config)
    pipeline(train_data=images(32), eval_data=images(16))

    loaded = AutoModel.load_from_folder(f"{pipeline.trainer.training_dir}/final_model").eval()
    assert type(loaded) is KINDS[kind][0]
    assert loaded.decoder.flow is loaded.encoder.flow
    model.load_state_dict(loaded.state_dict())  # it holds the last weights, not the best ones
    model.eval()
    torch.testing.assert_close(loaded.reconstruct(images(6)), model.reconstruct(images(6)))
    torch.testing.assert_close(loaded.log_prob(images(6)), model.log_prob(images(6)))

    assert NormalSampler(loaded).sample(5).shape == (5, 1, 8, 8)
    assert GenerationPipeline(model=loaded)(num_samples=4, return_gen=True).shape == (4, 1, 8, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_before_training_does_not_initialise_layers(kind):
    """A model is in training mode when it is built."""
    model = build(kind, (1, 4, 4), 3).train()
    x = torch.rand(1, 1, 4, 4, requires_grad=True)
    initial_state = {name: torch.clone(value) for name, value in model.state_dict().items()}
    for evaluate in (model.embed, model.predict, model.reconstruct, model.log_prob):
        evaluate(x)
    assert model.encode(x, gradients=True).requires_grad
    assert model.training
    torch.testing.assert_close(model.state_dict(), initial_state, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_data_without_even_sides_and_networks_are_refused(kind):
    model_class, config_class = KINDS[kind]
    for shape in (None, (4,), (1, 7, 8)):
        with pytest.raises(ConfigError, match=r"Config input_dim: use .* with even H and W"):
            model_class(config_class(input_dim=shape, latent_dim=2))

    encoder = build(kind, (1, 4, 4), 2).encoder
    with pytest.raises(ConfigError, match="does not take an encoder or a decoder"):
        model_class(config_class(input_dim=(1, 4, 4), latent_dim=2), encoder=encoder)
