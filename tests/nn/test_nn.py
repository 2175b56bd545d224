"""Every architecture by its contract, and the published parameter counts."""

import copy
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pythae.models import AE, VAE, AEConfig, AutoModel, VAEConfig
from sklearn.datasets import load_digits
from support.trainings import assert_same_weights
from torch import nn

from pythae_fif.errors import ConfigError
from pythae_fif.nn import (
    ARCHITECTURES,
    ConvDiscriminator,
    build_networks,
    poincare_networks,
    smooth_networks,
)

# Each architecture on a shape with nets of our own, or of the paper's.
CASES = [
    ("convnet", (1, 8, 8)),
    ("resnet", (1, 8, 8)),
    ("convnet", (3, 17, 20)),
    ("resnet", (3, 17, 20)),
    ("convnet", (1, 28, 28)),
    ("resnet", (1, 28, 28)),
    ("fif_convnet", (1, 28, 28)),
    ("fif_convnet", (1, 8, 8)),
    ("fif_convnet", (3, 17, 20)),
    ("fif_convnet", (3, 32, 32)),
    ("vit", (3, 64, 64)),
    ("vit", (2, 12, 20)),
    ("ldm", (1, 20, 12)),
    ("resnet_fc4", (1, 28, 28)),
    ("convnet_fc2", (1, 8, 8)),
    ("vit_fc2", (1, 8, 8)),
]


def count(*nets: torch.nn.Module) -> int:
    return sum(p.numel() for net in nets for p in net.parameters())


@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.parametrize(("arch", "shape"), CASES)
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
    assert image.min() >= 0 and image.max() <= 1
    assert image.std() > 0


@pytest.mark.parametrize("arch", ["convnet", "resnet", "vit"])
def test_codes_of_poincare_networks_lie_in_the_ball(arch):
    """However large the numbers of the layers before."""
    encoder, _ = poincare_networks(arch, (1, 8, 8), 5)
    x = torch.rand(8, 1, 8, 8)
    for scale in (1, 1e3):
        with torch.no_grad():
            for parameter in encoder.parameters():
                if parameter.shape[:1] == (5,):  # of the heads
                    parameter.mul_(scale)
            norm = encoder(x).embedding.norm(dim=1)
        assert (norm < 1).all() and (norm > 0).all()
    assert (norm > 0.9).all()


@pytest.mark.parametrize(("arch", "shape"), CASES)
def test_smooth_networks_are_the_same_nets_without_kinks(arch, shape):
    torch.manual_seed(0)
    rough = build_networks(arch, shape, 5)
    torch.manual_seed(0)
    for fine, net in zip(smooth_networks(arch, shape, 5), rough, strict=True):
        assert_same_weights(fine, net)
        assert not _kinks(fine)


def _kinks(net):
    return [layer for layer in net.modules() if isinstance(layer, nn.ReLU | nn.LeakyReLU)]


@pytest.mark.parametrize(
    ("arch", "shape"),
    {arch: (arch, shape) for arch, shape in sorted(CASES, key=lambda c: -math.prod(c[1]))}.values(),
)
def test_jacobians_of_smooth_networks_do_not_jump(arch, shape):
    """Along a line in parameters that of a net with kinks does."""
    jumps = []
    for build in (smooth_networks, build_networks):
        torch.manual_seed(0)
        encoder, _ = build(arch, shape, 5)
        x = torch.rand(1, *shape, dtype=torch.float64)
        jumps.append(_jump(encoder.double().eval(), x))
    fine, rough = jumps
    kinks = _kinks(encoder)
    assert fine < 1e-3 and (rough > 0.1 if kinks else rough == fine)


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
    arch=st.sampled_from(["convnet", "resnet"]),
    channels=st.integers(1, 4),
    height=st.integers(4, 40),
    width=st.integers(4, 40),
    latent_dim=st.integers(1, 8),
)
def test_small_nets_fit_any_size(arch, channels, height, width, latent_dim):
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
    ],
)
def test_parameter_counts_of_the_papers_tables(arch, shape, latent_dim, millions):
    digits = len(millions.split(".")[1])
    total = count(*build_networks(arch, shape, latent_dim))
    assert f"{total / 1e6:.{digits}f}" == millions


def test_fif_convnet_mnist_count_is_the_papers_cut_not_rounded():
    # Table 11 prints 3.3M; its rows with one transposed convolution less give this many.
    assert count(*build_networks("fif_convnet", (1, 28, 28), 16)) == 3_370_161


@pytest.mark.parametrize("arch", ["convnet", "resnet"])
def test_small_nets_on_digits_are_small(arch):
    assert 50_000 <= count(*build_networks(arch, (1, 8, 8), 4)) <= 150_000


