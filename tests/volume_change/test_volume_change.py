"""The surrogate's gradient, in float64, against everything it can be compared with."""

import gc
import itertools
import math
import weakref
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import TorchDispatchMode

from pythae_fif.errors import NonFiniteError
from pythae_fif.volume_change import (
    UnsupportedOperationError,
    decoder_jacobian,
    decoder_log_volume,
    decoder_singular_values,
    encoder_jacobian,
    encoder_log_volume,
    fif_loss,
    log_volume,
    sample_hutchinson,
    singular_values,
    surrogate,
)
from pythae_fif.volume_change import exact as exact_module
from pythae_fif.volume_change.batch_norm import batch_norm_jvps
from pythae_fif.volume_change.hutchinson import HutchinsonKind, hutchinson_of_gaussian
from pythae_fif.volume_change.operations import COMPOSED
from pythae_fif.volume_change.replay import check_replay, record

D, d, B = 6, 3, 5


@pytest.fixture(autouse=True)
def float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def mlp(inputs: int, outputs: int, act: type[nn.Module] = nn.Tanh, norm: bool = False):
    middle = [nn.BatchNorm1d(16)] if norm else []
    return nn.Sequential(nn.Linear(inputs, 16), *middle, act(), nn.Linear(16, outputs))


def gradients(loss, *modules):
    parameters = [p for module in modules for p in module.parameters()]
    grads = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).flatten()
            for p, g in zip(parameters, grads, strict=True)
        ]
    )


def exact_surrogate(encode, decode, x):
    """-tr(f'(x) stop_gradient(g'(f(x)))), eq. 48, without Hutchinson noise: (B,)."""
    columns = decoder_jacobian(decode, encode(x).detach()).detach()
    return -(encoder_jacobian(encode, x) * columns.mT).sum((1, 2))


# ---------------------------------------------------------------- Hutchinson vectors


@pytest.mark.parametrize("kind", get_args(HutchinsonKind))
@given(dim=st.integers(1, 9), samples=st.integers(1, 9), batch=st.integers(1, 4))
def test_hutchinson_contract(kind, dim, samples, batch):
    if samples > dim:
        with pytest.raises(ValueError, match=f"at most {dim}"):
            sample_hutchinson(batch, dim, samples, kind=kind)
        return
    draws = [
        sample_hutchinson(
            batch, dim, samples, kind=kind, generator=torch.Generator().manual_seed(1)
        )
        for _ in range(2)
    ]
    eps = draws[0]
    assert eps.shape == (samples, batch, dim)
    assert torch.equal(*draws)
    gram = torch.einsum("kbi,lbi->bkl", eps, eps)
    if kind == "orthogonal":
        assert torch.allclose(gram, dim * torch.eye(samples).expand_as(gram), atol=1e-9)
    if kind in ("scaled_gaussian", "rademacher"):
        assert torch.allclose(gram.diagonal(dim1=1, dim2=2), torch.tensor(float(dim)))


@pytest.mark.parametrize("kind", get_args(HutchinsonKind))
def test_hutchinson_second_moment_is_the_identity(kind):
    n = 200_000
    eps = sample_hutchinson(n, 4, 2, kind=kind).reshape(-1, 4)
    assert torch.allclose(eps.T @ eps / len(eps), torch.eye(4), atol=6 * math.sqrt(2 / n))


def test_hutchinson_unknown_kind():
    with pytest.raises(ValueError, match="orthogonal, scaled_gaussian"):
        sample_hutchinson(2, 3, kind="uniform")


# ---------------------------------------------------------------- the surrogate

OPTIONS = [
    dict(jacobian_at=j, gradient_to=g, trace_space=t, mode=m)
    for j, g, t, m in itertools.product(
        ("data", "reconstruction"),
        ("encoder", "decoder"),
        ("latent", "data"),
        ("replay", "mixed", "backward", "forward"),
    )
]
OPTIONS += [
    dict(jacobian_at="detached_reconstruction", gradient_to=g, trace_space="latent", mode=m)
    for g, m in (("encoder", "replay"), ("encoder", "mixed"), ("decoder", "backward"))
]


def meets_inner(options):
    return (options["gradient_to"] == "encoder") == (options["trace_space"] == "latent")


def exact_gradient(encode, decode, x, jacobian_at, gradient_to):
    """The trace of table 4 from dense Jacobians that autograd differentiates."""
    z = encode(x)
    point = x if jacobian_at == "data" else decode(z)
    if jacobian_at == "detached_reconstruction":
        point = point.detach()
    f = torch.autograd.functional.jacobian
    rows = [
        (
            f(lambda v: encode(v[None])[0], p, create_graph=True),
            f(lambda v: decode(v[None])[0], c, create_graph=True),
        )
        for p, c in zip(point, z, strict=True)
    ]
    if gradient_to == "encoder":
        return sum(-torch.trace(a @ b.detach()) for a, b in rows)
    return sum(torch.trace(a.detach() @ b) for a, b in rows)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o.values()))
