"""An ensemble: every member ends where its model ends alone."""

import pytest
import torch
from pythae.data.datasets import DatasetOutput
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from pythae_fif import FIF, FIFConfig
from pythae_fif.ensemble import Ensemble
from pythae_fif.errors import ConfigError
from pythae_fif.nn import ResidualDecoder, ResidualEncoder

D, LATENT = 4, 2


def build(beta=1.0, width=8, **options):
    config = FIFConfig(**{"input_dim": (D,), **options}, latent_dim=LATENT, beta=beta)
    encoder = ResidualEncoder(D, LATENT, blocks=1, width=width)
    return FIF(config, encoder, ResidualDecoder(D, LATENT, blocks=1, width=8)).double()


def train_alone(model, seed, data, epochs, batch_size, lr):
    """The same training as a plain loop over the model's own loss."""
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(model.train().parameters(), lr=lr)
    schedule = OneCycleLR(optimizer, lr, total_steps=epochs * (len(data) // batch_size))
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(data))
        for batch in order[: len(data) // batch_size * batch_size].split(batch_size):
            optimizer.zero_grad()
            model(DatasetOutput(data=data[batch]), epoch=epoch).loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def built(betas, seeds, noises=(0.01, 0.01, 0.01), **options):
    models = []
    for beta, seed, noise in zip(betas, seeds, noises, strict=False):
        torch.manual_seed(seed)
        models.append(build(beta, noise=noise, **options))
    return Ensemble(models, seeds)


@pytest.mark.parametrize(
    "options, trace_from",
    [
        ({"input_dim": None}, 0),
        ({"hutchinson_samples": 2}, 0),
        ({"latent_distribution": "student_t", "hutchinson_kind": "gaussian"}, 200),
        ({"jacobian_at": "reconstruction", "hutchinson_kind": "rademacher"}, 200),
    ],
)
def test_a_member_is_the_model_trained_alone(options, trace_from, monkeypatch):
    monkeypatch.setattr("pythae_fif.ensemble.TRACE_FROM_STEPS", trace_from)
    data, epochs = torch.randn(50, D, dtype=torch.float64), []
    betas, seeds, noises = (0.5, 20.0, 4.0), (3, 3, 4), (0.01, 0.0, 0.3)
    ensemble = built(betas, seeds, noises, **options)
    state = torch.get_rng_state()
    sizes = {"epochs": 2, "batch_size": 16, "learning_rate": 0.01}
    ensemble.train(data, **sizes, one_cycle=True, on_epoch=epochs.append)
    assert torch.equal(torch.get_rng_state(), state)  # of others' random numbers
    assert epochs == [1, 2]
    weights = []
    for member, beta, seed, noise in zip(ensemble.models, betas, seeds, noises, strict=True):
        torch.manual_seed(seed)
        alone = train_alone(build(beta, noise=noise, **options), seed, data, 2, 16, 0.01)
        for ours, theirs in zip(member.parameters(), alone.parameters(), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-11)
        weights.append(next(member.parameters()))
    assert not torch.allclose(weights[0], weights[1])
    assert not torch.allclose(weights[0], weights[2])


def test_rows_are_evaluated_by_each(monkeypatch):
    """Those that all share, those of each, and in chunks."""
    ensemble, x = built([1.0, 2.0], [0, 1]), torch.randn(9, D).double()
    z = torch.randn(9, LATENT).double()
    for _ in range(2):
        for of_each, alone in [
            (ensemble.encode(x), lambda model: model.embed(x)),
            (ensemble.decode(z), lambda model: model.decoder(z).reconstruction),
            (ensemble.log_prob(x), lambda model: model.log_prob(x)),
            (ensemble.log_prob(x.expand(2, 9, D)), lambda model: model.log_prob(x)),
            (ensemble.reconstruction_error(x), lambda m: (m.reconstruct(x) - x).square().sum(1)),
        ]:
            torch.testing.assert_close(of_each, torch.stack([alone(m) for m in ensemble.models]))
        monkeypatch.setattr("pythae_fif.ensemble.CHUNK", 1)


def test_a_diverged_member_does_not_touch_the_others():
    data = torch.randn(30, D, dtype=torch.float64)
    alone, ensemble = built([1.0], [1]), built([1.0, 1.0], [0, 1])
    ensemble._weights["encoder.embedding.weight"].data[0] = torch.nan
    for trained in (ensemble, alone):
        trained.train(data, epochs=1, batch_size=10)
    log_prob = ensemble.log_prob(data)
    assert log_prob[0].isnan().all()
    assert torch.allclose(log_prob[1], alone.log_prob(data)[0])


def extended(module):
    model = build()
    model.decoder.extra = module(model)
    return model


@pytest.mark.parametrize(
    "models, message",
    [
        (lambda: [build(), build(hutchinson_samples=2)], "alike but for beta and noise"),
        (lambda: [build(3.0), build("auto")], "alike but for beta and noise"),
        (lambda: [build(surrogate_fraction=0.5)], "surrogate_fraction=1.0"),
        (lambda: [build(condition_dim=3)], "condition_dim=0"),
        (lambda: [extended(lambda of: nn.BatchNorm1d(D))], "without buffers, not .*running_mean"),
        (lambda: [extended(lambda of: of.encoder)], "share no weights"),
    ],
)
def test_what_cannot_be_stacked(models, message):
    with pytest.raises(ConfigError, match=message):
        Ensemble(models(), range(len(models())))
