"""An ensemble of any estimator and network: a member ends where it would have ended alone."""

import pytest
import torch
from pythae.data.datasets import DatasetOutput
from torch.optim.lr_scheduler import OneCycleLR

from pythae_fif.ensemble.ensemble import Ensemble
from pythae_fif.models import FIF, FIFConfig, RectangularFlow, RectangularFlowConfig
from pythae_fif.nn.coupling import build_coupling
from pythae_fif.nn.tabular import TabularDecoder, TabularEncoder


def members(kind, jacobian_at, **options):
    shape = {"input_dim": (5,), "latent_dim": 3}
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        if kind == "free-form":
            nets = TabularEncoder(**shape, hidden_dim=8), TabularDecoder(**shape, hidden_dim=8)
        else:
            nets = build_coupling(**shape, data_blocks=2, latent_blocks=2, hidden_dim=8)
        rectangular = kind == "rectangular"
        if "backward" in kind:
            options["mode"] = "backward"
        config = RectangularFlowConfig if rectangular else FIFConfig
        model = RectangularFlow if rectangular else FIF
        models.append(model(config(**shape, jacobian_at=jacobian_at, **options), *nets).double())
    return models


@pytest.mark.parametrize("kind", ["free-form", "coupling", "coupling, backward", "rectangular"])
@pytest.mark.parametrize(
    ("jacobian_at", "hutchinson_samples"), [("data", 1), ("reconstruction", 2)]
)
def test_members_end_where_each_ends_alone(kind, jacobian_at, hutchinson_samples):
    of = kind, jacobian_at
    data = torch.randn(45, 5, dtype=torch.float64)
    options = {"epochs": 2, "batch_size": 10, "learning_rate": 1e-2, "weight_decay": 1e-3}
    weight = {1: 1.0, 2: 1.0} if jacobian_at == "data" else {1: 0.0, 2: 0.5}  # a warm-up
    together = Ensemble(members(*of, hutchinson_samples=hutchinson_samples), [5, 6, 7])
    together.train(data, **options, likelihood_weight=weight.__getitem__)
    for seed, model, start in zip(
        [5, 6, 7],
        together.members(),
        members(*of, hutchinson_samples=hutchinson_samples),
        strict=True,
    ):
        torch.manual_seed(seed)
        before = [p.clone() for p in start.parameters()]
        optimizer = torch.optim.Adam(start.parameters(), lr=1e-2, weight_decay=1e-3)
        start.train()
        for epoch in (1, 2):
            for rows in torch.randperm(45).split(10)[:4]:
                optimizer.zero_grad()
                out = start(DatasetOutput(data=data[rows]))
                (weight[epoch] * out.nll_loss + 10.0 * out.recon_loss).backward()
                optimizer.step()
        for ours, alone, first in zip(model.parameters(), start.parameters(), before, strict=True):
            torch.testing.assert_close(ours, alone, rtol=1e-6, atol=1e-8)
            assert not torch.equal(ours, first)
    assert (together.cg_iterations is None) == (kind != "rectangular")


@pytest.mark.parametrize("kind", ["coupling", "rectangular"])
def test_rows_that_all_share_are_evaluated_by_each(kind):
    ensemble, x = Ensemble(members(kind, "data"), [5, 6, 7]), torch.randn(9, 5).double()
    z = torch.randn(9, 3).double()
    for of_each, alone in [
        (ensemble.encode(x), lambda model: model.embed(x)),
        (ensemble.decode(z), lambda model: model.decoder(z).reconstruction),
        (ensemble.log_prob(x), lambda model: model.log_prob(x)),
        (ensemble.reconstruction_error(x), lambda m: (m.reconstruct(x) - x).square().sum(1)),
    ]:
        torch.testing.assert_close(of_each, torch.stack([alone(m) for m in ensemble.models]))


@pytest.mark.parametrize("kind", ["free-form", "rectangular"])
def test_a_learning_rate_of_each_member_is_the_rate_alone(kind):
    data = torch.randn(30, 5, dtype=torch.float64)
    options = {"epochs": 2, "batch_size": 10, "weight_decay": 1e-2}

    def schedule(highest):
        return lambda optimizer, steps: OneCycleLR(optimizer, max_lr=highest, total_steps=steps)

    rates = [1e-2, 3e-4, 1e-3]
    together = Ensemble(members(kind, "data"), [5, 6, 7])
    together.train(data, learning_rate=rates, schedule=schedule(1e-2), **options)
    for i, rate in enumerate(rates):
        alone = Ensemble(members(kind, "data")[i : i + 1], [5 + i])
        alone.train(data, learning_rate=rate, schedule=schedule(rate), **options)
        pairs = zip(
            together.members()[i].parameters(), alone.members()[0].parameters(), strict=True
        )
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