def test_every_option_equals_the_exact_gradient_at_full_K(options):
    encode, decode = mlp(D, d), mlp(d, D)
    x = torch.randn(B, D)
    dim = d if options["trace_space"] == "latent" else D
    eps = sample_hutchinson(B, dim, dim)
    if options["mode"] == "forward" and not meets_inner(options):
        with pytest.raises(ValueError, match="'mixed' or 'backward'"):
            surrogate(encode, decode, x, eps, **options)
        return
    out = surrogate(encode, decode, x, eps, **options)
    assert torch.allclose(out.z, encode(x)) and torch.allclose(out.x_hat, decode(encode(x)))
    kept = {key: options[key] for key in ("jacobian_at", "gradient_to")}
    expected = exact_gradient(encode, decode, x, **kept)
    assert out.surrogate.sum().item() == pytest.approx(expected.item(), rel=1e-10)
    actual = gradients(out.surrogate.sum(), encode, decode)
    assert torch.allclose(actual, gradients(expected, encode, decode), rtol=1e-9, atol=1e-11)


def test_surrogate_is_unbiased_over_noise():
    """The vectors' second moment is the identity, whatever their kind: see there."""
    encode, decode = mlp(D, d), mlp(d, D)
    x = torch.randn(1, D)
    repeats = 20_000
    eps = sample_hutchinson(repeats, d, 1, kind="scaled_gaussian")
    values = surrogate(encode, decode, x.expand(repeats, -1), eps).surrogate
    exact = exact_surrogate(encode, decode, x)
    error = values.std() / math.sqrt(repeats)
    assert abs(values.mean() - exact).item() < 5 * error.item()
    mean_gradient = gradients(values.mean(), encode)
    exact_grad = gradients(exact.mean(), encode)
    assert (mean_gradient - exact_grad).norm() < 0.05 * exact_grad.norm()


def test_exact_surrogate_gradient_is_that_of_the_log_volume_for_consistent_maps():
    """For a linear decoder and its pseudo-inverse eq. 36 is d(-log vol f')/d(encoder)."""
    weight = torch.randn(d, D, requires_grad=True)
    inverse = torch.linalg.pinv(weight.detach()).T
    value = exact_surrogate(lambda x: x @ weight.T, lambda z: z @ inverse, torch.randn(B, D))
    (from_surrogate,) = torch.autograd.grad(value.mean(), weight)
    (from_volume,) = torch.autograd.grad(-log_volume(weight[None]).mean(), weight)
    assert torch.allclose(from_surrogate, from_volume)


@pytest.mark.parametrize("mode", ["replay", "mixed", "backward"])
def test_image_shapes(mode):
    encode = nn.Sequential(nn.Conv2d(2, 3, 3, 2, 1), nn.SiLU(), nn.Flatten(), nn.Linear(12, d))
    decode = nn.Sequential(nn.Linear(d, 12), nn.SiLU(), nn.Unflatten(1, (3, 2, 2)),
                           nn.ConvTranspose2d(3, 2, 4, 2, 1))  # fmt: skip
    x = torch.randn(B, 2, 4, 4)
    out = surrogate(encode, decode, x, sample_hutchinson(B, d, d), mode=mode)
    assert out.x_hat.shape == x.shape
    expected = exact_surrogate(encode, decode, x)
    assert torch.allclose(out.surrogate, expected)
    assert torch.allclose(gradients(out.surrogate.sum(), encode), gradients(expected.sum(), encode))


@pytest.mark.parametrize("samples", [1, 2])
def test_batch_norm_in_training_mode(samples):
    """The derivative is that of the whole-batch map, as an explicit Jacobian has it."""
    encode, decode = mlp(D, d, norm=True), mlp(d, D, norm=True)
    x, eps = torch.randn(B, D), sample_hutchinson(B, d, samples)
    jacobian = torch.autograd.functional.jacobian
    f = jacobian(encode, x, create_graph=True)  # (B, d, B, D)
    g = jacobian(decode, encode(x)).detach()  # (B, D, B, d)
    expected = -torch.einsum("kbi,bicj,cjel,kel->", eps, f, g, eps) / samples
    for mode in ("replay", "mixed", "backward"):
        out = surrogate(encode, decode, x, eps, mode=mode)
        assert out.surrogate.sum().item() == pytest.approx(expected.item(), rel=1e-9)
        difference = gradients(out.surrogate.sum(), encode) - gradients(expected, encode)
        assert difference.norm() < 1e-9 * gradients(expected, encode).norm()


def assert_replay_equals_backward(encode, decode, x, eps):
    totals = [
        surrogate(encode, decode, x, eps, mode=mode).surrogate.sum()
        for mode in ("replay", "backward")
    ]
    assert torch.allclose(*totals)
    replayed, reference = (gradients(total, encode) for total in totals)
    assert torch.allclose(replayed, reference, rtol=1e-8, atol=1e-10)


def test_a_part_of_the_batch_leaves_nothing_for_the_collector_of_cycles():
    tape = record(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.rand(5, 3))
    value = weakref.ref(tape.value)
    gc.disable()
    try:
        tape.jvps(torch.rand(1, 2, 3))
        del tape
        assert value() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "by_name",
    [
        lambda h, x: nn.functional.softplus(input=h),
        lambda h, x: nn.functional.leaky_relu(input=h, negative_slope=0.2),
        lambda h, x: torch.add(input=h, other=x, alpha=0.5),
        lambda h, x: torch.mul(input=h, other=x.exp()),
        lambda h, x: torch.matmul(h, other=h.T @ h),
        lambda h, x: torch.relu_(input=h * 2),
        lambda h, x: torch.cat(tensors=[h, x], axis=1),
    ],
    ids=["softplus", "leaky_relu", "add", "mul", "matmul", "relu_", "cat"],
)
def test_arguments_may_be_given_by_name(by_name):
    torch.manual_seed(0)
    first, last = nn.Linear(D, D), nn.LazyLinear(d)

    def encode(x):
        return last(by_name(first(x), x))

    x = torch.randn(B, D)
    encode(x)
    encode.parameters = lambda: [*first.parameters(), *last.parameters()]
    assert_replay_equals_backward(encode, mlp(d, D), x, sample_hutchinson(B, d))


