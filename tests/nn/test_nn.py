"""Every architecture by its contract, the published parameter counts, and networks of others."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pythae.models import VAE, AutoModel, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseEncoder
from support.trainings import assert_same_weights
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pythae_fif import FIF, FIFConfig
from pythae_fif.errors import ConfigError
from pythae_fif.nn import (
    ConvDiscriminator,
    build_networks,
    poincare_networks,
    smooth_networks,
    spatial_networks,
    spherical_networks,
)
from pythae_fif.nn.recipe import rebuild, recipe_of
from pythae_fif.nn.small import SmallDecoder

# Each architecture on a shape with nets of our own, or of the paper's.
CASES = [
    ("convnet", (1, 8, 8)),
    ("resnet", (3, 17, 20)),
    ("convnet", (1, 28, 28)),
    ("resnet", (1, 28, 28)),
    ("fif_convnet", (1, 28, 28)),
    ("fif_convnet", (3, 17, 20)),
    ("resnet_fc4", (1, 28, 28)),
    ("convnet_fc2", (1, 8, 8)),
    ("tabular", (7,)),
]
each_case = pytest.mark.parametrize(("arch", "shape"), CASES)
variational_or_not = pytest.mark.parametrize("variational", [False, True])


def count(*nets):
    return sum(p.numel() for net in nets for p in net.parameters())


@variational_or_not
@each_case
def test_shapes_range_and_keys(arch, shape, variational):
    encoder, decoder = build_networks(arch, shape, 5, variational=variational)
    code = encoder(torch.rand(3, *shape))
    assert code.embedding.shape == (3, 5)
    assert ("log_covariance" in code) == variational
    if variational:
        assert code.log_covariance.shape == (3, 5)
        assert not torch.equal(code.log_covariance, code.embedding)
    image = decoder(10 * torch.randn(3, 5)).reconstruction
    assert image.shape == (3, *shape) and image.std() > 0
    assert arch == "tabular" or (image.min() >= 0 and image.max() <= 1)


@each_case
def test_codes_that_are_no_vectors_of_r_d(arch, shape):
    """On a sphere with a concentration, in the unit ball, and maps where there are any."""
    x = torch.rand(8, *shape)
    if arch != "tabular":
        encoder, decoder = spherical_networks(arch, shape, 5)
        assert encoder(x).log_concentration.shape == (8, 1)
        assert decoder(encoder(x).embedding).reconstruction.shape == x.shape
    norm = poincare_networks(arch, shape, 5)[0](1e4 * x).embedding.norm(dim=1)
    assert (norm < 1).all() and (norm > 0).all()
    if arch in ("convnet", "resnet"):
        encoder, decoder = spatial_networks(arch, shape, 5)
        maps = encoder(x).embedding
        assert maps.dim() == 4 and maps.shape[1] == 5
        assert decoder(maps).reconstruction.shape == x.shape
    else:
        with pytest.raises(ConfigError, match=r"needs maps: use convnet or resnet$"):
            spatial_networks(arch, shape, 5)


@pytest.mark.parametrize(("arch", "shape"), [("resnet", (1, 28, 28)), ("tabular", (7,))])
def test_smooth_networks_are_the_same_nets_without_kinks(arch, shape):
    """And so their Jacobians do not jump along a line in the biases."""
    jumps = []
    for build in (smooth_networks, build_networks):
        torch.manual_seed(0)
        networks = build(arch, shape, 5)
        kinks = [layer for layer in networks[0].modules() if isinstance(layer, nn.ReLU)]
        assert not kinks or build is build_networks
        rough = copy.deepcopy(networks[0])
        jumps.append(_jump(networks[0].double().eval(), torch.rand(1, *shape).double()))
        if build is smooth_networks:
            fine = rough
    assert_same_weights(fine, rough)
    assert jumps[0] < 1e-3 and (jumps[1] > 0.1 if kinks else jumps[1] == jumps[0])


def _jump(encoder, x, step=1e-3):
    """The largest second difference of f'(x) v along a line of biases, relative to its mean."""
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    tangents = []
    with torch.no_grad():
        for _ in range(20):
            run = torch.func.jvp(lambda x: encoder(x).embedding, (x,), (v,))
            tangents.append(run[1].flatten())
            for name, parameter in encoder.named_parameters():
                if name.endswith("bias"):
                    parameter += step
    differences = torch.stack(tangents).diff(dim=0).diff(dim=0).abs().amax(0)
    return float((differences / tangents[0].abs().mean()).max())


