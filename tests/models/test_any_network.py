"""A FIF takes any network: each of these is trained, scored, saved, loaded and resumed."""

import copy
import math
import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pythae.data.datasets import DatasetOutput
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from support.networks import Cubed
from torch import nn
from torch.autograd.functional import jacobian
from torch.nn.utils import parametrizations

from pythae_fif import FIF, FIFConfig
from pythae_fif.baselines import RectangularFlow, RectangularFlowConfig
from pythae_fif.errors import ConfigError, SlowerTrainingWarning
from pythae_fif.volume_change import autograd_surrogate, encoder_log_volume

D = 5  # data
N = 16  # inputs and outputs of a block
d = 2  # codes


class Block(nn.Module):
    """Maps (B, 16) to (B, 16) with a function of its layers and the input."""

    def __init__(self, name):
        super().__init__()
        self.name = name
        build, _ = BLOCKS[name]
        self.layers = build() if build else None

    def forward(self, x):
        _, apply = BLOCKS[self.name]
        return apply(self.layers, x)


def images(x):
    return x.view(-1, 1, 4, 4)


def tokens(x):
    return x.view(-1, 4, 4)


def on_tokens(build):
    return build, lambda layer, x: layer(tokens(x)).flatten(1)


def function(apply):
    return None, lambda _, x: apply(x)


def attention_and_its_weights(attention, x):
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
    upper, lower = tokens(x).chunk(2, 1)
    stacked = torch.stack([upper, lower.roll(1, 2)], 1).flip(-1)

    first, second, *_ = tokens(x).split(1, 2)
    index = torch.tensor([[0, 2, 1, 3]]).expand(len(x), -1)
    gathered = first.squeeze(2).gather(1, index) + second.expand(-1, -1, 3)[..., 1]
    transposed = tokens(x).transpose(1, 2)[:, :, [3, 1, 0, 2]]
    return stacked.flatten(1) + gathered.repeat(1, 4) + transposed.flatten(1)


def powers(x):
    p = x.square() + 0.5
    return p.log() + p.sqrt() + p.rsqrt() + p**1.5 + p.reciprocal() + (-p).exp() + 2.0**x + 1 / p


def reductions(x):
    t = tokens(x)
    sums = t.mean(1) + t.sum(2) + t.var(1) + t.norm(dim=2) + t.max(2).values + t.logsumexp(1)
    return x.cumsum(1) + sums.repeat(1, 4) + (x.std(1) + x.sum(1))[:, None]


def resized(x):
    image = images(x)
    out = F.interpolate(image, scale_factor=2)
    for mode in ("bilinear", "bicubic"):
        out = out + F.interpolate(image, (8, 8), mode=mode, align_corners=mode == "bilinear")
    return out[:, :, ::2, 1::2].flatten(1) + out[:, :, 3:7, 3:7].flatten(1)


def recurrent(layer, x):
    out, _ = layer(tokens(x))
    return out.flatten(1)


def arithmetic(layer, x):
    """Uses the operators and functions that no other block has."""
    y = torch.tanh(1.5 - x) @ layer.weight.T - torch.relu(x).mul(torch.linspace(1, 2, 16))
    return torch.add(x, y, alpha=-2) + layer(x).relu().div(2) / 1.5


def windows(layer, x):
    """Folds positions into the batch axis and back, as Swin does."""
    t = x.view(-1, 2, 2, 4).permute(0, 2, 1, 3).reshape(-1, 2, 4)
    return layer(t).sin().view(-1, 2, 2, 4).permute(0, 2, 1, 3).reshape(-1, 16).cos()


BLOCKS = {
    "layer norm": (lambda: nn.LayerNorm((4, 4)), lambda f, x: f(tokens(x)).flatten(1)),
    "group norm": (lambda: nn.GroupNorm(2, 4), lambda f, x: f(x.view(-1, 4, 2, 2)).flatten(1)),
    "instance norm": (
        lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        lambda f, x: f(x.view(-1, 4, 2, 2)).flatten(1),
    ),
    "rms norm": on_tokens(lambda: nn.RMSNorm(4)),
    "rounded": function(lambda x: x + x.round() * x.sign() + x.floor()),
    "softmax": function(lambda x: tokens(x).softmax(-1).flatten(1) + F.log_softmax(x, 1)),
    "multihead attention": (lambda: nn.MultiheadAttention(4, 2), attention_and_its_weights),
    "transformer encoder": on_tokens(
        lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.1, "gelu", batch_first=True)
    ),
    "interpolation": function(resized),
    "own function": function(lambda x: x + Cubed.apply(x)),
    "shapes": function(shapes),
    "windows": (lambda: nn.Linear(4, 4), windows),
    "arithmetic": (lambda: nn.Linear(16, 16), arithmetic),
    "powers": function(powers),
    "reductions": function(reductions),
    "in place": function(in_place),
    "dropout": (lambda: nn.Dropout(0.3, inplace=True), lambda f, x: f(x.sin()).exp()),
    "spectral norm": (
        lambda: parametrizations.spectral_norm(nn.Linear(16, 16)),
        lambda f, x: f(x).sin(),
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
    "gru": (lambda: nn.GRU(4, 4, batch_first=True), recurrent),
    "lstm": (lambda: nn.LSTM(4, 2, batch_first=True, bidirectional=True), recurrent),
    "in-place relu": (lambda: nn.ReLU(True), lambda f, x: f(x)),  # overwrites x
}  # fmt: skip