def test_parts_of_the_batch_with_batch_norm_are_unbiased():
    """Mean over parts = gradient of all samples, statistics fixed for x, not for parameters."""
    torch.manual_seed(0)
    first, norm, last = nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
    encode, decode = nn.Sequential(first, norm, nn.Tanh(), last), mlp(2, 5)
    x, eps = torch.randn(6, 5), torch.randn(2, 6, 2)

    tangents = surrogate(encode, decode, x, eps)  # only for the right sides g'(z) eps
    z = tangents.z.detach()
    right = [torch.func.vmap(torch.func.jacfwd(decode))(z) @ e[..., None] for e in eps]
    batch = first(x)
    var, mean = torch.var_mean(batch, 0, correction=0)

    def frozen(point):
        h = (first(point) - mean) / torch.sqrt(var + norm.eps) * norm.weight + norm.bias
        return last(torch.tanh(h))

    jacobians = torch.stack([torch.autograd.functional.jacobian(frozen, p, create_graph=True)
                             for p in x])  # fmt: skip
    expected = -sum(
        (e[:, None] @ jacobians @ r.detach()).mean() for e, r in zip(eps, right, strict=True)
    ) / len(eps)

    total = 0
    for shift in range(len(x)):
        order = torch.arange(len(x)).roll(shift)
        part = surrogate(encode, decode, x[order], eps[:, order[:2]])
        total = total + part.surrogate.mean() / len(x)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(gradients(total, encode), gradients(expected, encode))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rows", [B, 2])
def test_low_precision_products_are_near(training, rows):
    torch.set_default_dtype(torch.float32)
    encode = nn.Sequential(
        nn.Linear(8, 8), nn.SiLU(), nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 2, 3, padding=1),
        nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3),
    ).train(training)  # fmt: skip
    decode, x, eps = mlp(3, 8), torch.randn(B, 8), sample_hutchinson(rows, 3, 2)
    full, low = (surrogate(encode, decode, x, eps, dtype=d) for d in (None, torch.bfloat16))
    assert torch.equal(low.z, full.z)
    assert low.surrogate.dtype == torch.float32
    exact, near = (gradients(out.surrogate.sum(), encode) for out in (full, low))
    assert 0 < (near - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize(
    "options", [dict(mode="backward"), dict(mode="mixed"), dict(trace_space="data")]
)
@pytest.mark.parametrize("part", [True, False])
def test_part_and_precision_are_for_replay_alone(options, part):
    encode, decode, x = mlp(6, 3), mlp(3, 6), torch.randn(5, 6)
    dim = 6 if options.get("trace_space") == "data" else 3
    eps = torch.randn(1, 3 if part else 5, dim)
    with pytest.raises(ValueError, match="valid: mode 'replay'"):
        surrogate(encode, decode, x, eps, dtype=None if part else torch.bfloat16, **options)


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 2), (3, 3, 2, 2)])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_tangents(shape, affine):
    """Against forward mode for the product, finite differences for its gradient."""
    torch.manual_seed(0)
    x = torch.randn(shape, requires_grad=True)
    weight = torch.tensor([0.5, 0.0, -2.0], requires_grad=True) if affine else None
    tangents = torch.randn(2, *shape, requires_grad=True)

    def normalise(x):
        return nn.functional.batch_norm(x, None, None, weight, None, True, 0.1, 1e-3)

    for tangent, product in zip(tangents, batch_norm_jvps(tangents, x, weight, 1e-3), strict=True):
        expected = torch.func.jvp(normalise, (x,), (tangent,))[1]
        torch.testing.assert_close(product, expected)
    if affine:
        assert torch.autograd.gradcheck(
            lambda *a: batch_norm_jvps(*a, 1e-3), (tangents, x, weight), atol=1e-6
        )
    else:
        assert torch.autograd.gradcheck(
            lambda *a: batch_norm_jvps(*a, None, 1e-3), (tangents, x), atol=1e-6
        )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_batch_norm_tangents_of_bfloat16_activations(layout):
    """As in a step under autocast: activations in bfloat16, the weight in float32."""
    x = torch.randn(8, 6, 5, 5).bfloat16().to(memory_format=layout)
    tangents, cotangents = torch.randn(2, 8, 6, 5, 5).bfloat16(), torch.randn(2, 8, 6, 5, 5)
    weight = torch.rand(6, dtype=torch.float32) + 0.5

    def gradient(dtype):
        low = x.to(dtype).requires_grad_(), tangents.to(dtype).requires_grad_()
        scale = weight.to(torch.float32 if dtype == torch.bfloat16 else dtype).requires_grad_()
        out = batch_norm_jvps(low[1], low[0], scale, 1e-5)
        assert out.dtype == dtype
        return torch.autograd.grad((out.double() * cotangents).sum(), (*low, scale))

    for near, exact in zip(gradient(torch.bfloat16), gradient(torch.float64), strict=True):
        assert 0 < (near - exact).norm() < 0.02 * exact.norm()