@given(
    arch=st.sampled_from(["convnet", "resnet", "fif_convnet"]),
    channels=st.integers(1, 4),
    height=st.integers(4, 40),
    width=st.integers(4, 40),
    latent_dim=st.integers(1, 8),
)
def test_nets_fit_any_size(arch, channels, height, width, latent_dim):
    encoder, decoder = build_networks(arch, (channels, height, width), latent_dim)
    z = encoder(torch.rand(2, channels, height, width)).embedding
    assert z.shape == (2, latent_dim)
    assert decoder(z).reconstruction.shape == (2, channels, height, width)


@pytest.mark.parametrize(
    ("arch", "shape", "latent_dim", "millions"),
    [
        ("convnet", (1, 28, 28), 16, "17.2"),
        ("convnet", (3, 32, 32), 256, "39.4"),
        ("convnet", (3, 64, 64), 64, "33.5"),
        ("resnet", (1, 28, 28), 16, "0.73"),
        ("resnet", (3, 32, 32), 256, "4.8"),
        ("resnet", (3, 64, 64), 64, "1.6"),
        ("fif_convnet", (3, 64, 64), 64, "34.3"),
        ("fif_convnet", (1, 28, 28), 16, "3.370161"),  # printed as 3.3, cut
        ("convnet", (1, 8, 8), 4, "0.104645"),
    ],
)
def test_parameter_counts_of_the_papers_tables(arch, shape, latent_dim, millions):
    digits = len(millions.split(".")[1])
    total = count(*build_networks(arch, shape, latent_dim))
    assert f"{total / 1e6:.{digits}f}" == millions


@variational_or_not
@pytest.mark.parametrize(("base", "shape"), [("convnet", (1, 8, 8)), ("resnet", (1, 28, 28))])
def test_latent_blocks_start_as_the_identity_and_are_those_of_table_11(base, shape, variational):
    found, x, z = [], torch.rand(2, *shape), torch.randn(2, 5)
    for arch in (base, f"{base}_fc2", f"{base}_fc4"):
        torch.manual_seed(3)
        nets = [net.eval() for net in build_networks(arch, shape, 5, variational=variational)]
        found.append((nets[0](x), nets[1](z).reconstruction, count(*nets)))
    code, image, parameters = found[0]
    block = (5 * 512 + 512) + (512 * 512 + 512) + (512 * 5 + 5)
    for blocks, (other_code, other_image, more) in zip((2, 4), found[1:], strict=True):
        assert all(torch.equal(other_code[key], code[key]) for key in code)
        assert torch.equal(other_image, image)
        assert more == parameters + 2 * blocks * block


@each_case
def test_networks_know_how_they_were_built_until_they_are_changed(arch, shape):
    for side, network in zip(("encoder", "decoder"), build_networks(arch, shape, 3), strict=True):
        recipe, state = recipe_of(network), torch.get_rng_state()
        again = rebuild(recipe, side)
        assert str(again) == str(network) and torch.equal(torch.get_rng_state(), state)
        again.load_state_dict(network.state_dict())
        with pytest.raises(ConfigError, match=r"networks.json names no .* of this version"):
            rebuild({**recipe, "structure": "0"}, side)
        network.register_buffer("more", torch.zeros(1))
        assert recipe_of(network) is None


@each_case
def test_survives_pythaes_save_and_load_twice(arch, shape, tmp_path):
    networks = build_networks(arch, shape, 3, variational=True)
    model = VAE(VAEConfig(input_dim=shape, latent_dim=3), *networks).eval()
    x = torch.rand(2, *shape)
    expected = model.encoder(x).embedding
    for folder in (tmp_path / "first", tmp_path / "second"):
        model.save(str(folder))
        with pytest.raises(ConfigError, match=r"decoder\.pkl can run any code .* trust=True"):
            AutoModel.load_from_folder(str(folder))
        model = AutoModel.load_from_folder(str(folder), trust=True).eval()
        assert torch.equal(model.encoder(x).embedding, expected)
        assert model.decoder(expected).reconstruction.shape == (2, *shape)