@pytest.mark.parametrize("arch", ["convnet", "resnet", "vit", "ldm", "convnet_fc2"])
def test_small_nets_learn(arch):
    torch.manual_seed(0)
    encoder, decoder = build_networks(arch, (1, 8, 8), 4)
    before = copy.deepcopy([*encoder.parameters(), *decoder.parameters()])
    x = torch.rand(16, 1, 1, 1).expand(16, 1, 8, 8)
    if arch == "ldm":  # GroupNorm takes the brightness out of an image that has nothing else
        x = torch.tensor(load_digits().images[:32, None] / 16, dtype=torch.float32)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    losses = []
    for _ in range(60):
        loss = (decoder(encoder(x).embedding).reconstruction - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    after = [*encoder.parameters(), *decoder.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("variational", [False, True])
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


@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.parametrize(
    ("arch", "shape"),
    [
        ("convnet", (1, 8, 8)),
        ("resnet", (1, 9, 8)),
        ("fif_convnet", (1, 28, 28)),
        ("vit", (1, 8, 8)),
        ("ldm_fc2", (1, 8, 8)),
        ("resnet_fc4", (1, 28, 28)),
    ],
)
def test_survives_pythaes_save_and_load_twice(arch, shape, variational, tmp_path):
    encoder, decoder = build_networks(arch, shape, 3, variational=variational)
    config, cls = (VAEConfig, VAE) if variational else (AEConfig, AE)
    model = cls(config(input_dim=shape, latent_dim=3), encoder, decoder).eval()
    x = torch.rand(2, *shape)
    expected = model.encoder(x).embedding
    for folder in (tmp_path / "first", tmp_path / "second"):
        model.save(str(folder))
        model = AutoModel.load_from_folder(str(folder)).eval()
        assert torch.equal(model.encoder(x).embedding, expected)
        assert model.decoder(expected).reconstruction.shape == (2, *shape)


def test_saved_nets_load_without_this_package(tmp_path):
    shapes = {"resnet": (1, 8, 8), "fif_convnet": (1, 8, 8), "tabular": (7,)}
    for arch, shape in shapes.items():
        nets = build_networks(arch, shape, 3)
        AE(AEConfig(input_dim=shape, latent_dim=3), *nets).save(str(tmp_path / arch))
    code = (
        "import sys; sys.modules['pythae_fif'] = None\n"
        "from pythae.models import AutoModel\n"
        f"for folder in {[*shapes]}:\n"
        "    print(AutoModel.load_from_folder(folder).latent_dim)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.split() == ["3", "3", "3"], done.stderr


def test_listing_names_every_architecture():
    for name, line in ARCHITECTURES.items():
        build_networks(name, (784,) if name == "tabular" else (1, 28, 28), 2)
        assert line and "\n" not in line


@pytest.mark.parametrize(
    ("arch", "shape", "latent_dim", "message"),
    [
        ("convnett", (1, 8, 8), 2, "did you mean 'convnet'"),
        ("fif_convnet", (1, 3, 8), 2, "at least 4 x 4"),
        ("convnet", (7,), 2, "at least 4 x 4"),
        ("resnet", (1, 3, 8), 2, "at least 4 x 4"),
        ("convnet", (0, 8, 8), 2, "at least 4 x 4"),
        ("convnet", (1, 8, 8), 0, "latent_dim must be at least 1, not 0"),
        ("resnet_fc3", (1, 8, 8), 2, "did you mean 'resnet_fc4'"),
        ("vit", (3, 17, 20), 2, "'vit' needs images whose sides can be divided by 4"),
        ("ldm_fc2", (3, 34, 34), 2, "'ldm' needs images whose sides can be halved"),
    ],
)
def test_errors_are_one_line(arch, shape, latent_dim, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build_networks(arch, shape, latent_dim)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 9, 14)])
def test_discriminator_gives_probabilities_and_the_layers_asked_for(shape):
    net = ConvDiscriminator(shape)
    output = net(torch.rand(2, *shape), output_layer_levels=[1, net.depth])
    assert output.embedding.shape == (2, 1)
    assert output.embedding.min() > 0 and output.embedding.max() < 1
    assert torch.equal(output[f"embedding_layer_{net.depth}"], output.embedding)
    assert output.embedding_layer_1.shape[:2] == (2, 32)
    assert "embedding_layer_2" not in output


def test_a_condition_has_no_negative_length():
    with pytest.raises(ConfigError, match="condition_dim must be at least 0, not -1"):
        build_networks("convnet", (1, 8, 8), 2, condition_dim=-1)