def test_rms_norm_in_bfloat16_has_the_eps_of_its_own_pass():
    """Small activations in bfloat16, beside which the eps of that type would count."""
    net, x, tangents = nn.RMSNorm(8), 0.1 * torch.randn(5, 8), torch.randn(2, 5, 8)
    exact = record(net.double(), x.double()).jvps(tangents.double())
    low = record(net.bfloat16(), x.bfloat16()).jvps(tangents.bfloat16())
    assert low.dtype == torch.bfloat16
    assert (low - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("norm", [lambda: nn.LayerNorm(8), lambda: nn.GroupNorm(2, 8)])
def test_tangents_of_norms_without_the_statistics_of_the_pass(norm):
    """A backward pass frees what it kept; a pass in bfloat16 keeps too little of it."""
    net = nn.Sequential(nn.Linear(4, 8), norm(), nn.Linear(8, 3))
    x, tangents = torch.randn(5, 4), torch.randn(2, 5, 4)
    tape = record(net, x)
    products = tape.jvps(tangents)
    tape.value.sum().backward()
    torch.testing.assert_close(tape.jvps(tangents), products)
    low = record(net.bfloat16(), x.bfloat16()).jvps(tangents.bfloat16())
    assert (low.to(products) - products).norm() < 0.05 * products.norm()


def test_batch_norm_as_an_exported_network_calls_it():
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    tangents = torch.randn(1, 6, 4, dtype=torch.float64)
    exported = torch.ops.aten.batch_norm.default

    def gradient(function):
        return torch.autograd.grad(record(function, x).jvps(tangents).sin().sum(), x)[0]

    torch.testing.assert_close(
        gradient(lambda x: exported(x, None, None, None, None, True, 0.1, 1e-5, False)),
        gradient(lambda x: nn.functional.batch_norm(x, None, None, training=True)),
    )


@pytest.mark.parametrize("dropout", [torch.ops.aten.dropout, torch.ops.aten.dropout.default])
@pytest.mark.parametrize("by_name", [False, True])
def test_dropout_as_an_exported_network_calls_it_is_refused(dropout, by_name):
    options = ((), {"p": 0.5, "train": True}) if by_name else ((0.5, True), {})
    with pytest.raises(UnsupportedOperationError, match=r"dropout.* draws random numbers"):
        record(lambda x: dropout(x * 1.0, *options[0], **options[1]), torch.ones(4, 6))


@pytest.mark.parametrize(
    "idle",
    [
        lambda x: torch.ops.aten.scaled_dot_product_attention.default(x, x, x),
        lambda x: torch.ops.aten.rrelu.default(x, 0.1, 0.3),
        lambda x: torch.ops.aten.feature_alpha_dropout.default(x, 0.5, False),
        lambda x: torch.ops.aten.dropout(x, p=0.0, train=True),
    ],
    ids=["attention", "rrelu", "feature alpha dropout", "dropout"],
)
def test_what_an_exported_network_could_draw_and_does_not_is_recorded(idle):
    x, v = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):  # others have no forward mode
        expected = torch.func.jvp(idle, (x,), (v,))[1]
    torch.testing.assert_close(record(idle, x).jvps(v[None])[0], expected)


@pytest.mark.parametrize("options", [(0.5, True), {"p": 0.5, "train": True}], ids=str)
def test_dropout_of_torch_has_the_mask_that_it_drew(options):
    args, kwargs = (options, {}) if isinstance(options, tuple) else ((), options)
    tape = record(lambda x: torch.dropout(x, *args, **kwargs), torch.ones(4, 6))
    torch.testing.assert_close(tape.jvps(torch.ones(1, 4, 6))[0], tape.value)


def test_an_operation_without_a_rule_in_gradients_by_functions():
    """Per-sample gradients by torch.func, of weights as well."""
    weight, x, v = torch.randn(3, 4), torch.randn(5, 4), torch.randn(5, 4)

    def loss(weight, x, v):
        net = lambda x: nn.functional.softsign(x @ weight.T)  # noqa: E731
        return record(net, x[None]).jvps(v[None, None]).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(weight, x, v)
    for i in range(len(x)):
        point = weight.clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(point, x[i], v[i]), point)
        torch.testing.assert_close(found[i], expected)


def test_a_gradient_that_is_zero_is_written():
    """PyTorch's zeros without memory make GroupNorm return whatever is in memory."""
    first, group = nn.Linear(4, 64), nn.GroupNorm(2, 4)
    last = nn.InstanceNorm2d(4, affine=True, track_running_stats=True).eval()
    gradients = []

    def net(x):
        y = group(first(x).view(-1, 4, 4, 4))
        y.register_hook(gradients.append)  # the product of `last` does not move with y
        return last(y)

    products = record(net, torch.randn(3, 4)).jvps(torch.randn(2, 3, 4))
    products.sum().backward()
    (zero,) = gradients
    assert not zero._is_zerotensor() and not zero.any()
    assert first.weight.grad.isfinite().all()


@pytest.mark.parametrize("idle", [(0.5, False), (0.0, True)])
def test_dropout_of_an_exported_network_is_recorded_where_it_draws_nothing(idle):
    dropout = torch.ops.aten.dropout.default
    tape = record(lambda x: dropout(x * 3.0, *idle), torch.ones(4, 6))
    torch.testing.assert_close(tape.jvps(torch.ones(1, 4, 6)), torch.full((1, 4, 6), 3.0))


