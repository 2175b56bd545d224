"""Whitened codes: the exact likelihood has its maximum there, and nothing else changes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pythae.models import AutoModel
from pythae.samplers import NormalSampler

from pythae_fif import FIF, FIFConfig
from pythae_fif.errors import ConfigError, FIFError
from pythae_fif.models import RectangularFlow, RectangularFlowConfig
from pythae_fif.nn import build_networks

SHAPE, DIM = (1, 4, 4), 3


def a_model(seed=0, **options):
    torch.manual_seed(seed)
    return FIF(FIFConfig(input_dim=SHAPE, latent_dim=DIM, **options)).double().eval()


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0, 2]), st.integers(DIM + 1, 60))
def test_likelihood_never_falls_and_nothing_else_changes(seed, classes, count):
    model = a_model(seed, condition_dim=classes)
    x = torch.rand(count, *SHAPE, dtype=torch.double)
    labels = torch.arange(count) % classes if classes else None
    z, before = model.embed(x, labels), model.log_prob(x, labels)
    x_hat = model.reconstruct(x, labels)
    new = model.whiten(x, labels).embed(x, labels)
    after = model.log_prob(x, labels)

    torch.testing.assert_close(new.mean(0), torch.zeros(DIM).double(), atol=1e-8, rtol=0)
    covariance = torch.cov(new.T, correction=0)
    torch.testing.assert_close(covariance, torch.eye(DIM).double(), atol=1e-8, rtol=0)
    torch.testing.assert_close(model.reconstruct(x, labels), x_hat)
    log_det = torch.logdet(model.encoder.code_map.matrix)
    gain = log_det - 0.5 * (new.square() - z.square()).sum(1)
    torch.testing.assert_close(after, before + gain)
    assert after.mean() >= before.mean() - 1e-12
    torch.testing.assert_close(model.whiten(x, labels).log_prob(x, labels), after)


@pytest.mark.parametrize("networks", ["default", "noted", "pickled"])
def test_the_map_is_saved(networks, tmp_path):
    config = FIFConfig(input_dim=(1, 28, 28), latent_dim=DIM)
    pair = () if networks == "default" else build_networks("resnet", (1, 28, 28), DIM)
    if networks == "pickled":
        for network in pair:
            del network.recipe
    x = torch.rand(20, 1, 28, 28)
    model = FIF(config, *pair).eval().whiten(x)
    model.save(str(tmp_path))
    trust = {"trust": True} if networks == "pickled" else {}
    loaded = AutoModel.load_from_folder(str(tmp_path), **trust).eval()
    assert torch.equal(loaded.log_prob(x), model.log_prob(x))
    model.whiten(x[:10])
    loaded.whiten(x[:10])
    assert torch.equal(loaded.embed(x), model.embed(x))
    assert NormalSampler(loaded).sample(4).shape == (4, 1, 28, 28)


def test_samplers_decode_through_the_map():
    x = torch.rand(50, *SHAPE).double()
    model = a_model().whiten(x)
    z = torch.randn(5, DIM).double()
    bare = model.decoder.network(z @ model.decoder.code_map.matrix.T + model.decoder.code_map.shift)
    torch.testing.assert_close(model.decoder(z).reconstruction, bare.reconstruction)


def test_a_loader_is_as_good_as_a_tensor():
    x, labels = torch.rand(30, *SHAPE).double(), torch.arange(30) % 2
    model, other = a_model(condition_dim=2), a_model(condition_dim=2)
    batches = [{"data": x[i : i + 7], "labels": labels[i : i + 7]} for i in range(0, 30, 7)]
    torch.testing.assert_close(
        model.whiten(x, labels).embed(x, labels), other.whiten(batches).embed(x, labels)
    )


@pytest.mark.parametrize(
    "fault, message",
    [
        (lambda: a_model().whiten(torch.rand(DIM, *SHAPE).double()), "at least 4 are needed"),
        (lambda: a_model().whiten(torch.ones(9, *SHAPE).double()), "fewer than 3 dimensions"),
        (
            lambda: a_model().whiten(torch.ones(9, *SHAPE).double() * torch.nan),
            "samples 0, 1, 2, 3, 4, ",
        ),
        (
            lambda: a_model(latent_distribution="student_t").whiten(torch.rand(9, *SHAPE).double()),
            "latent_distribution='normal'",
        ),
        (
            lambda: a_model(condition_dim=2).whiten([{"data": torch.rand(9, *SHAPE).double()}]),
            "condition_dim=2 needs labels",
        ),
    ],
)
def test_what_cannot_be_whitened_is_one_line(fault, message):
    with pytest.raises(FIFError, match=message):
        fault()


def test_a_rectangular_flow_is_whitened_and_saved(tmp_path):
    model = RectangularFlow(RectangularFlowConfig(input_dim=(6,), latent_dim=DIM)).double().eval()
    x = torch.randn(50, 6).double()
    x_hat, before = model.reconstruct(x), model.log_prob(x).mean()
    z = model.whiten(x).embed(x)
    torch.testing.assert_close(torch.cov(z.T, correction=0), torch.eye(DIM).double())
    torch.testing.assert_close(model.reconstruct(x), x_hat)
    assert model.log_prob(x).mean() > before
    model.float().save(str(tmp_path))
    loaded = AutoModel.load_from_folder(str(tmp_path)).eval()
    assert torch.equal(loaded.log_prob(x.float()), model.log_prob(x.float()))


def test_a_conditional_model_that_asks_for_it_gives_its_codes_at_a_label():
    x, labels = torch.rand(30, *SHAPE).double(), torch.arange(30) % 2
    model = a_model(condition_dim=2, whiten=True).whiten(x, labels)
    torch.testing.assert_close(model.given(1).embed(x), model.embed(x, 1))


def test_whitening_needs_a_normal_prior():
    with pytest.raises(ConfigError, match="whiten needs latent_distribution='normal'"):
        FIFConfig(whiten=True, latent_distribution="student_t")
