"""A recorded pass and its derivative; functions that cannot be recorded are refused."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pythae_fif.errors import UnsupportedOperationError
from pythae_fif.volume_change import volume_surrogate
from pythae_fif.volume_change.kernels import GELU, MISH, SILU, SlopeProduct, batch_norm_jvp
from pythae_fif.volume_change.replay import Tape, check_replay

pytestmark = pytest.mark.usefixtures("float64")
D = 6
B = 5


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.softplus(input=x),
        lambda x: F.leaky_relu(input=x, negative_slope=0.2),
        lambda x: torch.add(input=x.sin(), other=x, alpha=0.5),
        lambda x: 2.0 - x - torch.ones(D) + (1 + x.sin()),
        lambda x: torch.mul(input=x, other=x.exp()) / (2 * x.square() + 1),
        lambda x: x.view(len(x), 1, D) @ x.view(len(x), D, 1) @ torch.ones(1, D),
        lambda x: torch.cat(tensors=[x, torch.ones(len(x), 2), x.tanh()], axis=1),
        F.normalize,
        lambda x: x.chunk(2, 1)[1].sin() + x.split(3, -1)[0],
        lambda x: F.relu(x * 2.0, inplace=True) * x,
        lambda x: x.float().add_(x),
        lambda x: (x * x).mul_(2.0).sub_(x).clamp_(min=0.1),
        lambda x: F.interpolate(x.view(len(x), 1, 2, 3), scale_factor=2).sin(),
        lambda x: x.sign() * x + x.round() + x.floor(),
        lambda x: torch.where(x > 0, x, x.exp()).softmax(1),
        lambda x: x + x.detach() ** 2,
        lambda x: (2 * x).round(),
        lambda x: x.sin() * x.new_ones(D) + torch.ones(D, dtype=torch.float32).to(x),
    ],
)
def test_products_and_their_gradients_equal_pytorchs(function):
    """For the whole batch and for the first samples, with gradients by the point."""
    x = torch.randn(B, D)
    with torch.no_grad():
        x += 0.2 * x.sign()  # off the kinks
    v = torch.randn(B, D)

    def gradient(product, point):
        loss = product.square().sum() + 0 * point.sum()
        return torch.autograd.grad(loss, point, allow_unused=True, materialize_grads=True)[0]

    for rows in (B, 2):
        point = x.clone().requires_grad_()
        product = Tape(function, point).jvp(v[:rows])
        expected = torch.func.jvp(function, (point[:rows],), (v[:rows],))[1]
        torch.testing.assert_close(product, expected)
        torch.testing.assert_close(gradient(product, point), gradient(expected, point))


class Skip(nn.Module):
    """A layer with a skip connection. If the layer is hidden, only the connection is recorded."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return x + self.layer(x)


def assign_columns(x):
    """The identity in all columns but the first, by assignment."""
    out = torch.zeros_like(x)
    out[:, 1:] = x[:, 1:]
    return out