def test_an_exported_recurrent_network_is_recorded_without_dropout():
    lstm, x = torch.nn.LSTM(3, 2, batch_first=True), torch.randn(4, 5, 3)
    state = (torch.zeros(1, 4, 2),) * 2
    call = torch.ops.aten.lstm.input
    given = (state, list(lstm.parameters()), True, 1, 0.0, True, False, True)
    tape = record(lambda x: call(x, *given)[0], x)
    v = torch.randn(1, 4, 5, 3)
    expected = torch.func.jvp(lambda x: lstm(x)[0], (x,), (v[0],))[1]
    torch.testing.assert_close(tape.jvps(v)[0], expected)


def test_replay_passes_once_through_batch_norm():
    encode, decode = mlp(D, d, norm=True), mlp(d, D, norm=True)
    surrogate(encode, decode, torch.randn(B, D), sample_hutchinson(B, d, 2), mode="replay")
    assert encode[1].num_batches_tracked == 1 and decode[1].num_batches_tracked == 1


def drawn(x):
    return nn.functional.rrelu(x @ torch.ones(D, d), training=True)


def gumbel(x):
    return nn.functional.gumbel_softmax(x @ torch.ones(D, d))


def another_view(x):
    """A path that leads through a tensor made outside, of which one view is written."""
    out = torch.zeros(len(x), 2, d)
    out[:, 0].copy_(x @ torch.ones(D, d))
    return out[:, 0]


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: lambda x: torch.ones(len(x), d), "no recorded operation leads"),
        (lambda: torch.jit.script(nn.Linear(D, d)), "no recorded operation leads"),
        (lambda: drawn, "operation torch.nn.functional.rrelu draws random numbers"),
        (lambda: gumbel, "operation torch.nn.functional.gumbel_softmax draws random numbers"),
        (lambda: another_view, "another view of a tensor that is written in place"),
        (lambda: lambda x: torch.native_batch_norm(x, None, None, None, None, True, 0.1, 1e-5)[0],
         "operation torch.native_batch_norm has no rule"),
        (lambda: lambda x: torch.ops.aten._native_batch_norm_legit.no_stats(
            x, None, None, True, 0.1, 1e-5)[0], "_native_batch_norm_legit.* has no rule"),
        pytest.param(
            lambda: lambda x: nn.functional.pdist(x @ torch.ones(D, 4))[:, None] * torch.ones(d),
            "operation torch.nn.functional.pdist has neither a forward nor a second derivative",
            marks=pytest.mark.skipif(torch.__version__ >= "2.14", reason="PyTorch can, now"),
        ),
    ],
)  # fmt: skip
def test_replay_refuses_what_it_does_not_know(build, message):
    net = build()
    with pytest.raises(UnsupportedOperationError, match=message):
        surrogate(net, mlp(d, D), torch.randn(B, D), sample_hutchinson(B, d), mode="replay")


def test_buffers_are_written_as_in_a_plain_pass():
    """Of a module that keeps statistics by itself, without a word to the recorder."""

    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(D))

        def forward(self, x):
            self.mean.mul_(0.9).add_(0.1 * x.mean(0))
            return x * 2.0

    plain, recorded, x = Mean(), Mean(), torch.randn(B, D)
    tape = record(recorded, x)
    assert torch.equal(tape.value, plain(x)) and torch.equal(recorded.mean, plain.mean)


F = nn.functional
TOKENS = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "operation, args, options",
    [
        (F.scaled_dot_product_attention, [TOKENS, TOKENS, TOKENS], {"is_causal": True}),
        (F.scaled_dot_product_attention, [TOKENS[:, None], TOKENS[:, None], TOKENS[:, None]],
         {"attn_mask": TOKENS[0, :, :1] > 0, "scale": 0.3}),
        (torch.cdist, [TOKENS, TOKENS + 1], {"p": 1.5}),
        (F.glu, [TOKENS], {"dim": -1}),
        (F.hardsigmoid, [4 * TOKENS], {}),
    ],
)  # fmt: skip
def test_operations_in_terms_of_others_are_the_same(operation, args, options):
    torch.testing.assert_close(COMPOSED[operation](*args, **options), operation(*args, **options))


class Skip(nn.Module):
    """A layer beside a skip connection, which is all that is recorded if the layer is hidden."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return x + self.layer(x)


class StraightThrough(torch.autograd.Function):
    """tanh, whose derivative it says is 1."""

    @staticmethod
    def forward(ctx, x):
        return x.tanh()

    @staticmethod
    def backward(ctx, grad):
        return grad


class _OwnTanh(torch.autograd.Function):
    """Of a derivative that is defined once and in reverse alone."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.tanh())
        return x.tanh()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return grad * (1 - ctx.saved_tensors[0] ** 2)


class OwnTanh(nn.Module):
    def forward(self, x):
        return _OwnTanh.apply(x)


HIDING = {
    "scripted": lambda: torch.jit.script(nn.Sequential(nn.Linear(D, D), nn.Tanh())),
    "own derivative": lambda: StraightThrough.apply,
}


@pytest.mark.parametrize("layer", HIDING)
def test_a_function_that_hides_a_part_is_found(layer):
    x = torch.randn(2, D)
    with pytest.raises(UnsupportedOperationError, match="hides some of its operations"):
        check_replay(Skip(HIDING[layer]()), x)


def test_log_volume_of_a_network_that_hides_a_part():
    decode = nn.Sequential(nn.Linear(d, D), Skip(HIDING["scripted"]()))
    z = torch.randn(B, d)
    expected = torch.stack([torch.autograd.functional.jacobian(decode, row) for row in z])
    found = decoder_log_volume(decode, z)
    assert torch.allclose(found, log_volume(expected))
    with torch.inference_mode():
        assert torch.allclose(decoder_log_volume(decode, z), found)


