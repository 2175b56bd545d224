"""The rule of each operation, compared with full Jacobians and their gradients in float64."""

import math
import re
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd.functional import jacobian
from torch.nn.utils import parametrizations
from torchvision import models
from torchvision.models.convnext import CNBlockConfig

from pythae_fif.volume_change import autograd_surrogate, sample_hutchinson, volume_surrogate
from pythae_fif.volume_change.replay import Tape
from pythae_fif.volume_change.rules import RULE_NAMES

pytestmark = pytest.mark.usefixtures("float64")
ROOT = Path(__file__).resolve().parents[2]
B = 3


class Function(nn.Module):
    """A function of the input and of layers."""

    def __init__(self, function, *layers):
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        return self.function(x, *self.layers)


def draw_weights(module):
    """Draws all weights: norms start at 1, where mistakes would not show."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn_like(weight) / 2)
    return module


def assert_is_derivative(module, x, seed=0):
    """Compares J v and the gradient of <u, J v> by x and all weights with those of autograd."""
    x.requires_grad_()
    inputs = [x, *module.parameters()]
    v = torch.randn_like(x)

    def run(x):
        torch.manual_seed(seed)
        return module(x)

    product = Tape(run, x).jvp(v)
    matrix = jacobian(run, x, create_graph=True)
    expected = (matrix.flatten(product.dim()) @ v.flatten()).view_as(product)
    torch.testing.assert_close(product, expected)

    u = torch.randn_like(product)
    options = {"allow_unused": True, "materialize_grads": True}
    actual_gradients = torch.autograd.grad((u * product).sum() + 0 * x.sum(), inputs, **options)
    gradients = torch.autograd.grad((u * expected).sum() + 0 * x.sum(), inputs, **options)
    for actual_gradient, gradient in zip(actual_gradients, gradients, strict=True):
        torch.testing.assert_close(actual_gradient, gradient)


def hard_sigmoid(x):
    """PyTorch's own has no second derivative."""
    return F.relu6(x + 3) / 6


def attend(x, attention):
    out, weights = attention(x, x.sin(), x * 2)
    return out + weights.sum(-1, keepdim=True)


def add_in_place(x):
    out = x * 2
    out += x.sin()
    out *= x
    out -= 1
    return F.relu_(out / 3)