class Swish(torch.autograd.Function):
    """A memory-efficient activation: what its forward pass computes has no graph."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x.sigmoid() * (1 + x * (1 - x.sigmoid()))


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Skip(Swish.apply), "hides some of its operations"),
        (lambda: lambda x: Skip(nn.ReLU(True))(x.sin()), "overwritten in place is used again"),
        (lambda: lambda x: F.silu((h := x.sin()).view(-1), inplace=True) * 0 + h, "overwritten"),
        (lambda: lambda x: F.linear(x, torch.ones(D, D), 0 * x[0]), "depends on the input"),
        (lambda: lambda x: (x.register_hook(abs), x.sin())[1], "register_hook has no replay rule"),
        (lambda: Skip(lambda x: 0 * Swish.apply(x)), "hides some"),  # a layer that starts at zero
        (lambda: lambda x: Swish.apply(0 * x), "hides some"),
        (
            lambda: Skip(lambda x: 0 * torch.fft.ifft(torch.fft.fft(x)).real),
            "fft has no replay rule",
        ),
        (lambda: lambda x: x.sort().values, "torch.Tensor.sort has no replay rule"),
        (lambda: lambda x: (h := x.exp()).mul_(2.0) + h, "overwritten in place is used again"),
        (lambda: lambda x: torch.ones(D).mul_(x[0]) + x, "torch.Tensor.mul_ has no replay rule"),
        (lambda: assign_columns, "__setitem__ has no replay rule"),
        (lambda: lambda x: F.linear(x, x), "weight or bias of a layer depends on the input"),
        (lambda: lambda x: x.softmax(0), "mixes the samples of a batch"),
        (lambda: lambda x: x[torch.arange(len(x))], "mixes the samples of a batch"),
    ],
)
def test_functions_that_cannot_be_replayed_are_refused(build, message):
    with pytest.raises(UnsupportedOperationError, match=message):
        check_replay(build(), torch.randn(3, D), parts=True)


def test_tangents_of_a_layer_are_freed_after_it():
    """Without gradient the tangents of at most two layers are in memory at a time."""
    layers = [layer for _ in range(10) for layer in (nn.Linear(8, 8), nn.Tanh())]
    tape = Tape(nn.Sequential(*layers), torch.randn(4, 8))
    references = []
    most_alive = 0

    class CountTangents(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal most_alive
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.numel() == 4 * 8:
                references.append(weakref.ref(out))
            addresses = {tensor().data_ptr() for tensor in references if tensor() is not None}
            most_alive = max(most_alive, len(addresses))
            return out

    tangent = torch.randn(4, 8)
    with torch.no_grad(), CountTangents():
        tape.jvp(tangent)
    assert len(references) >= len(layers)
    assert most_alive <= 5


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float32])
def test_gradient_under_autocast_is_close(low):
    torch.set_default_dtype(torch.float32)
    encode = nn.Sequential(
        nn.Linear(8, 8), nn.SiLU(), nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 2, 3, padding=1),
        nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
    decode = nn.Linear(3, 8)
    x = torch.randn(B, 8)
    eps = torch.randn(1, B, 3)

    def gradient(autocast):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = volume_surrogate(encode, decode, x, eps).surrogate.sum()
        return torch.autograd.grad(value, encode[0].weight)[0]

    expected = gradient(autocast=False)
    actual = gradient(autocast=low == torch.bfloat16)
    error = (actual - expected).norm() / expected.norm()
    assert error == 0 if low == torch.float32 else 0 < error < 0.1


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 2), (3, 3, 2, 2)])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_tangents(shape, affine):
    """The product is compared with forward mode, its gradient with finite differences."""
    x = torch.randn(shape, requires_grad=True)
    weight = torch.tensor([0.5, 0.0, -2.0], requires_grad=True) if affine else None
    tangent = torch.randn(shape, requires_grad=True)

    def normalise(x):
        return F.batch_norm(x, None, None, weight, None, True, 0.1, 1e-3)

    expected = torch.func.jvp(normalise, (x,), (tangent,))[1]
    torch.testing.assert_close(batch_norm_jvp(tangent, x, weight, 1e-3), expected)

    def product(tangent, x, weight=None):
        return batch_norm_jvp(tangent, x, weight, 1e-3)

    inputs = (tangent, x, weight) if affine else (tangent, x)
    assert torch.autograd.gradcheck(product, inputs, atol=1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_batch_norm_tangents_of_bfloat16_activations(layout):
    """As in a step under autocast, activations are in bfloat16 and the weight in float32."""
    x = torch.randn(8, 6, 5, 5).bfloat16().to(memory_format=layout)
    tangent = torch.randn(8, 6, 5, 5).bfloat16()
    cotangent = torch.randn(8, 6, 5, 5)
    weight = torch.rand(6, dtype=torch.float32) + 0.5

    def gradients(dtype, weight_dtype):
        inputs = [
            x.to(dtype).requires_grad_(),
            tangent.to(dtype).requires_grad_(),
            weight.to(weight_dtype).requires_grad_(),
        ]
        out = batch_norm_jvp(inputs[1], inputs[0], inputs[2], 1e-5)
        assert out.dtype == dtype
        return torch.autograd.grad((out.double() * cotangent).sum(), inputs)

    rounded = gradients(torch.bfloat16, torch.float32)
    exact = gradients(torch.float64, torch.float64)
    for actual, expected in zip(rounded, exact, strict=True):
        assert 0 < (actual - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize(("activation", "slope"), [(F.silu, SILU), (F.gelu, GELU), (F.mish, MISH)])
def test_products_with_a_slope_have_first_and_second_derivatives(activation, slope):
    tangent = torch.randn(7, requires_grad=True)
    x = torch.linspace(-4, 4, 7, requires_grad=True)

    def product(tangent, x):
        return SlopeProduct.apply(tangent, x, slope, None)

    _, expected = torch.func.jvp(activation, (x,), (tangent,))
    torch.testing.assert_close(product(tangent, x), expected)
    assert torch.autograd.gradcheck(product, (tangent, x))
    assert torch.autograd.gradgradcheck(product, (tangent, x))
