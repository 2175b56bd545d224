"""Free-form means any network: each of these trains, is scored, saved, loaded and resumed."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pythae.data.datasets import BaseDataset, DatasetOutput
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from support.trainings import Killed, assert_same_weights, kill_at
from torch import nn
from torch.nn.utils import parametrizations

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.errors import ConfigError
from pythae_fif.models import RectangularFlow, RectangularFlowConfig
from pythae_fif.models.fif import SlowerModeWarning
from pythae_fif.volume_change import surrogate
from pythae_fif.volume_change.conjugate_gradient import rectangular_surrogate
from pythae_fif.volume_change.operations import TwiceDifferentiable
from pythae_fif.volume_change.replay import record

D, N, d = 5, 16, 2  # data, what a block works on, latent space


class Block(nn.Module):
    """(B, 16) to (B, 16) by a function of the layers and the input."""

    def __init__(self, name):
        super().__init__()
        self.name = name
        layers, _ = BLOCKS[name]
        self.layers = layers() if layers else None

    def forward(self, x):
        return BLOCKS[self.name][1](self.layers, x)


def images(x):
    return x.view(-1, 1, 4, 4)


def tokens(x):
    return x.view(-1, 4, 4)


def heads(x):
    return x.view(-1, 2, 4, 2)


def of_images(layer):
    return layer, lambda layer, x: layer(images(x)).flatten(1)


def of_tokens(layer):
    return layer, lambda layer, x: layer(tokens(x)).flatten(1)


def function(apply):
    return None, lambda _, x: apply(x)


def timm_attention(qkv, x):
    t = tokens(x)
    q, k, v = qkv(t).reshape(len(t), 4, 3, 2, 2).permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(len(t), 16)


def masked(x):
    q, mask = heads(x), torch.ones(4, 4, dtype=torch.bool).triu(-1)
    out = F.scaled_dot_product_attention(q, q.flip(2), q.cos(), mask, scale=0.7)
    return (out + F.scaled_dot_product_attention(q, q, q, is_causal=True)).flatten(1)


def with_weights(attention, x):
    t = tokens(x).transpose(0, 1)
    out, weights = attention(t, t.sin(), t)
    return out.transpose(0, 1).flatten(1) + weights.flatten(1)


def in_place(x):
    h = x * 1.0
    h += x.sin()
    F.silu(h, inplace=True)
    h[:, :3] = h[:, 3:6].exp()
    out = torch.zeros_like(h)
    out[:, 1:] = h[:, 1:]
    out.mul_(2.0).add_(x)
    return out


def shapes(x):
    a, b = tokens(x).chunk(2, 1)
    c, e, *_ = tokens(x).split(1, 2)
    stacked = torch.stack([a, b.roll(1, 2)], 1).flip(-1)
    index = torch.tensor([[0, 2, 1, 3]]).expand(len(x), -1)
    picked = c.squeeze(2).gather(1, index) + e.expand(-1, -1, 3)[..., 1]
    return stacked.flatten(1) + picked.repeat(1, 4) + tokens(x).mT[:, :, [3, 1, 0, 2]].flatten(1)


def products(x):
    a, b = tokens(x), tokens(x).tanh()
    outer = x[:, :4, None] * x[:, None, 4:8]
    both = torch.einsum("bij,bjk->bki", a, b) + torch.bmm(a, b.mT) + outer
    return torch.baddbmm(both, a, b, beta=0.5, alpha=2.0).flatten(1)


def powers(x):
    p = x.square() + 0.5
    return p.log() + p.sqrt() + p.rsqrt() + p**1.5 + p.reciprocal() + (-p).exp() + 2.0**x + 1 / p


def pieces(x):
    y = x.roll(1, 1)
    a = x.sin() + x.cos() + x.abs() + x.clamp(-0.5, 0.5) + torch.maximum(x, y)
    return a * torch.where(x > y, x, y.exp()) + torch.minimum(x, 2 * y)


def reductions(x):
    t = tokens(x)
    whole = t.mean(1) + t.sum(2) + t.var(1) + t.norm(dim=2) + t.max(2).values + t.logsumexp(1)
    return x.cumsum(1) + whole.repeat(1, 4) + (x.std(1) + x.sum(1))[:, None]


def padded(x):
    image = images(x)
    out = F.pad(image, (1, 1, 1, 1), value=0.3)
    for mode in ("reflect", "replicate", "circular"):
        out = out + F.pad(image, (1, 1, 1, 1), mode=mode)
    return out[:, :, 1:5, :4].flatten(1)


def resized(x):
    image = images(x)
    out = F.interpolate(image, scale_factor=2)
    for mode in ("bilinear", "bicubic"):
        out = out + F.interpolate(image, (8, 8), mode=mode, align_corners=mode == "bilinear")
    return out[:, :, ::2, 1::2].flatten(1) + out[:, :, 3:7, 3:7].flatten(1)


def pooled(x):
    image = images(x)
    pools = F.max_pool2d(image, 2), F.avg_pool2d(image, 2), F.adaptive_avg_pool2d(image, 2)
    best, index = F.max_pool2d(image, 2, return_indices=True)
    back = F.max_unpool2d(best, index, 2)
    return sum(pools).repeat(1, 1, 2, 2).flatten(1) + back.flatten(1)


def sampled(layer, x):
    shift = 0.1 * layer(x).view(-1, 4, 4, 2)
    grid = F.affine_grid(torch.eye(2, 3)[None] * 0.8, [1, 1, 4, 4], align_corners=False)
    return F.grid_sample(images(x), grid + shift.tanh(), align_corners=False).flatten(1)


def smooth(x):
    y = F.gelu(x, approximate="tanh") + F.elu(x) + F.selu(x) + F.mish(x) + F.softplus(x, 2.0)
    return y + F.gelu(x) * F.silu(x) + x.sigmoid() * x.tanh() + F.glu(x.repeat(1, 2)) + F.celu(x)


def kinked(layer, x):
    y = F.leaky_relu(x, 0.2) + F.hardswish(x) + F.hardtanh(x) + F.relu6(x)
    return y + layer(x.view(-1, 2, 8)).flatten(1) + F.threshold(x, 0.1, 0.0)


def recurrent(layer, x):
    out, _ = layer(tokens(x))
    return out.flatten(1)


def cells(layer, x):
    h = c = x.new_zeros(len(x), 4)
    for step in tokens(x).unbind(1):
        h, c = layer["lstm"](step, (h, c))
        h = h + layer["gru"](step, h)
    return torch.cat([h, c, h * c, h.exp()], 1)


def distances(layer, x):
    return torch.cdist(x.view(-1, 8, 2), layer.weight).flatten(1)


def fourier(x):
    spectrum = torch.fft.rfft2(images(x))
    return torch.fft.irfft2(spectrum * torch.linspace(1, 2, 3), s=(4, 4)).flatten(1)


def arithmetic(layer, x):
    """By the operators and functions that no other block has."""
    y = torch.tanh(1.5 - x) @ layer.weight.T - torch.relu(x).mul(torch.linspace(1, 2, 16))
    return torch.add(x, y, alpha=-2) + layer(x).relu().div(2) / 1.5


def views(x):
    """Views and pools that no other block has."""
    t, space = tokens(x), x.view(-1, 2, 2, 2, 2)
    halves = t.narrow(2, 1, 2).movedim(2, 1).swapaxes(1, 2).tile(1, 1, 2).clone()
    halves = halves + t.select(2, 3).unsqueeze(1).to(x, copy=True) * x.unfold(1, 4, 4)
    halves = halves * t.index_select(1, torch.tensor([2, 0, 0, 1]))
    for pool in F.avg_pool1d, F.adaptive_avg_pool1d:
        halves = halves + pool(t.sin(), 2).repeat_interleave(2, 2)
    pools = F.avg_pool3d(space, 2) + F.adaptive_avg_pool3d(space.cos(), 1)
    return (halves.unflatten(1, (2, 2)) * pools.flatten(2).unsqueeze(2)).flatten(1)


def windows(layer, x):
    """Places behind the samples on one axis and back again, as in Swin."""
    t = x.view(-1, 2, 2, 4).permute(0, 2, 1, 3).reshape(-1, 2, 4)
    return layer(t).sin().view(-1, 2, 2, 4).permute(0, 2, 1, 3).reshape(-1, 16).t().cos().T


def batch_norm(f, x):
    statistics = f.running_mean, f.running_var
    return torch.batch_norm(x, f.weight + 1, f.bias, *statistics, f.training, 0.1, 1e-5, False)


class Scripted(nn.Module):
    """A module that hides its operations."""

    def __init__(self):
        super().__init__()
        self.inside = torch.jit.script(nn.Sequential(nn.Linear(16, 16), nn.Tanh()))

    def forward(self, x):
        return x + self.inside(x)


BLOCKS = {
    "layer norm": (lambda: nn.LayerNorm((4, 4)), lambda f, x: f(tokens(x)).flatten(1)),
    "group norm": (lambda: nn.GroupNorm(2, 4), lambda f, x: f(x.view(-1, 4, 2, 2)).flatten(1)),
    "instance norm": (
        lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        lambda f, x: f(x.view(-1, 4, 2, 2)).flatten(1),
    ),
    "instance norm of torch": (
        lambda: nn.GroupNorm(4, 4),  # for its weight and bias
        lambda f, x: torch.instance_norm(
            x.view(-1, 4, 2, 2), f.weight + 1, f.bias + 2, None, None, True, 0.1, 1e-5, False
        ).flatten(1),
    ),
    "batch norm of torch": (lambda: nn.BatchNorm1d(16), batch_norm),
    "rms norm": of_tokens(lambda: nn.RMSNorm(4)),
    "normalize": function(
        lambda x: F.normalize(x) + F.local_response_norm(tokens(x), 2).flatten(1)
    ),
    "softmax": function(lambda x: tokens(x).softmax(-1).flatten(1) + F.log_softmax(x, 1)),
    "attention with masks": function(masked),
    "attention as in timm": (lambda: nn.Linear(4, 12), timm_attention),
    "multihead attention": (lambda: nn.MultiheadAttention(4, 2), with_weights),
    "transformer encoder": of_tokens(
        lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.1, "gelu", batch_first=True)
    ),
    "transformer decoder": (
        lambda: nn.TransformerDecoderLayer(4, 2, 8, 0.0, batch_first=True, norm_first=True),
        lambda f, x: f(tokens(x), tokens(x).sin()).flatten(1),
    ),
    "smooth activations": function(smooth),
    "kinked activations": (lambda: nn.PReLU(2), kinked),
    "pooling": function(pooled),
    "adaptive max pooling": function(
        lambda x: x + F.adaptive_max_pool2d(images(x), 2).repeat(1, 1, 2, 2).flatten(1)
    ),
    "interpolation": function(resized),
    "pixel shuffle": function(
        lambda x: F.pixel_unshuffle(F.pixel_shuffle(x.view(-1, 4, 2, 2), 2).sin(), 4).flatten(1)
    ),
    "padding": function(padded),
    "fold and unfold": function(
        lambda x: F.fold(F.unfold(images(x), 2).tanh(), (4, 4), 2).flatten(1)
    ),
    "grid sample": (lambda: nn.Linear(16, 32), sampled),
    "shapes": function(shapes),
    "windows": (lambda: nn.Linear(4, 4), windows),
    "arithmetic": (lambda: nn.Linear(16, 16), arithmetic),
    "views and pools": function(views),
    "products": function(products),
    "powers": function(powers),
    "pieces": function(pieces),
    "an empty vector joined": function(lambda x: torch.cat([torch.tensor([]), x.sin()], 1)),
    "reductions": function(reductions),
    "in place": function(in_place),
    "dropout": (lambda: nn.Dropout(0.3, inplace=True), lambda f, x: f(x.sin()).exp()),
    "dropout of channels": (
        lambda: nn.Dropout2d(0.4),
        lambda f, x: f(x.view(-1, 4, 2, 2).sin()).flatten(1),
    ),
    "dropout that moves": (lambda: nn.AlphaDropout(0.3), lambda f, x: f(x.sin())),
    "spectral norm": (
        lambda: parametrizations.spectral_norm(nn.Linear(16, 16)),
        lambda f, x: f(x).sin(),
    ),
    "weight norm": (
        lambda: parametrizations.weight_norm(nn.Conv1d(4, 4, 1)),
        lambda f, x: f(tokens(x)).sin().flatten(1),
    ),
    "convolutions on a line": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 2, stride=2), nn.ConvTranspose1d(3, 2, 2, stride=2)),
        lambda f, x: f(x.view(-1, 2, 8)).sin().flatten(1),
    ),
    "convolutions and batch norm": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4), nn.Tanh(),
            nn.ConvTranspose2d(4, 4, 1),
        ),
        lambda f, x: f(x.view(-1, 4, 2, 2)).flatten(1),
    ),
    "convolutions in space": (
        lambda: nn.Sequential(nn.Conv3d(2, 3, 2), nn.Mish(), nn.ConvTranspose3d(3, 2, 2)),
        lambda f, x: f(x.view(-1, 2, 2, 2, 2)).flatten(1),
    ),
    "lstm": (lambda: nn.LSTM(4, 2, batch_first=True, bidirectional=True), recurrent),
    "gru": (lambda: nn.GRU(4, 4, num_layers=2, batch_first=True), recurrent),
    "gru with dropout": (lambda: nn.GRU(4, 4, 2, batch_first=True, dropout=0.3), recurrent),
    "recurrent cells": (
        lambda: nn.ModuleDict({"lstm": nn.LSTMCell(4, 4), "gru": nn.GRUCell(4, 4)}),
        cells,
    ),
    "distances": (lambda: nn.Embedding(2, 2), distances),
    "fourier": function(fourier),
    "scripted": (Scripted, lambda f, x: f(x)),
    "bilinear": (lambda: nn.Bilinear(16, 16, 16), lambda f, x: f(x, x.sin())),
}  # fmt: skip


WITH_STATE = (
    "instance norm", "dropout", "dropout of channels", "spectral norm", "weight norm", "lstm",
    "gru with dropout", "scripted",
)  # fmt: skip
"""Have more than weights to save, or draw."""


def rebuilt(cls, names):
    return cls(*names).double()


class Network(nn.Module):
    """Pickled by its names: parametrizations and scripted modules know no pickle."""

    def __init__(self, inputs, names, outputs):
        super().__init__()
        self.names = names
        self.layers = nn.Sequential(nn.Linear(inputs, N), *map(Block, names), nn.Linear(N, outputs))

    def __reduce__(self):
        return rebuilt, (type(self), self.names)


class Encoder(Network, BaseEncoder):
    def __init__(self, *names):
        super().__init__(D, names, d)

    def forward(self, x):
        return ModelOutput(embedding=self.layers(x))


class Decoder(Network, BaseDecoder):
    def __init__(self, *names):
        super().__init__(d, names, D)

    def forward(self, z):
        return ModelOutput(reconstruction=self.layers(z))


def fif(*names, **options):
    torch.manual_seed(0)
    config = FIFConfig(input_dim=(D,), latent_dim=d, noise=0.0, **options)
    return FIF(config, Encoder(*names), Decoder(*names)).double()


def points(count=4):
    return torch.randn(count, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gradient(model, seed=2):
    """Of a step with all random numbers the same."""
    torch.manual_seed(seed)
    model.zero_grad()
    model(DatasetOutput(data=points())).loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


FELL_BACK = {
    "dropout that moves": "operation torch.nn.functional.alpha_dropout",
    "gru with dropout": "operation torch.gru",
    "instance norm of torch": "forward mode has a wrong derivative",
    "scripted": "a module hides some of its operations",
}
"""Network -> what its warning names."""


@pytest.mark.parametrize("name", FELL_BACK)
def test_few_networks_fall_back_and_say_so_once(name):
    """Which ones do, the test of gradients asserts of every network."""
    model = fif(name).train()
    with pytest.warns(SlowerModeWarning) as caught:
        for _ in range(2):
            model(DatasetOutput(data=points()))
    (message,) = [str(w.message) for w in caught if w.category is SlowerModeWarning]
    assert FELL_BACK[name] in message


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.filterwarnings("ignore::pythae_fif.models.fif.SlowerModeWarning")
def test_gradient_and_density(name):
    """Against double backward in training mode, and Jacobians of reverse mode alone."""
    model = fif(name).train()
    found = gradient(model)
    assert model.surrogate_mode == ("backward" if name in FELL_BACK else "replay")
    expected = gradient(fif(name, mode="backward").train())
    assert (found - expected).norm() < 1e-10 * expected.norm()

    model.eval()
    x = points()
    z = model.embed(x).detach()
    jacobian = torch.stack(
        [torch.autograd.functional.jacobian(lambda v: model._decode(v[None])[0], row) for row in z]
    )
    volume = 0.5 * torch.logdet(jacobian.mT @ jacobian)
    log_prior = -0.5 * z.square().sum(1) - 0.5 * d * math.log(2 * math.pi)
    torch.testing.assert_close(model.log_prob(x), log_prior - volume, rtol=1e-10, atol=1e-10)


def slope(value, weights, directions, step=1e-5):
    """Of a number along a direction of the weights, by central difference."""
    ends = []
    for move in (step, -2 * step, step):
        with torch.no_grad():
            for weight, direction in zip(weights, directions, strict=True):
                weight.add_(direction, alpha=move)
        ends.append(float(value().detach()))
    return (ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize("name", sorted(set(BLOCKS) - {"grid sample", "in place", "scripted"}))
def test_gradient_of_the_exact_density_is_its_slope(name):
    """PyTorch's own is wrong of a layer norm's and of an instance norm's product."""
    model, x = fif(name).eval(), points()
    weights = list(model.parameters())
    directions = [torch.randn_like(weight) for weight in weights]
    options = {"estimator": "exact", "jacobian_at": "reconstruction"}
    eps = torch.empty(0)

    def log_prob():
        return model.log_prob(x, create_graph=True).sum()

    def of_rectangular_flow():
        out = rectangular_surrogate(model._encode, model._decode, x, eps, **options)
        return out.log_volume.sum()

    for value in (log_prob, of_rectangular_flow):
        found = torch.autograd.grad(value(), weights, allow_unused=True, materialize_grads=True)
        along = sum(float((g * v).sum()) for g, v in zip(found, directions, strict=True))
        assert along == pytest.approx(slope(value, weights, directions), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", ["layer norm", "group norm", "instance norm", "rms norm"])
@pytest.mark.parametrize("gradient_to", ["encoder", "decoder"])
@pytest.mark.parametrize("trace_space", ["latent", "data"])
def test_gradients_of_all_modes_agree_with_norms(name, gradient_to, trace_space):
    model, x = fif(name).train(), points()
    eps = torch.randn(2, 4, d if trace_space == "latent" else D, dtype=torch.float64)
    weights, found = list(model.parameters()), {}
    for mode in ("backward", "replay", "mixed", "forward"):
        if mode == "forward" and (gradient_to == "encoder") != (trace_space == "latent"):
            continue  # refused
        state = copy.deepcopy(model.state_dict())  # running statistics
        options = {"gradient_to": gradient_to, "trace_space": trace_space, "mode": mode}
        out = surrogate(model._encode, model._decode, x, eps, **options).surrogate.sum()
        found[mode] = torch.autograd.grad(
            out, weights, allow_unused=True, materialize_grads=True, retain_graph=True
        )
        if mode != "backward":
            torch.testing.assert_close(found[mode], found["backward"], rtol=1e-8, atol=1e-9)
        model.load_state_dict(state)


@pytest.mark.parametrize("autocast", [False, True])
def test_the_statistics_of_an_instance_norm_run_as_those_of_pytorch(autocast):
    ours = torch.nn.InstanceNorm1d(3, affine=True, track_running_stats=True)
    theirs, x = copy.deepcopy(ours), torch.randn(5, 3, 7)
    x = x.bfloat16() if autocast else x
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        with TwiceDifferentiable():
            found = ours(x), ours.eval()(x)
        torch.testing.assert_close(found, (theirs(x), theirs.eval()(x)))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_layer_norm_of_half_precision_is_that_of_pytorch(dtype):
    layer, x = nn.LayerNorm(64).to(dtype), (3 + torch.randn(5, 64)).to(dtype)
    with TwiceDifferentiable():
        found = layer(x)
    torch.testing.assert_close(found, layer(x), rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


def test_a_scripted_network_has_no_gradient_of_a_product():
    with pytest.raises(ConfigError, match=r"log_prob.*TorchScript"):
        fif("scripted").log_prob(points(), create_graph=True)
    with pytest.raises(ConfigError, match=r"mode='mixed'.*TorchScript"):
        fif("scripted", mode="mixed", gradient_to="decoder", trace_space="latent")
    config = RectangularFlowConfig(input_dim=(D,), latent_dim=d)
    with pytest.raises(ConfigError, match=r"RectangularFlow.*TorchScript"):
        RectangularFlow(config, Encoder("scripted"), Decoder("scripted"))


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.filterwarnings("ignore::pythae_fif.models.fif.SlowerModeWarning")
def test_a_part_of_the_batch_is_that_part_by_itself(name):
    if name in FELL_BACK:
        for options in ({"surrogate_fraction": 0.5}, {"surrogate_precision": "bfloat16"}):
            with pytest.raises(ConfigError, match="surrogate_fraction or "):
                fif(name, **options).train()(DatasetOutput(data=points()))
        return
    model = fif(name).eval()
    x, eps = points(4), torch.randn(2, 4, d, dtype=torch.float64)
    weights = list(model.encoder.parameters())
    for rows in (1, 2):
        values = [
            surrogate(model._encode, model._decode, rest, eps[:, :rows]).surrogate
            for rest in (x, x[:rows])
        ]
        torch.testing.assert_close(*values, rtol=1e-10, atol=1e-10)
        found = [
            torch.autograd.grad(v.sum(), weights, allow_unused=True, materialize_grads=True)
            for v in values
        ]
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-10)


@given(
    names=st.lists(st.sampled_from(sorted(set(BLOCKS) - set(FELL_BACK))), min_size=2, max_size=3),
    seed=st.integers(0, 99),
    samples=st.integers(1, 2),
    part=st.booleans(),
)
@settings(max_examples=12, deadline=None)
def test_random_networks_of_all_rules(names, seed, samples, part):
    """Replay is the explicit Jacobian, and its gradient that of double backward."""
    model = fif(*names).eval()
    generator = torch.Generator().manual_seed(seed)
    x, tangents = points(3), torch.randn(samples, 3 - part, D, generator=generator).double()
    weights = list(model.encoder.parameters())
    left = torch.randn(samples, 3 - part, d, generator=generator).double()
    products = record(model._encode, x).jvps(tangents)
    rows = x[: len(x) - part].clone().requires_grad_()
    with TwiceDifferentiable():
        jacobian = torch.stack(
            [
                torch.autograd.functional.jacobian(
                    lambda v: model._encode(v[None])[0], row, create_graph=True
                )
                for row in rows
            ]
        )
    expected = torch.einsum("bij,kbj->kbi", jacobian, tangents)
    assume(bool(expected.isfinite().all()))  # exponentials of exponentials
    torch.testing.assert_close(products, expected, rtol=1e-9, atol=1e-10)
    found, reference = (
        torch.autograd.grad((p * left).sum(), weights, allow_unused=True, materialize_grads=True)
        for p in (products, expected)
    )
    torch.testing.assert_close(found, reference, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", WITH_STATE)
@pytest.mark.filterwarnings("ignore::pythae_fif.models.fif.SlowerModeWarning")
def test_killed_resumed_saved_and_loaded(name, tmp_path):
    def train(folder, on_epoch=None):
        data = BaseDataset(points(), torch.ones(4))
        config = FIFTrainerConfig(num_epochs=2, per_device_train_batch_size=4, no_cuda=True)
        model, options = fif(name), {"checkpoint_every_seconds": 0, "on_epoch": on_epoch}
        FIFTrainer(model, data, None, config, run_dir=tmp_path / folder, **options).train()
        return model

    with pytest.raises(Killed):
        train("cut", kill_at(1))
    model = train("cut")
    assert_same_weights(model, train("whole"))
    model.save(str(tmp_path / "model"))
    loaded = FIF.load_from_folder(str(tmp_path / "model"), trust=True).eval()
    assert torch.equal(loaded.log_prob(points()), model.eval().log_prob(points()))