@given(st.integers(0, 2**31), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_a_function_that_hides_nothing_passes(seed, dtype):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(D, 30), nn.SiLU(), Skip(nn.Linear(30, 30)), nn.ReLU())
    net = net.append(nn.Linear(30, d)).to(dtype)
    x, before = torch.randn(3, D, dtype=dtype), torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16, dtype == torch.float32):
        check_replay(net, x)
    assert torch.equal(torch.get_rng_state(), before), "the training's numbers stay as they were"


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(jacobian_at="nowhere"), "valid: data, reconstruction"),
        (dict(gradient_to="both"), "valid: encoder, decoder"),
        (dict(trace_space="image"), "valid: latent, data"),
        (dict(mode="sideways"), "valid: replay, mixed, backward"),
        (dict(trace_space="data"), r"\(K from 1 up, 5 or fewer, 6\) is needed"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        surrogate(mlp(D, d), mlp(d, D), torch.randn(B, D), sample_hutchinson(B, d), **options)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["mlp_silu_k1", "mlp_tanh_k2"])
@pytest.mark.parametrize("mode", ["replay", "mixed", "backward"])
def test_reference_gradients_of_the_authors(shared, name, mode):
    file = np.load(shared / "reference" / f"{name}.npz")
    act = getattr(nn, str(file["act"]))
    nets = {}
    for net in ("encoder", "decoder"):
        sizes = [file[f"{net}.{i}.weight"].shape for i in (0, 2, 4)]
        linears = [nn.Linear(n, m) for m, n in sizes]
        nets[net] = nn.Sequential(linears[0], act(), linears[1], act(), linears[2])
        nets[net].load_state_dict(
            {k: torch.from_numpy(file[f"{net}.{k}"]) for k in nets[net].state_dict()}
        )
    x, eps = torch.from_numpy(file["x"]), torch.from_numpy(file["eps"])
    out = surrogate(nets["encoder"], nets["decoder"], x, eps, mode=mode)
    log_prior = lambda z: -0.5 * ((z**2).sum(1) + z.shape[1] * math.log(2 * math.pi))  # noqa: E731
    beta = float(file["beta"])
    loss = out.surrogate - log_prior(out.z) + beta * ((out.x_hat - x) ** 2).sum(1)
    by_default = fif_loss(nets["encoder"], nets["decoder"], log_prior, x, eps, beta).loss
    for found in (loss, by_default):
        assert np.abs(found.detach().numpy() - file["loss"]).max() < 1e-9
    loss.mean().backward()
    for net, module in nets.items():
        for key, parameter in module.named_parameters():
            assert np.abs(parameter.grad.numpy() - file[f"grad.{net}.{key}"]).max() < 1e-9


def test_a_linear_model_with_a_free_decoder_finds_the_principal_components():
    """Where the reconstruction has enough weight; studies/test_studies.py holds theorem C.4."""
    spectrum = torch.tensor([4.0, 2.0, 1.0, 0.3, 0.1])
    basis = torch.linalg.qr(torch.randn(5, 5)).Q
    x = math.sqrt(50) * torch.linalg.qr(torch.randn(50, 5)).Q  # sample covariance exactly I
    x = x * spectrum.sqrt() @ basis.T
    first = basis[:, :2]

    a = ((first / spectrum[:2].sqrt()).T + 0.3 * torch.randn(2, 5)).requires_grad_()
    w = torch.linalg.pinv(a.detach()).T.clone().requires_grad_()
    optimizer = torch.optim.Adam([a, w], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 700)
    eps = sample_hutchinson(len(x), 2, 2)
    for _ in range(700):
        out = surrogate(lambda x: x @ a.T, lambda z: z @ w, x, eps)
        loss = 0.5 * (out.z**2).sum(1) + out.surrogate + 6 * ((out.x_hat - x) ** 2).sum(1)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        schedule.step()
    covariance = basis * spectrum @ basis.T
    assert torch.allclose(a @ covariance @ a.T, torch.eye(2), atol=1e-3)  # eq. 79
    assert torch.allclose(torch.linalg.pinv(a) @ a, first @ first.T, atol=1e-2)


# ---------------------------------------------------------------- exact quantities


@pytest.mark.parametrize("directions", [None, 1, 2])
def test_jacobians_against_autograd(directions):
    encode, decode = mlp(D, d), mlp(d, D)
    x = torch.randn(B, D)
    z = encode(x).detach()
    f, g = (
        torch.stack([torch.autograd.functional.jacobian(net, p) for p in points])
        for net, points in ((encode, x), (decode, z))
    )
    assert torch.allclose(encoder_jacobian(encode, x, directions=directions), f)
    assert torch.allclose(decoder_jacobian(decode, z, directions=directions), g)


@given(rows=st.integers(1, 8), columns=st.integers(1, 8), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_log_volume_is_the_sum_of_log_singular_values(rows, columns, seed):
    jacobian = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(seed))
    expected = singular_values(jacobian).log().sum(-1)
    assert torch.allclose(log_volume(jacobian), expected, rtol=1e-8, atol=1e-8)


def test_log_volume_where_the_gram_matrix_is_singular_in_rounding():
    """Columns that differ by 1e-10: the determinant of J^T J is below the rounding of its terms."""
    jacobian = torch.zeros(1, 3, 2)
    jacobian[0, 0] = 1.0
    jacobian[0, 1, 1] = 1e-10
    assert log_volume(jacobian).item() == pytest.approx(math.log(1e-10), rel=1e-6)
    jacobian[0, 1, 1] = 0.0
    assert log_volume(jacobian).item() == -math.inf