REPLAYED = {*BLOCKS} - {"gru", "lstm", "own function", "reductions", "in place"}
"""The other networks train by double backward."""
WITH_STATE = ("instance norm", "dropout", "spectral norm", "lstm")
"""Networks that have buffers or draw random numbers."""


def rebuild(cls, names):
    return cls(*names).double()


class Network(nn.Module):
    """Is pickled by its names, because parametrizations cannot be pickled."""

    def __init__(self, inputs, names, outputs):
        super().__init__()
        self.names = names
        self.layers = nn.Sequential(nn.Linear(inputs, N), *map(Block, names), nn.Linear(N, outputs))

    def __reduce__(self):
        return rebuild, (type(self), self.names)


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
    """Returns the gradient of a training step with seeded random numbers."""
    torch.manual_seed(seed)
    model.zero_grad()
    model(DatasetOutput(data=points())).loss.backward()
    gradients = [0 * p if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([tensor.flatten() for tensor in gradients])


def gradient_by_double_backward(model):
    """Returns the gradient of the next step, and leaves the model as it was."""
    state = copy.deepcopy(model.state_dict())
    model.surrogate = lambda *_: partial(autograd_surrogate, forward_mode=False)
    expected = gradient(model)
    del model.surrogate
    model.load_state_dict(state)
    return expected


@pytest.mark.parametrize("name", BLOCKS)
def test_gradient(name):
    """Compares with double backward, in training mode."""
    model = fif(name).train()
    expected = gradient_by_double_backward(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        first_step = gradient(model)
        if name not in WITH_STATE:
            torch.testing.assert_close(gradient(model), first_step)

    slower = [w for w in caught if w.category is SlowerTrainingWarning]
    assert model.surrogate_mode == ("replay" if name in REPLAYED else "double backward")
    assert len(slower) == (name not in REPLAYED)
    assert (first_step - expected).norm() < 1e-10 * expected.norm()


def reverse_mode_jacobians(function, rows):
    """Returns the Jacobian at each row, (B, outputs, inputs)."""
    return torch.stack([jacobian(lambda v: function(v[None])[0], row) for row in rows])


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.filterwarnings("ignore::pythae_fif.errors.SlowerTrainingWarning")
def test_density(name):
    """Compares with Jacobians of reverse mode, after a training step."""
    model = fif(name).train()
    gradient(model)
    model.eval()
    x = points()
    z = model.embed(x)
    decoder_jacobian = reverse_mode_jacobians(model._decode, z)
    encoder_jacobian = reverse_mode_jacobians(model._encode, x)

    log_prior = -0.5 * z.square().sum(1) - 0.5 * d * math.log(2 * math.pi)
    decoder_volume = 0.5 * torch.logdet(decoder_jacobian.mT @ decoder_jacobian)
    encoder_volume = 0.5 * torch.logdet(encoder_jacobian @ encoder_jacobian.mT)
    assert_close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
    assert_close(model.log_prob(x), log_prior - decoder_volume)
    assert_close(model.singular_values(x), torch.linalg.svdvals(decoder_jacobian))
    computed_volume = encoder_log_volume(model._encode, x)
    assert_close(computed_volume, encoder_volume)
    assert not computed_volume.requires_grad


COMBINATIONS = {
    "composition": lambda a, b, x: b(a(x)),
    "sum": lambda a, b, x: a(x) + b(x),
    "product": lambda a, b, x: a(x).sin() * b(x),
    "composition with a repeated": lambda a, b, x: a(b(a(x).sin()).sin()),
}


class Pair(nn.Module):
    """Two networks, where one reads the input or the output of the other."""

    def __init__(self, combination, a, b):
        super().__init__()
        self.combination = combination
        self.a = a
        self.b = b

    def forward(self, x):
        return COMBINATIONS[self.combination](self.a, self.b, x)


def test_a_network_may_overwrite_its_input():
    def evaluate(inplace):
        model = fif("rounded").train()
        x = points()
        for network in (model.encoder, model.decoder):
            network.layers.insert(0, nn.SiLU(inplace))
        return gradient(model), model.eval().log_prob(x), x

    torch.testing.assert_close(evaluate(inplace=False), evaluate(inplace=True))


NETWORKS = st.recursive(
    st.builds(Block, st.sampled_from([*sorted(REPLAYED) * 3, *BLOCKS])),
    lambda networks: st.builds(Pair, st.sampled_from(list(COMBINATIONS)), networks, networks),
    max_leaves=4,
)


@settings(max_examples=100)
@given(NETWORKS, NETWORKS, st.integers(1, 2))
@pytest.mark.filterwarnings("ignore::pythae_fif.errors.SlowerTrainingWarning")
def test_the_gradient_of_any_combination(encoder, decoder, count):
    """A network is either replayed correctly or not at all."""
    model = fif("rounded", hutchinson_samples=count).train()
    model.encoder.layers[1] = encoder.double()
    model.decoder.layers[1] = decoder.double()
    try:
        expected = gradient_by_double_backward(model)
    except RuntimeError as error:  # ordinary training fails, too
        assume("inplace" not in str(error))
        raise
    assume(expected.isfinite().all())
    assert (gradient(model) - expected).norm() <= 1e-9 * expected.norm()


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.filterwarnings("ignore::pythae_fif.errors.SlowerTrainingWarning")
def test_the_surrogate_of_a_part_of_the_batch_depends_only_on_that_part(name):
    model = fif(name, surrogate_fraction=0.5).train()
    x = points()
    model({"data": x})  # chooses the surrogate
    model.eval()
    eps = torch.randn(1, len(x), d, dtype=torch.float64)
    weights = [*model.encoder.parameters()]

    def surrogate_and_gradients(batch):
        surrogate = model.surrogate(batch)
        value = surrogate(model._encode, model._decode, batch, eps[:, :2]).surrogate
        gradients = torch.autograd.grad(
            value.sum(), weights, allow_unused=True, materialize_grads=True
        )
        return value, gradients

    value, gradients = surrogate_and_gradients(x)
    part_value, part_gradients = surrogate_and_gradients(x[:2])
    torch.testing.assert_close(value, part_value, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients, part_gradients, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["layer norm", "instance norm", "convolutions and batch norm"])
def test_a_rectangular_flow_refuses_norms_through_which_a_volume_has_no_gradient(name):
    config = RectangularFlowConfig(input_dim=(D,), latent_dim=d)
    with pytest.raises(ConfigError, match=r"gradient of a volume is wrong through"):
        RectangularFlow(config, Encoder(name), Decoder(name))
    model = RectangularFlow(config)
    for replace_network, network in (
        (model.set_encoder, Encoder(name)),
        (model.set_decoder, Decoder(name)),
    ):
        with pytest.raises(ConfigError, match=r"gradient of a volume is wrong through"):
            replace_network(network)


@pytest.mark.parametrize(
    ("fraction", "operation", "message"),
    [
        (1.0, lambda x: F.rrelu(x, training=True), ".*rrelu has no replay rule"),
        (0.5, lambda x: x * torch.rand(len(x), 1).round(), "mixes the samples of a batch"),
    ],
)
def test_an_operation_that_only_training_mode_has(fraction, operation, message):
    class TrainingOnly(nn.Module):
        def forward(self, x):
            return operation(x) if self.training else x

    model = fif("rounded", surrogate_fraction=fraction).train()
    model.encoder.layers.insert(1, TrainingOnly())
    with pytest.warns(SlowerTrainingWarning, match=message):
        model({"data": points()}).loss.backward()
    assert model.surrogate_mode == "double backward"
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_new_network_is_replayed_if_it_can_be():
    model = fif("rounded").train()
    gradient(model)
    assert model.surrogate_mode == "replay"
    model.set_encoder(Encoder("own function").double())
    with pytest.warns(SlowerTrainingWarning):
        gradient(model)


@pytest.mark.filterwarnings("ignore::pythae_fif.errors.SlowerTrainingWarning")
@pytest.mark.parametrize("name", ["own function", "layer norm", "arithmetic"])
@pytest.mark.parametrize("options", [{}, {"hutchinson_samples": 2, "surrogate_fraction": 0.5}])
def test_each_step_runs_each_network_once(name, options):
    """BatchNorm's statistics move once in each step, also in the first, which tries a replay."""
    model = fif(name, "convolutions and batch norm", **options).train()
    counts = []
    for _ in range(3):
        model({"data": points()})
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        counts.append([int(norm.num_batches_tracked) for norm in norms])
    assert counts == [[1, 1], [2, 2], [3, 3]]
