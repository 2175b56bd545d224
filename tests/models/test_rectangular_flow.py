"""The rectangular flow's model, and the coupling flow that it is made of."""

import pytest
import torch
from pythae.data.datasets import DatasetOutput
from support.networks import coupling

from pythae_fif.errors import ConfigError
from pythae_fif.models import FIF, FIFConfig, RectangularFlow, RectangularFlowConfig
from pythae_fif.nn.coupling import build_coupling
from pythae_fif.nn.tabular import TabularDecoder, TabularEncoder

# ---------------------------------------------------------------- the coupling flow


@pytest.mark.parametrize(("columns", "latent_dim"), [(6, 3), (8, 2), (3, 1), (4, 4)])
def test_coupling_encoder_inverts_its_decoder(columns, latent_dim):
    encoder, decoder = coupling(columns, latent_dim)
    z = 3 * torch.randn(50, latent_dim, dtype=torch.float64)
    x = decoder(z).reconstruction
    assert x.shape == (50, columns)
    torch.testing.assert_close(encoder(x).embedding, z)


def test_coupling_parameters_are_counted_once():
    encoder, decoder = coupling()
    model = FIF(FIFConfig(input_dim=(5,), latent_dim=3), encoder, decoder)
    assert sum(p.numel() for p in model.parameters()) == sum(
        p.numel() for p in encoder.parameters()
    )


# ---------------------------------------------------------------- the model


def small_flow(**options):
    config = RectangularFlowConfig(input_dim=(5,), latent_dim=3, **options)
    return RectangularFlow(config, *coupling()).double()


@pytest.mark.parametrize("jacobian_at", ["reconstruction", "data"])
def test_training_raises_the_likelihood(jacobian_at):
    model = small_flow(jacobian_at=jacobian_at).train()
    mixing = torch.randn(3, 5, dtype=torch.float64)
    x = torch.randn(256, 3, dtype=torch.float64) @ mixing
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = model.eval()(DatasetOutput(data=x)).loss
    model.train()
    for _ in range(25):
        optimizer.zero_grad()
        output = model(DatasetOutput(data=x))
        output.loss.backward()
        optimizer.step()
    assert 1 <= model.cg_iterations.max() <= 3
    assert model.eval()(DatasetOutput(data=x)).loss < before - 10


def test_fif_trains_on_the_free_form_and_on_the_coupling_nets():
    x = torch.randn(16, 6)
    for nets in (
        (TabularEncoder((6,), 3, 8), TabularDecoder((6,), 3, 8)),
        build_coupling((6,), 3, data_blocks=2, data_hidden=[8], latent_hidden=[8]),
    ):
        for jacobian_at in ("data", "reconstruction"):
            config = FIFConfig(input_dim=(6,), latent_dim=3, jacobian_at=jacobian_at)
            model = FIF(config, *nets).train()
            model(DatasetOutput(data=x)).loss.backward()
            assert all(p.grad.isfinite().all() for p in model.parameters())
            assert model.sample(3).shape == (3, 6)


def test_two_flows_become_one(tmp_path):
    config = RectangularFlowConfig(input_dim=(5,), latent_dim=3)
    model = RectangularFlow(config, coupling()[0], coupling()[1])
    model.save(str(tmp_path))
    for held in (model, RectangularFlow.load_from_folder(str(tmp_path))):
        assert held.encoder.flow is held.decoder.flow
    free = FIF(FIFConfig(input_dim=(5,), latent_dim=3), *coupling())
    free.save(str(tmp_path / "free"))
    loaded = FIF.load_from_folder(str(tmp_path / "free"))
    assert len([*loaded.parameters()]) == len([*free.parameters()])


def test_nets_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="or neither"):
        RectangularFlow(RectangularFlowConfig(input_dim=(5,), latent_dim=3), coupling()[0])
    with pytest.raises(ConfigError, match=r"or neither for rows"):
        RectangularFlow(RectangularFlowConfig(input_dim=(1, 8, 8), latent_dim=3))
