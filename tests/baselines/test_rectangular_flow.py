"""The rectangular flow, and its default networks, a coupling flow."""

import pytest
import torch
from pythae.data.datasets import DatasetOutput
from support.networks import coupling

from pythae_fif.baselines import RectangularFlow, RectangularFlowConfig
from pythae_fif.errors import ConfigError
from pythae_fif.models import FIF, FIFConfig


@pytest.mark.parametrize(("columns", "latent_dim"), [(6, 3), (8, 2), (3, 1), (4, 4)])
def test_coupling_encoder_inverts_its_decoder(columns, latent_dim):
    encoder, decoder = coupling(columns, latent_dim)
    assert encoder.flow is decoder.flow
    z = 3 * torch.randn(50, latent_dim, dtype=torch.float64)
    x = decoder(z).reconstruction
    assert x.shape == (50, columns)
    torch.testing.assert_close(encoder(x).embedding, z)


@pytest.mark.parametrize("jacobian_at", ["reconstruction", "data"])
def test_training_raises_the_likelihood(jacobian_at):
    config = RectangularFlowConfig(input_dim=(5,), latent_dim=3, jacobian_at=jacobian_at)
    model = RectangularFlow(config, *coupling()).double()
    mixing = torch.randn(3, 5, dtype=torch.float64)
    x = torch.randn(256, 3, dtype=torch.float64) @ mixing
    untrained_loss = model.eval()(DatasetOutput(data=x)).loss

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(25):
        optimizer.zero_grad()
        output = model(DatasetOutput(data=x))
        output.loss.backward()
        optimizer.step()
    assert 1 <= model.cg_iterations.max() <= 3
    assert model.eval()(DatasetOutput(data=x)).loss < untrained_loss - 10


def test_two_flows_become_one(tmp_path):
    config = RectangularFlowConfig(input_dim=(5,), latent_dim=3)
    encoder, _ = coupling()
    _, decoder = coupling()
    model = RectangularFlow(config, encoder, decoder)
    model.save(str(tmp_path))
    loaded = RectangularFlow.load_from_folder(str(tmp_path))
    assert model.encoder.flow is model.decoder.flow
    assert loaded.encoder.flow is loaded.decoder.flow


def test_a_fif_of_a_coupling_flow_shares_its_weights(tmp_path):
    fif = FIF(FIFConfig(input_dim=(5,), latent_dim=3), *coupling())
    fif({"data": torch.randn(6, 5)}).loss.backward()
    assert all(p.grad.isfinite().all() for p in fif.parameters())

    fif.save(str(tmp_path))
    loaded = FIF.load_from_folder(str(tmp_path))
    assert len([*loaded.parameters()]) == len([*fif.parameters()])


def test_missing_networks_are_refused():
    encoder, _ = coupling()
    with pytest.raises(ConfigError, match="or neither"):
        RectangularFlow(RectangularFlowConfig(input_dim=(5,), latent_dim=3), encoder)
    with pytest.raises(ConfigError, match=r"or neither for rows"):
        RectangularFlow(RectangularFlowConfig(input_dim=(1, 8, 8), latent_dim=3))


def test_saving_draws_no_random_numbers(tmp_path):
    model = RectangularFlow(RectangularFlowConfig(input_dim=(5,), latent_dim=2))
    state = torch.get_rng_state()
    model.save(str(tmp_path))
    assert torch.equal(torch.get_rng_state(), state)