@pytest.mark.parametrize(
    ("arch", "shape", "latent_dim", "condition_dim", "message"),
    [
        ("convnett", (1, 8, 8), 2, 0, "did you mean 'convnet'"),
        ("resnet_fc3", (1, 8, 8), 2, 0, "did you mean 'resnet_fc4'"),
        ("fif_convnet", (1, 3, 8), 2, 0, "at least 4 x 4"),
        ("convnet", (7,), 2, 0, "at least 4 x 4"),
        ("convnet", (0, 8, 8), 2, 0, "at least 4 x 4"),
        ("tabular", (1, 8, 8), 2, 0, r"takes rows \(D,\) without labels"),
        ("tabular", (8,), 2, 3, r"takes rows \(D,\) without labels"),
    ],
)
def test_errors_are_one_line(arch, shape, latent_dim, condition_dim, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build_networks(arch, shape, latent_dim, condition_dim=condition_dim)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 26)])
def test_discriminator_gives_probabilities_and_the_layers_asked_for(shape):
    net = ConvDiscriminator(shape)
    output = net(torch.rand(2, *shape), output_layer_levels=[1, net.depth])
    assert output.embedding.shape == (2, 1)
    assert output.embedding.min() > 0 and output.embedding.max() < 1
    assert torch.equal(output[f"embedding_layer_{net.depth}"], output.embedding)
    assert output.embedding_layer_1.shape[:2] == (2, 32)
    assert "embedding_layer_2" not in output


class Transformer(BaseEncoder):
    """A Vision Transformer of timm, whose outputs are the code."""

    def __init__(self, latent_dim):
        timm = pytest.importorskip("timm")
        super().__init__()
        small = {"img_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": latent_dim}
        small |= {"embed_dim": 32, "depth": 2, "num_heads": 4}
        self.network = timm.create_model("vit_tiny_patch16_224", **small)

    def forward(self, x):
        return ModelOutput(embedding=self.network(x))


@pytest.fixture
def transformer():
    torch.manual_seed(0)
    config = FIFConfig(input_dim=(1, 8, 8), latent_dim=3, noise=0.0, hutchinson_samples=3)
    return FIF(config, Transformer(3), SmallDecoder((1, 8, 8), 3, residual=False)).train()


def test_a_transformer_of_ones_own_has_the_gradient_of_the_loss(transformer):
    """With K = d vectors that are orthogonal, the trace in it is exact."""
    model, x = transformer.double(), torch.rand(2, 1, 8, 8).double()
    model({"data": x}).loss.backward()
    weights = [*model.encoder.parameters()]
    ours = [p.grad for p in weights]

    def encode(x):
        return model.encoder(x[None]).embedding[0]

    def decode(z):
        return model.decoder(z[None]).reconstruction.flatten()

    losses = []
    for row in x:
        with sdpa_kernel(SDPBackend.MATH):  # its fast kernels are differentiated once
            inner = torch.autograd.functional.jacobian(encode, row, create_graph=True).flatten(1)
        z = encode(row)
        outer = torch.func.jacfwd(decode)(z).detach()
        error = model.model_config.beta * (decode(z) - row.flatten()).square().sum()
        losses.append(z.square().sum() / 2 - (inner @ outer).trace() + error)
    theirs = torch.autograd.grad(torch.stack(losses).mean(), weights)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_a_transformer_of_ones_own_trains(transformer):
    x = torch.rand(16, 1, 1, 1).expand(16, 1, 8, 8)
    optimizer = torch.optim.Adam(transformer.parameters(), lr=1e-3)
    errors = []
    for _ in range(60):
        output = transformer({"data": x})
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        errors.append(output.recon_loss.item())
    assert errors[-1] < 0.3 * errors[0]
    assert torch.isfinite(transformer.log_prob(x)).all()
