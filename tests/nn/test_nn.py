"""The contract of every architecture, and the published parameter counts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pythae_fif.errors import ConfigError
from pythae_fif.nn import (
    ConvDiscriminator,
    build_networks,
    poincare_networks,
    spatial_networks,
    spherical_networks,
)
from pythae_fif.nn.coupling import coupling_networks, tanh_coupling_networks
from pythae_fif.nn.recipe import get_recipe, rebuild

# Each architecture, for shapes with networks of this package and for shapes with the paper's.
CASES = [
    ("convnet", (1, 8, 8)),
    ("resnet", (3, 17, 20)),
    ("convnet", (1, 28, 28)),
    ("resnet", (1, 28, 28)),
    ("fif_convnet", (1, 28, 28)),
    ("fif_convnet", (3, 17, 20)),
    ("resnet_fc4", (1, 28, 28)),
    ("convnet_fc2", (1, 8, 8)),
    ("small_convnet", (3, 32, 32)),
    ("small_resnet", (3, 64, 64)),
    ("tabular", (7,)),
    ("tabular_relu", (7,)),
    ("tabular_small", (7,)),
]
every_case = pytest.mark.parametrize(("arch", "shape"), CASES)
variational_or_not = pytest.mark.parametrize("variational", [False, True])


def count_parameters(*networks):
    return sum(p.numel() for network in networks for p in network.parameters())


@variational_or_not
@every_case
def test_shapes_range_and_keys(arch, shape, variational):
    encoder, decoder = build_networks(arch, shape, 5, variational=variational)
    code = encoder(torch.rand(3, *shape))
    assert code.embedding.shape == (3, 5)
    assert ("log_covariance" in code) == variational
    if variational:
        assert code.log_covariance.shape == (3, 5)
        assert not torch.equal(code.log_covariance, code.embedding)

    image = decoder(10 * torch.randn(3, 5)).reconstruction
    assert image.shape == (3, *shape)
    assert image.std() > 0
    if arch.startswith("tabular"):  # without ReLU, as in the authors' code, unless it is asked for
        modules = (*encoder.modules(), *decoder.modules())
        assert any(isinstance(module, nn.ReLU) for module in modules) == (arch == "tabular_relu")
    else:
        assert image.min() >= 0
        assert image.max() <= 1


@every_case
def test_codes_on_a_sphere_in_a_ball_and_in_maps(arch, shape):
    x = torch.rand(8, *shape)
    if not arch.startswith("tabular"):
        encoder, decoder = spherical_networks(arch, shape, 5)
        assert encoder(x).log_concentration.shape == (8, 1)
        assert decoder(encoder(x).embedding).reconstruction.shape == x.shape

    norm = poincare_networks(arch, shape, 5)[0](1e4 * x).embedding.norm(dim=1)
    assert (norm < 1).all()
    assert (norm > 0).all()

    if arch.removeprefix("small_") in ("convnet", "resnet"):
        encoder, decoder = spatial_networks(arch, shape, 5)
        maps = encoder(x).embedding
        assert maps.dim() == 4
        assert maps.shape[1] == 5
        assert decoder(maps).reconstruction.shape == x.shape
    else:
        with pytest.raises(ConfigError, match=r"no maps of codes: use convnet or resnet$"):
            spatial_networks(arch, shape, 5)


@given(
    arch=st.sampled_from(["convnet", "resnet", "fif_convnet"]),
    channels=st.integers(1, 4),
    height=st.integers(4, 40),
    width=st.integers(4, 40),
    latent_dim=st.integers(1, 8),
)
def test_networks_fit_any_size(arch, channels, height, width, latent_dim):
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
    total = count_parameters(*build_networks(arch, shape, latent_dim))
    assert f"{total / 1e6:.{digits}f}" == millions


@pytest.mark.parametrize("arch", ["small_convnet", "small_resnet"])
def test_small_networks_grow_with_the_size(arch):
    sizes = [
        count_parameters(*build_networks(arch, (3, side, side), 8)) for side in range(8, 100, 8)
    ]
    assert sizes[1:] == sorted(sizes[1:])  # below 16 pixels there is a halving less
    assert sizes[-1] < 6e6


@variational_or_not
@pytest.mark.parametrize(("base", "shape"), [("convnet", (1, 8, 8)), ("resnet", (1, 28, 28))])
def test_latent_blocks_start_as_the_identity_and_have_table_11_s_size(base, shape, variational):
    x = torch.rand(2, *shape)
    z = torch.randn(2, 5)

    def evaluate(arch):
        torch.manual_seed(3)
        encoder, decoder = build_networks(arch, shape, 5, variational=variational)
        encoder.eval()
        decoder.eval()
        return encoder(x), decoder(z).reconstruction, count_parameters(encoder, decoder)

    base_code, base_image, base_count = evaluate(base)
    block_size = (5 * 512 + 512) + (512 * 512 + 512) + (512 * 5 + 5)
    for blocks in (2, 4):
        code, image, parameter_count = evaluate(f"{base}_fc{blocks}")
        assert all(torch.equal(code[key], base_code[key]) for key in base_code)
        assert torch.equal(image, base_image)
        assert parameter_count == base_count + 2 * blocks * block_size


@every_case
def test_networks_have_a_recipe_until_they_are_changed(arch, shape):
    networks = build_networks(arch, shape, 3)
    for name, network in zip(("encoder", "decoder"), networks, strict=True):
        recipe = get_recipe(network)
        rebuilt = rebuild(recipe, name)
        assert str(rebuilt) == str(network)
        rebuilt.load_state_dict(network.state_dict())
        with pytest.raises(ConfigError, match=r"networks.json has no .* of this version"):
            rebuild({**recipe, "structure": "0"}, name)
        network.register_buffer("more", torch.zeros(1))
        assert get_recipe(network) is None


@pytest.mark.parametrize(
    ("arch", "shape", "latent_dim", "condition_dim", "message"),
    [
        ("convnett", (1, 8, 8), 2, 0, "did you mean 'convnet'"),
        ("resnet_fc3", (1, 8, 8), 2, 0, "did you mean 'resnet_fc4'"),
        ("fif_convnet", (1, 3, 8), 2, 0, "at least 4 x 4"),
        ("convnet", (7,), 2, 0, "at least 4 x 4"),
        ("tabular", (1, 8, 8), 2, 0, r"takes rows \(D,\), not \(1, 8, 8\)"),
    ],
)
def test_errors_are_one_line(arch, shape, latent_dim, condition_dim, message):
    with pytest.raises(ConfigError, match=message):
        build_networks(arch, shape, latent_dim, condition_dim=condition_dim)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 26)])
def test_discriminator_gives_probabilities_and_the_outputs_of_layers(shape):
    discriminator = ConvDiscriminator(shape)
    depth = discriminator.depth
    output = discriminator(torch.rand(2, *shape), output_layer_levels=[1, depth])
    assert output.embedding.shape == (2, 1)
    assert output.embedding.min() > 0
    assert output.embedding.max() < 1
    assert torch.equal(output[f"embedding_layer_{depth}"], output.embedding)
    assert output.embedding_layer_1.shape[:2] == (2, 32)
    assert "embedding_layer_2" not in output


def hidden_widths(transforms, layers):
    """Returns the widths of the hidden layers of each coupling's network with so many layers."""
    biases = [len(bias) for name, bias in transforms.named_parameters() if name.endswith("bias")]
    size = layers + 1  # the last layer is the output
    return [biases[start : start + layers] for start in range(0, len(biases), size)]


def test_coupling_flows_have_the_published_sizes():
    encoder, decoder = coupling_networks("tabular", (6,), 3)
    assert encoder.flow is decoder.flow
    assert hidden_widths(encoder.flow.w, 2) == [[160] * 2] * 10
    assert hidden_widths(encoder.flow.h, 2) == [[160] * 2] * 5

    flow = tanh_coupling_networks("tabular", (6,), 3)[0].flow  # of rectangular flows' own code
    assert hidden_widths(flow.w, 4) == [[128] * 4] * 10
    assert hidden_widths(flow.h, 2) == [[32] * 2] * 5
    assert any(isinstance(module, nn.Tanh) for module in flow.modules())


@pytest.mark.parametrize("build", [coupling_networks, tanh_coupling_networks])
def test_small_coupling_flows_have_about_the_parameters_of_small_free_form_networks(build):
    for columns, latent_dim in ((6, 3), (43, 21)):
        flow_count = count_parameters(build("tabular_small", (columns,), latent_dim)[0])
        networks = build_networks("tabular_small", (columns,), latent_dim)
        assert 0.7 < flow_count / count_parameters(*networks) < 1.5
