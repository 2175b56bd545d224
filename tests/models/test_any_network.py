"""Free-form means any network: each of these trains, is scored, saved, loaded and resumed."""

import copy
import math
import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pythae.data.datasets import BaseDataset, DatasetOutput
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from support.networks import Cubed
from support.trainings import Killed, assert_same_weights, kill_at
from torch import nn
from torch.autograd.functional import jacobian
from torch.nn.utils import parametrizations

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.errors import ConfigError
from pythae_fif.models import RectangularFlow, RectangularFlowConfig
from pythae_fif.models.fif import SlowerSurrogateWarning
from pythae_fif.volume_change import autograd_surrogate, encoder_log_volume

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


def of_tokens(layer):
    return layer, lambda layer, x: layer(tokens(x)).flatten(1)


def function(apply):
    return None, lambda _, x: apply(x)


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
    return (
        stacked.flatten(1)
        + picked.repeat(1, 4)
        + tokens(x).transpose(1, 2)[:, :, [3, 1, 0, 2]].flatten(1)
    )


def powers(x):
    p = x.square() + 0.5
    return p.log() + p.sqrt() + p.rsqrt() + p**1.5 + p.reciprocal() + (-p).exp() + 2.0**x + 1 / p


def reductions(x):
    t = tokens(x)
    whole = t.mean(1) + t.sum(2) + t.var(1) + t.norm(dim=2) + t.max(2).values + t.logsumexp(1)
    return x.cumsum(1) + whole.repeat(1, 4) + (x.std(1) + x.sum(1))[:, None]


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
    """By the operators and functions that no other block has."""
    y = torch.tanh(1.5 - x) @ layer.weight.T - torch.relu(x).mul(torch.linspace(1, 2, 16))
    return torch.add(x, y, alpha=-2) + layer(x).relu().div(2) / 1.5


def windows(layer, x):
    """Places behind the samples on one axis and back again, as in Swin."""
    t = x.view(-1, 2, 2, 4).permute(0, 2, 1, 3).reshape(-1, 2, 4)
    return layer(t).sin().view(-1, 2, 2, 4).permute(0, 2, 1, 3).reshape(-1, 16).cos()