MODULES = {
    "LayerNorm": (lambda: nn.LayerNorm(4), (4, 4)),
    "LayerNorm of a matrix without weights": (lambda: nn.LayerNorm((4, 4), 0.1, False), (4, 4)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (4, 2, 2)),
    "GroupNorm without weights": (lambda: nn.GroupNorm(4, 4, affine=False), (4, 3)),
    "InstanceNorm": (lambda: nn.InstanceNorm2d(4, affine=True), (4, 2, 2)),
    "InstanceNorm in evaluation mode": (
        lambda: nn.InstanceNorm1d(4, track_running_stats=True).eval(),
        (4, 3),
    ),
    "RMSNorm": (lambda: nn.RMSNorm(4), (4, 4)),
    "PReLU": (nn.PReLU, (4, 4)),
    "PReLU with a slope per channel": (lambda: nn.PReLU(4), (4, 2, 2)),
    "GELU": (nn.GELU, (16,)),
    "GELU by tanh": (lambda: nn.GELU("tanh"), (16,)),
    "Mish": (nn.Mish, (16,)),
    "Hardswish": (nn.Hardswish, (16,)),
    "GLU": (lambda: nn.GLU(1), (4, 3)),
    "Tanh": (nn.Tanh, (16,)),
    "Softmax": (lambda: nn.Softmax(1), (4, 3)),
    "MultiheadAttention": (
        lambda: Function(attend, nn.MultiheadAttention(4, 2, batch_first=True)),
        (3, 4),
    ),
    "TransformerEncoderLayer": (
        lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.2, "gelu", batch_first=True),
        (3, 4),
    ),
    "Dropout": (lambda: nn.Dropout(0.4), (16,)),
    "Dropout in place": (lambda: Function(lambda x, f: f(x.sin()), nn.Dropout(0.4, True)), (16,)),
    "Dropout of channels": (lambda: nn.Dropout2d(0.5), (4, 2, 2)),
    "MaxPool": (lambda: nn.MaxPool1d(2), (2, 4)),
    "AdaptiveMaxPool": (lambda: nn.AdaptiveMaxPool2d(2), (1, 4, 4)),
    "AdaptiveAvgPool": (lambda: nn.AdaptiveAvgPool1d(2), (2, 5)),
    "LPPool": (lambda: nn.LPPool1d(2, 2), (2, 4)),
    "Upsample": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), (1, 3, 3)),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), (4, 2, 2)),
    "Unfold": (lambda: nn.Unfold(2), (1, 3, 3)),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(4, 3)), (4,)),
    "in place": (lambda: Function(add_in_place), (16,)),
    "einsum": (lambda: Function(lambda x: torch.einsum("bij,bkj->bik", x, x.exp())), (3, 4)),
    "stack": (lambda: Function(lambda x: torch.stack([x, x.sin(), torch.ones_like(x)])), (4,)),
    "embedding": (
        lambda: Function(
            lambda x, f: torch.cat([x, f(torch.arange(len(x)))], 1).sin(), nn.Embedding(B, 2)
        ),
        (4,),
    ),
    "products added": (
        lambda: Function(
            lambda x, f: (
                torch.addcmul(torch.addmm(x, x, f.weight, beta=2), x, x, value=3)
                + torch.baddbmm(x[..., None], x[:, :, None], x[:, None, :1])[..., 0]
            ),
            nn.Linear(4, 4),
        ),
        (4,),
    ),
    "like": (
        lambda: Function(
            lambda x: (
                x.sin().view(-1).view_as(x)
                + x[:, :1].expand_as(x).type_as(x)
                + torch.ones(4).expand_as(x)
            )
        ),
        (4,),
    ),
    "statistics": (
        lambda: Function(
            lambda x: F.normalize(x) + x.var(1, keepdim=True) * x.cumsum(1) + x.mT.std()
        ),
        (4, 3),
    ),
    "a list that changes": (
        lambda: Function(lambda x: (h := [x, x.sin()], torch.cat(h, 1), h.append(x))[1]),
        (4,),
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_products_and_gradients(name):
    build, shape = MODULES[name]
    assert_is_derivative(draw_weights(build()), torch.randn(B, *shape))


@pytest.mark.parametrize("dropout", [nn.Dropout(0.0), nn.Dropout2d(0.0), nn.Dropout(0.5).eval()])
def test_dropout_that_drops_nothing_is_no_operation(dropout):
    """Masks of ones would be kept for the backward pass: a third of a transformer's memory."""
    x = torch.randn(B, 4, 2, 2)
    assert Tape(dropout, x).value is x


def test_hardsigmoid_has_a_second_derivative():
    x = torch.linspace(-4, 4, 16).view(2, 8).requires_grad_()
    v = torch.randn_like(x)
    product = Tape(lambda x: F.hardsigmoid(x.sin() * 4), x).jvp(v)
    expected = torch.func.jvp(lambda x: hard_sigmoid(x.sin() * 4), (x,), (v,))[1]
    torch.testing.assert_close(product, expected)
    gradients = [torch.autograd.grad(out.square().sum(), x)[0] for out in (product, expected)]
    torch.testing.assert_close(*gradients)


SIZES = st.integers(1, 3)


@settings(max_examples=40)
@given(st.data())
def test_norms_of_any_shape(data):
    samples, groups, width = data.draw(SIZES), data.draw(SIZES), data.draw(SIZES)
    sides = data.draw(st.lists(SIZES, max_size=2))
    affine = data.draw(st.booleans())
    options = {"eps": 0.1, "affine": affine}
    shape = (groups * width, *sides, 2)
    norm = data.draw(st.sampled_from(["group", "layer", "rms", "instance"]))
    if norm == "group":
        module = nn.GroupNorm(groups, groups * width, **options)
    elif norm == "instance":
        build = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[len(sides)]
        track = data.draw(st.booleans())
        module = build(shape[0], track_running_stats=track, **options)
        module.train(data.draw(st.booleans()))
    else:
        build = nn.LayerNorm if norm == "layer" else nn.RMSNorm
        count = data.draw(st.integers(1, len(shape)))
        module = build(shape[-count:], 0.1, affine)
    assert_is_derivative(draw_weights(module), torch.randn(samples, *shape))


@settings(max_examples=40)
@given(st.data())
def test_attention_of_any_kind(data):
    queries, keys = data.draw(SIZES), data.draw(SIZES)
    mask = data.draw(st.sampled_from(["none", "causal", "bool", "float"]))
    options = {
        "dropout_p": data.draw(st.sampled_from([0.0, 0.3])),
        "scale": data.draw(st.sampled_from([None, 0.5])),
        "enable_gqa": data.draw(st.booleans()),
    }
    if mask == "causal":
        options["is_causal"] = True
    elif mask != "none":
        bias = torch.randn(queries, keys)
        seen = (bias > 0).index_fill(1, torch.tensor(0), True)  # each query sees a key
        options["attn_mask"] = bias if mask == "float" else seen

    def attend(x):
        query, key, value = x.split([queries, keys, keys], 2)
        heads = 1 if options["enable_gqa"] else 2
        return F.scaled_dot_product_attention(query, key[:, :heads], value[:, :heads], **options)

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert_is_derivative(Function(attend), torch.randn(2, 2, queries + 2 * keys, 3))


@settings(max_examples=30)
@given(st.data())
def test_multihead_attention_of_any_kind(data):
    batch_first, add_zero_attn, separate = (data.draw(st.booleans()) for _ in range(3))
    need_weights, average_weights = (data.draw(st.booleans()) for _ in range(2))
    attention = nn.MultiheadAttention(
        4,
        2,
        bias=data.draw(st.booleans()),
        add_bias_kv=data.draw(st.booleans()),
        add_zero_attn=add_zero_attn,
        kdim=3 if separate else None,
        batch_first=batch_first,
    )
    mask = torch.tensor([False, False, True]).expand(2, -1) if data.draw(st.booleans()) else None

    def attend(x, attention):
        key = x[..., :3] if separate else x.sin()
        value = x if separate else x * 2
        inputs = [t if batch_first else t.transpose(0, 1) for t in (x, key, value)]
        out, weights = attention(
            *inputs,
            key_padding_mask=mask,
            need_weights=need_weights,
            average_attn_weights=average_weights,
        )
        return out if weights is None else out.sum() * weights

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert_is_derivative(draw_weights(Function(attend, attention)), torch.randn(2, 3, 4))


NETWORKS = {
    "resnet18": lambda: models.resnet18(num_classes=2),
    "efficientnet_b0": lambda: models.efficientnet_b0(num_classes=2),
    "convnext": lambda: models.ConvNeXt(
        [CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 2)], 0.1, num_classes=2
    ),
    "vit": lambda: models.VisionTransformer(32, 8, 2, 4, 16, 32, num_classes=2),
    "swin": lambda: models.SwinTransformer([4, 4], 12, [2, 2], [3, 6], [2, 2], num_classes=2),
    "densenet": lambda: models.DenseNet(4, (2, 2), 8, 2, num_classes=2),
    "timm": lambda: timm.create_model(
        "vit_tiny_patch16_224", num_classes=2, img_size=32, patch_size=8, embed_dim=16, depth=2,
        num_heads=4, drop_path_rate=0.1,
    ),
}  # fmt: skip
"""Networks of torchvision and timm, made small by their own settings."""


