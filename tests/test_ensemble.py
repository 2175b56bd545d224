"""An ensemble: every member ends where its model ends if it is trained by itself."""

import copy
from dataclasses import fields

import pytest
import torch
from pythae.data.datasets import DatasetOutput
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from pythae_fif import FIF, FIFConfig
from pythae_fif.ensemble import UNSUPPORTED_FIELDS, Ensemble
from pythae_fif.errors import ConfigError
from pythae_fif.nn import ResidualDecoder, ResidualEncoder
from pythae_fif.training import TracedStep

D = 4
LATENT = 2


def build(beta=1.0, width=8, **options):
    """A small FIF in float64."""
    config = FIFConfig(**{"input_dim": (D,), **options}, latent_dim=LATENT, beta=beta)
    encoder = ResidualEncoder(D, LATENT, blocks=1, width=width)
    return FIF(config, encoder, ResidualDecoder(D, LATENT, blocks=1, width=8)).double()


def train_by_loop(model, seed, data, epochs, batch_size, lr):
    """Trains one model as an ensemble would, in a plain loop over the model's loss."""
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(model.train().parameters(), lr=lr)
    schedule = OneCycleLR(optimizer, lr, total_steps=epochs * (len(data) // batch_size))
    used_rows = len(data) // batch_size * batch_size

    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(data))
        for batch in order[:used_rows].split(batch_size):
            optimizer.zero_grad()
            model(DatasetOutput(data=data[batch]), epoch=epoch).loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def build_ensemble(betas, seeds, noises=(0.01, 0.01, 0.01), **options):
    """An ensemble in which each member's weights are drawn with its seed."""
    models = []
    for beta, seed, noise in zip(betas, seeds, noises, strict=False):
        torch.manual_seed(seed)
        models.append(build(beta, noise=noise, **options))
    return Ensemble(models, seeds)


@pytest.mark.parametrize(
    "options, min_steps",
    [
        ({"input_dim": None}, 0),
        ({"hutchinson_samples": 2}, 0),
        ({"latent_distribution": "student_t", "hutchinson_kind": "gaussian"}, 200),
        ({"jacobian_at": "reconstruction", "hutchinson_kind": "rademacher"}, 200),
    ],
)
def test_a_member_equals_the_model_trained_by_itself(options, min_steps, monkeypatch):
    monkeypatch.setitem(TracedStep.__init__.__kwdefaults__, "min_steps", min_steps)
    data = torch.randn(50, D, dtype=torch.float64)
    betas = (0.5, 20.0, 4.0)
    seeds = (3, 3, 4)
    noises = (0.01, 0.0, 0.3)
    ensemble = build_ensemble(betas, seeds, noises, **options)

    epochs = []
    global_state = torch.get_rng_state()
    ensemble.train(
        data,
        epochs=2,
        batch_size=16,
        learning_rate=0.01,
        one_cycle=True,
        on_epoch=epochs.append,
    )
    assert torch.equal(torch.get_rng_state(), global_state)
    assert epochs == [1, 2]

    weights = []
    for member, beta, seed, noise in zip(ensemble.models, betas, seeds, noises, strict=True):
        torch.manual_seed(seed)
        model = build(beta, noise=noise, **options)
        train_by_loop(model, seed, data, epochs=2, batch_size=16, lr=0.01)
        for actual, expected in zip(member.parameters(), model.parameters(), strict=True):
            assert torch.allclose(actual, expected, rtol=1e-9, atol=1e-11)
        weights.append(next(member.parameters()))
    assert not torch.allclose(weights[0], weights[1])
    assert not torch.allclose(weights[0], weights[2])


def test_rows_are_evaluated_by_each_member(monkeypatch):
    """Members share rows or have different ones, and are evaluated together or in chunks."""
    ensemble = build_ensemble([1.0, 2.0], [0, 1])
    x = torch.randn(9, D).double()
    z = torch.randn(9, LATENT).double()
    for _ in range(2):
        for actual, evaluate in [
            (ensemble.encode(x), lambda model: model.embed(x)),
            (ensemble.decode(z), lambda model: model.decoder(z).reconstruction),
            (ensemble.log_prob(x), lambda model: model.log_prob(x)),
            (ensemble.log_prob(x.expand(2, 9, D)), lambda model: model.log_prob(x)),
            (ensemble.reconstruction_error(x), lambda m: (m.reconstruct(x) - x).square().sum(1)),
        ]:
            expected = torch.stack([evaluate(model) for model in ensemble.models])
            torch.testing.assert_close(actual, expected)
        monkeypatch.setattr("pythae_fif.ensemble.MEMBERS_PER_CHUNK", 1)


def test_a_diverged_member_does_not_change_the_others():
    data = torch.randn(30, D, dtype=torch.float64)
    single = build_ensemble([1.0], [1])
    ensemble = build_ensemble([1.0, 1.0], [0, 1])
    ensemble._weights["encoder.embedding.weight"].data[0] = torch.nan
    ensemble.train(data, epochs=1, batch_size=10)
    single.train(data, epochs=1, batch_size=10)

    log_prob = ensemble.log_prob(data)
    assert log_prob[0].isnan().all()
    assert torch.allclose(log_prob[1], single.log_prob(data)[0])


def build_with_extra_module(make_module):
    """A FIF that has `make_module(model)` as a further module of its decoder."""
    model = build()
    model.decoder.extra = make_module(model)
    return model


@pytest.mark.parametrize(
    "models, message",
    [
        (lambda: [build(), build(hutchinson_samples=2)], "not in hutchinson_samples: 1 and 2"),
        (lambda: [build(3.0), build("auto")], "need a number for beta"),
        (
            lambda: [build_with_extra_module(lambda _: nn.BatchNorm1d(D))],
            "without buffers, but these have .*running_mean",
        ),
        (
            lambda: [build_with_extra_module(lambda model: model.encoder)],
            "do not share weights",
        ),
        (
            lambda: [
                build_with_extra_module(lambda _, cls=cls: cls()) for cls in (nn.SiLU, nn.Tanh)
            ],
            "same layers and settings",
        ),
        (
            lambda: [build_with_extra_module(lambda _: nn.Linear(2, 2).requires_grad_(False))],
            "frozen",
        ),
        (lambda: [build_with_extra_module(lambda _: nn.Dropout(0.1))], "dropout"),
    ],
)
def test_models_that_cannot_be_stacked_are_refused(models, message):
    with pytest.raises(ConfigError, match=message):
        Ensemble(models(), range(len(models())))


class PenalizedFIF(FIF):
    """A FIF with a further term of the loss."""

    def total_loss(self, x, terms):
        return super().total_loss(x, terms) + terms.z.square().sum(1).mean()


def test_a_further_term_of_the_loss_is_used():
    data = torch.randn(20, D, dtype=torch.float64)
    plain = build()
    member = PenalizedFIF(plain.model_config, plain.encoder, plain.decoder)
    by_itself = copy.deepcopy(member)
    initial = copy.deepcopy(plain)
    train_by_loop(by_itself, 0, data, epochs=1, batch_size=10, lr=0.01)
    train_by_loop(initial, 0, data, epochs=1, batch_size=10, lr=0.01)

    Ensemble([member], [0]).train(data, epochs=1, batch_size=10, learning_rate=0.01, one_cycle=True)
    for actual, expected in zip(member.parameters(), by_itself.parameters(), strict=True):
        assert torch.allclose(actual, expected, rtol=1e-9, atol=1e-11)
    pairs = zip(member.parameters(), initial.parameters(), strict=True)
    assert not all(torch.allclose(actual, other) for actual, other in pairs)


OTHER_VALUES = {
    "input_dim": (D,),
    "latent_dim": LATENT,
    "noise": 0.3,
    "latent_distribution": "multivariate_student_t",
    "student_t_df": 3.0,
    "beta": 7.0,
    "hutchinson_samples": 2,
    "hutchinson_kind": "rademacher",
    "jacobian_at": "detached_reconstruction",
    "fitted_prior": "gaussian",
    "beta_final": 20.0,
    "surrogate_fraction": 0.5,
    "condition_dim": 3,
}
"""A value of each field of `FIFConfig` that is not the default."""


def test_every_field_has_another_value():
    without_meaning = {"name", "uses_default_encoder", "uses_default_decoder"}
    assert OTHER_VALUES.keys() == {field.name for field in fields(FIFConfig)} - without_meaning


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_each_field_is_used_or_refused(field):
    options = {"latent_distribution": "student_t", field: OTHER_VALUES[field]}
    options.pop("latent_dim", None)  # `build` sets it
    torch.manual_seed(0)
    model = build(**options)
    if field in UNSUPPORTED_FIELDS:
        with pytest.raises(ConfigError, match=f"does not support {field}"):
            Ensemble([model], [0])
        return

    data = torch.randn(20, D, dtype=torch.float64)
    by_itself = copy.deepcopy(model)
    train_by_loop(by_itself, 0, data, epochs=1, batch_size=10, lr=0.01)
    ensemble = Ensemble([model], [0])
    ensemble.train(data, epochs=1, batch_size=10, learning_rate=0.01, one_cycle=True)
    for actual, expected in zip(model.parameters(), by_itself.parameters(), strict=True):
        assert torch.allclose(actual, expected, rtol=1e-9, atol=1e-11)