BLOCKS = {
    "layer norm": (lambda: nn.LayerNorm((4, 4)), lambda f, x: f(tokens(x)).flatten(1)),
    "group norm": (lambda: nn.GroupNorm(2, 4), lambda f, x: f(x.view(-1, 4, 2, 2)).flatten(1)),
    "instance norm": (
        lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        lambda f, x: f(x.view(-1, 4, 2, 2)).flatten(1),
    ),
    "rms norm": of_tokens(lambda: nn.RMSNorm(4)),
    "rounded": function(lambda x: x + x.round() * x.sign() + x.floor()),
    "softmax": function(lambda x: tokens(x).softmax(-1).flatten(1) + F.log_softmax(x, 1)),
    "multihead attention": (lambda: nn.MultiheadAttention(4, 2), with_weights),
    "transformer encoder": of_tokens(
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
    "in-place relu": (lambda: nn.ReLU(True), lambda f, x: f(x)),  # what else reads x has the result
}  # fmt: skip


REPLAYED = {
    "arithmetic", "convolutions and batch norm", "convolutions on a line", "in-place relu",
    "interpolation", "powers", "rounded", "shapes", "softmax", "spectral norm", "windows",
}  # fmt: skip
"""The other networks train by double backward."""
WITH_STATE = ("instance norm", "dropout", "spectral norm", "lstm")
"""Have more than weights to save, or draw."""


def rebuilt(cls, names):
    return cls(*names).double()


class Network(nn.Module):
    """Pickled by its names: parametrizations know no pickle."""

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
    return torch.cat([(0 * p if p.grad is None else p.grad).flatten() for p in model.parameters()])


def gradient_by_double_backward(model):
    """Of the next step, before which the model is as it was."""
    state = copy.deepcopy(model.state_dict())
    model._surrogate = lambda *_: partial(autograd_surrogate, forward_mode=False)
    found = gradient(model)
    del model._surrogate
    model.load_state_dict(state)
    return found


@pytest.mark.parametrize("name", BLOCKS)
def test_gradient_and_density(name):
    """Against double backward in training mode, and Jacobians of reverse mode alone."""
    model = fif(name).train()
    expected = gradient_by_double_backward(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = gradient(model)
        torch.testing.assert_close(gradient(model) if name not in WITH_STATE else found, found)
    told = [w for w in caught if w.category is SlowerSurrogateWarning]
    assert model.surrogate_mode == ("replay" if name in REPLAYED else "double backward")
    assert len(told) == (name not in REPLAYED)
    assert (found - expected).norm() < 1e-10 * expected.norm()

    model.eval()
    x = points()
    z = model.embed(x)
    decoder, encoder = (
        torch.stack([jacobian(lambda v, f=function: f(v[None])[0], row) for row in rows])
        for function, rows in ((model._decode, z), (model._encode, x))
    )
    log_prior = -0.5 * z.square().sum(1) - 0.5 * d * math.log(2 * math.pi)
    found = model.log_prob(x), model.singular_values(x), encoder_log_volume(model._encode, x)
    expected = (
        log_prior - 0.5 * torch.logdet(decoder.mT @ decoder),
        torch.linalg.svdvals(decoder),
        0.5 * torch.logdet(encoder @ encoder.mT),
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert not found[2].requires_grad


JOINED = {
    "after": lambda a, b, x: b(a(x)),
    "beside": lambda a, b, x: a(x) + b(x),
    "times": lambda a, b, x: a(x).sin() * b(x),
    "twice": lambda a, b, x: a(b(a(x).sin()).sin()),
}


class Pair(nn.Module):
    """Two networks in which the one works on what the other reads or has made."""

    def __init__(self, how, a, b):
        super().__init__()
        self.how, self.a, self.b = how, a, b

    def forward(self, x):
        return JOINED[self.how](self.a, self.b, x)


def test_a_network_may_overwrite_its_input():
    found = []
    for inplace in (False, True):
        model, x = fif("rounded").train(), points()
        for network in (model.encoder, model.decoder):
            network.layers.insert(0, nn.SiLU(inplace))
        found.append((gradient(model), model.eval().log_prob(x), x))
    torch.testing.assert_close(*found)


NETWORKS = st.recursive(
    st.builds(Block, st.sampled_from([*sorted(REPLAYED) * 3, *BLOCKS])),
    lambda some: st.builds(Pair, st.sampled_from(list(JOINED)), some, some),
    max_leaves=4,
)


@settings(max_examples=100)
@given(NETWORKS, NETWORKS, st.integers(1, 2))
@pytest.mark.filterwarnings("ignore::pythae_fif.models.fif.SlowerSurrogateWarning")
def test_the_gradient_of_any_combination(encoder, decoder, count):
    """A network is replayed rightly, or not at all."""
    model = fif("rounded", hutchinson_samples=count).train()
    model.encoder.layers[1], model.decoder.layers[1] = encoder.double(), decoder.double()
    try:
        expected = gradient_by_double_backward(model)
    except RuntimeError as error:  # which ordinary training has, too
        assume("inplace" not in str(error))
        raise
    assume(expected.isfinite().all())
    assert (gradient(model) - expected).norm() <= 1e-9 * expected.norm()


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.filterwarnings("ignore::pythae_fif.models.fif.SlowerSurrogateWarning")
def test_a_part_of_the_batch_is_that_part_by_itself(name):
    model, x = fif(name, surrogate_fraction=0.5).train(), points()
    model({"data": x})  # chooses
    model.eval()
    eps = torch.randn(1, len(x), d, dtype=torch.float64)
    weights = [*model.encoder.parameters()]
    values = [
        model._surrogate(rest)(model._encode, model._decode, rest, eps[:, :2]).surrogate
        for rest in (x, x[:2])
    ]
    torch.testing.assert_close(*values, rtol=1e-10, atol=1e-10)
    options = {"allow_unused": True, "materialize_grads": True}
    found = [torch.autograd.grad(value.sum(), weights, **options) for value in values]
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["layer norm", "instance norm", "convolutions and batch norm"])
def test_a_rectangular_flow_refuses_norms_through_which_a_volume_has_no_gradient(name):
    config = RectangularFlowConfig(input_dim=(D,), latent_dim=d)
    with pytest.raises(ConfigError, match=r"gradient of a volume is wrong through"):
        RectangularFlow(config, Encoder(name), Decoder(name))


@pytest.mark.parametrize(
    ("share", "operation", "message"),
    [
        (1.0, lambda x: F.rrelu(x, training=True), ".*rrelu has no replay rule"),
        (0.5, lambda x: x * torch.rand(len(x), 1).round(), "mixes the samples of a batch"),
    ],
)
def test_an_operation_of_training_mode_alone(share, operation, message):
    class Drawing(nn.Module):
        def forward(self, x):
            return operation(x) if self.training else x

    model = fif("rounded", surrogate_fraction=share).train()
    model.encoder.layers.insert(1, Drawing())
    with pytest.warns(SlowerSurrogateWarning, match=message):
        model({"data": points()}).loss.backward()
    assert model.surrogate_mode == "double backward"
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_new_network_is_replayed_if_it_can_be():
    model = fif("rounded").train()
    gradient(model)
    assert model.surrogate_mode == "replay"
    model.set_encoder(Encoder("own function").double())
    with pytest.warns(SlowerSurrogateWarning):
        gradient(model)


@pytest.mark.filterwarnings("ignore::pythae_fif.models.fif.SlowerSurrogateWarning")
@pytest.mark.parametrize("name", ["own function", "layer norm", "arithmetic"])
@pytest.mark.parametrize("options", [{}, {"hutchinson_samples": 2, "surrogate_fraction": 0.5}])
def test_each_step_runs_each_network_once(name, options):
    """Whatever the first step, which chooses, has tried: BatchNorm moves once a step."""
    model, counts = fif(name, "convolutions and batch norm", **options).train(), []
    for _ in range(3):
        model({"data": points()})
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        counts.append([int(norm.num_batches_tracked) for norm in norms])
    assert counts == [[1, 1], [2, 2], [3, 3]]


@pytest.mark.parametrize("name", WITH_STATE)
@pytest.mark.filterwarnings("ignore::pythae_fif.models.fif.SlowerSurrogateWarning")
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