@pytest.mark.parametrize("name", ["LayerNorm of a matrix without weights", "GroupNorm", "PReLU"])
def test_products_under_autocast_are_close(name):
    torch.set_default_dtype(torch.float32)
    build, shape = MODULES[name]
    features = math.prod(shape)
    layers = nn.Linear(features, features), nn.Unflatten(1, shape), draw_weights(build())
    encode, x, v = nn.Sequential(*layers), torch.randn(B, features), torch.randn(B, features)

    def gradient():
        product = Tape(encode, x).jvp(v)
        (weights,) = torch.autograd.grad(product.float().square().sum(), layers[0].weight)
        return weights

    expected = gradient()
    with torch.autocast("cpu", torch.bfloat16):
        assert 0 < (gradient() - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_torchvision_and_timm(name):
    """They are replayed in training mode, with the gradient of `autograd_surrogate`."""
    encoder = NETWORKS[name]().double()
    decoder = nn.Sequential(nn.Linear(2, 3 * 32 * 32), nn.Unflatten(1, (3, 32, 32)))
    x = torch.rand(2, 3, 32, 32)
    eps = sample_hutchinson(2, 2)

    def gradient(surrogate):
        torch.manual_seed(1)  # of dropout
        out = surrogate(encoder, decoder, x, eps)
        loss = out.surrogate.sum() + out.z.square().sum()
        gradients = torch.autograd.grad(loss, [*encoder.parameters()])
        return torch.cat([gradient.flatten() for gradient in gradients])

    expected = gradient(partial(autograd_surrogate, forward_mode=False))
    assert (gradient(volume_surrogate) - expected).norm() < 1e-10 * expected.norm()


def test_the_documentation_lists_the_operations_with_a_rule():
    page = (ROOT / "docs/reference/volume_change.md").read_text("utf-8")
    _, _, section = page.partition("## What can be replayed")
    lists = dict(re.findall(r"^\| ([\w ]+) \| `(.*)` \|$", section, re.M))
    for kind, pairs in RULE_NAMES.items():
        names = " ".join(names for _, names in pairs).split()
        assert lists[kind].split() == [name for name in names if not name.startswith("__")]