def test_log_volume_gradient():
    jacobian = torch.randn(4, 5, 2, requires_grad=True)
    reference = 0.5 * torch.logdet(jacobian.mT @ jacobian)
    (a,) = torch.autograd.grad(log_volume(jacobian).sum(), jacobian)
    (b,) = torch.autograd.grad(reference.sum(), jacobian)
    assert torch.allclose(a, b)


@pytest.mark.parametrize("score", [log_volume, singular_values])
def test_non_finite_jacobians_are_named(score):
    jacobian = torch.randn(8, 4, 2)
    jacobian[3, 1, 1] = math.nan
    jacobian[6, 0, 0] = math.inf
    with pytest.raises(NonFiniteError, match=r"not finite for 2 of 8 samples \(samples 3, 6\)"):
        score(jacobian)


@pytest.mark.parametrize("score", [decoder_log_volume, decoder_singular_values])
def test_chunks_bound_every_tensor(score, monkeypatch):
    """Of a network whose hidden layer is wider than its output."""
    monkeypatch.setattr(exact_module, "CHUNK_NUMEL", 4096)
    decode = nn.Sequential(nn.Linear(16, 200), nn.Tanh(), nn.Linear(200, 40))
    widest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal widest
            out = func(*args, **(kwargs or {}))
            for item in out if isinstance(out, tuple | list) else (out,):
                widest = max(widest, item.numel() if isinstance(item, torch.Tensor) else 0)
            return out

    z = torch.randn(50, 16)
    with Watch():
        score(decode, z)
    assert widest <= 2 * 4096 < decode[0](z).numel() * 16


def test_tangents_of_a_layer_end_with_it():
    """Without gradient no more than two layers' tangents live at a time."""
    layers = [layer for _ in range(10) for layer in (nn.Linear(8, 8), nn.Tanh())]
    tape = record(nn.Sequential(*layers), torch.randn(4, 8))
    made = []
    alive = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal alive
            out = func(*args, **(kwargs or {}))
            if out.numel() == 3 * 4 * 8:
                made.append(weakref.ref(out))
            alive = max(alive, len({r().data_ptr() for r in made if r() is not None}))
            return out

    with torch.no_grad(), Watch():
        tape.jvps(torch.randn(3, 4, 8))
    assert len(made) >= len(layers) and alive <= 4


def test_an_operation_refused_in_replay_has_a_fallback():
    decode, z = (
        nn.Sequential(nn.Linear(d, D), nn.AlphaDropout(), nn.Tanh()).eval(),
        torch.randn(B, d),
    )
    expected = log_volume(decoder_jacobian(decode, z))
    assert torch.allclose(decoder_log_volume(decode, z), expected)


def test_log_volume_without_forward_mode_goes_by_rows():
    decode = nn.Sequential(nn.Linear(d, D), OwnTanh())
    z = torch.randn(B, d)
    expected = torch.stack([torch.autograd.functional.jacobian(decode, row) for row in z])
    assert torch.allclose(decoder_log_volume(decode, z), log_volume(expected))


def test_slopes_are_in_the_precision_of_the_network():
    torch.set_default_dtype(torch.float32)
    net, x = nn.LeakyReLU(0.1), -torch.ones(1, 1, dtype=torch.float64)
    assert record(net, x).jvps(x[None]).item() == -0.1


@pytest.mark.parametrize("chunk", [1, 2 * D * d, 2**20])
def test_encoder_log_volume_is_that_of_the_jacobian(chunk, monkeypatch):
    monkeypatch.setattr(exact_module, "CHUNK_NUMEL", chunk)
    encode, x = mlp(D, d), torch.randn(7, D)
    expected = log_volume(encoder_jacobian(encode, x))
    assert torch.allclose(encoder_log_volume(encode, x), expected)
    with torch.inference_mode():
        assert torch.allclose(encoder_log_volume(encode, x), expected)
    first = log_volume(encoder_jacobian(encode, x)[..., :4])
    assert torch.allclose(encoder_log_volume(encode, x, data_dim=4), first)
    assert not encoder_log_volume(encode, x).requires_grad
    x[5] = math.nan
    with pytest.raises(NonFiniteError, match="samples 5"):
        encoder_log_volume(encode, x)


def test_chunks_do_not_change_results(monkeypatch):
    decode, z = mlp(d, D), torch.randn(7, d)
    whole = decoder_log_volume(decode, z), decoder_singular_values(decode, z)
    monkeypatch.setattr(exact_module, "CHUNK_NUMEL", 2 * D * d)
    assert torch.allclose(decoder_log_volume(decode, z), whole[0])
    assert torch.allclose(decoder_singular_values(decode, z), whole[1])
    z[5] = math.nan
    with pytest.raises(NonFiniteError, match="samples 5"):
        decoder_log_volume(decode, z)


@pytest.mark.parametrize(
    "activation, mode, tolerance",
    [
        (nn.SiLU, "replay", 0.02),
        (nn.Tanh, "replay", 0.02),
        (nn.ReLU, "replay", None),
        (nn.ReLU, "central_difference", 0.2),
    ],
)
def test_the_gradient_misses_what_kinks_do(activation, mode, tolerance):
    """With ReLU, f' at a point does not change with a bias until the kink passes the point.

    The mean over data changes, as differences tell. Automatic differentiation sees none of it
    (tolerance None); central differences do.
    """
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(3, 8), activation(), nn.Linear(8, 2)).float()
    decoder, bias = nn.Linear(2, 3).float(), encoder[0].bias
    x = torch.randn(200_000, 3, dtype=torch.float32)
    eps = sample_hutchinson(len(x), 2, dtype=torch.float32)

    def mean(mode) -> torch.Tensor:
        return surrogate(encoder, decoder, x, eps, mode=mode).surrogate.double().mean()

    (found,) = torch.autograd.grad(mean(mode), bias, allow_unused=True, materialize_grads=True)
    differences = []
    with torch.no_grad():
        for step in 0.05 * torch.eye(8, dtype=torch.float32):
            bias += step
            above = mean("replay")
            bias -= 2 * step
            differences.append((above - mean("replay")) / 0.1)
            bias += step
    expected = torch.stack(differences)
    assert expected.norm() > 0.01
    if tolerance is None:
        assert found.norm() == 0
    else:
        assert (found - expected).norm() < tolerance * expected.norm()


@pytest.mark.parametrize("jacobian_at", ["data", "reconstruction"])
@pytest.mark.parametrize("gradient_to", ["encoder", "decoder"])
@pytest.mark.parametrize("trace_space", ["latent", "data"])
def test_central_differences_of_smooth_networks(jacobian_at, gradient_to, trace_space):
    """Values and gradients are those of replayed tangents."""
    encode, decode = mlp(D, d), mlp(d, D)
    x, space = torch.randn(B, D), d if trace_space == "latent" else D
    eps, weight = sample_hutchinson(B, space, 2), torch.randn(B)
    parameters = [*encode.parameters(), *decode.parameters()]
    found = []
    for mode in ("replay", "central_difference"):
        value = surrogate(
            encode, decode, x, eps, mode=mode, jacobian_at=jacobian_at, gradient_to=gradient_to,
            trace_space=trace_space,
        ).surrogate  # fmt: skip
        gradients = torch.autograd.grad((value * weight).sum(), parameters, allow_unused=True)
        found.append((value, [torch.zeros(1) if g is None else g for g in gradients]))
    (expected, exact), (value, gradients) = found
    assert torch.allclose(value, expected, rtol=1e-8, atol=1e-8)
    for a, b in zip(gradients, exact, strict=True):
        assert (a - b).norm() <= 1e-7 * (1 + b.norm())


def test_central_differences_of_batch_norm_are_those_of_the_whole_batch():
    encode, decode = nn.Sequential(nn.Linear(D, 6), nn.BatchNorm1d(6), nn.Linear(6, d)), mlp(d, D)
    x, eps = torch.randn(B, D), sample_hutchinson(B, d)
    a, b = (
        surrogate(encode, decode, x, eps, mode=mode).surrogate
        for mode in ("replay", "central_difference")
    )
    assert torch.allclose(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-13)])
@given(data=st.data(), dim=st.integers(1, 40), batch=st.integers(1, 3))
def test_orthogonal_vectors_of_any_draw(dtype, tolerance, data, dim, batch):
    """Columns alike, zero or of very different lengths too."""
    samples = dim if data.draw(st.booleans()) else data.draw(st.integers(1, dim))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    draw = torch.randn(samples, batch, dim, generator=generator, dtype=dtype)
    for k in data.draw(st.lists(st.integers(1, max(1, samples - 1)), max_size=3, unique=True)):
        factor = data.draw(st.sampled_from([0.0, 1e-12, 1.0, 1e6]))
        draw[k % samples] = factor * draw[0] if factor else 0.0
    if samples == 1:
        draw += (draw == 0) * 1.0
    eps = hutchinson_of_gaussian(draw, "orthogonal")
    gram = torch.einsum("kbi,lbi->bkl", eps, eps) / dim
    assert eps.dtype == dtype
    assert (gram - torch.eye(samples, dtype=dtype)).abs().max() < tolerance


@pytest.mark.parametrize("samples", [2, 3])
def test_orthogonal_vectors_have_haars_distribution(samples):
    """Moments up to the fourth, of single entries and of pairs of columns (d = 3)."""
    n = 200_000
    q = sample_hutchinson(n, 3, samples).movedim(0, -1) / math.sqrt(3)  # (n, d, K)
    noise = 5 / math.sqrt(n)
    assert q.mean(0).abs().max() < noise
    assert (q.square().mean(0) - 1 / 3).abs().max() < noise
    assert (q.pow(4).mean(0) - 1 / 5).abs().max() < noise
    first, second = q[..., 0], q[..., 1]
    # E q_i1^2 q_i2^2 = 1/15, E q_i1^2 q_j2^2 = 2/15, E q_i1 q_i2 q_j1 q_j2 = -1/30 (i != j)
    both = torch.einsum("ni,nj->ij", first**2, second**2) / n
    assert (both - (2 / 15 - torch.eye(3) / 15)).abs().max() < noise
    cross = (first * second)[:, 0] * (first * second)[:, 1]
    assert abs(cross.mean() + 1 / 30) < noise


@pytest.mark.parametrize("kind", ["orthogonal", "scaled_gaussian"])
def test_a_draw_of_exactly_zero_is_finite(kind):
    eps = torch.tensor([0.0, 0.5, -2.0]).view(1, 3, 1)
    assert hutchinson_of_gaussian(eps, kind).flatten().tolist() == [0.0, 1.0, -1.0]
