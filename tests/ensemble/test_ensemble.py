"""Ensembles: a member is the FIF that would have been trained alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pythae.data.datasets import DatasetOutput
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseEncoder
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from pythae_fif import FIF, FIFConfig
from pythae_fif.ensemble import Ensemble, TrainingState, one_cycle
from pythae_fif.ensemble.group import split_members
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.models import RectangularFlow, RectangularFlowConfig
from pythae_fif.nn import ResidualDecoder, ResidualEncoder
from pythae_fif.nn.coupling import build_coupling
from pythae_fif.nn.tabular import TabularDecoder, TabularEncoder

D, LATENT = 4, 2


def build(beta=1.0, blocks=(2, 1), **options):
    config = FIFConfig(input_dim=(D,), latent_dim=LATENT, beta=beta, **options)
    encoder = ResidualEncoder(D, LATENT, blocks=blocks[0], width=8)
    return FIF(config, encoder, ResidualDecoder(D, LATENT, blocks=blocks[1], width=8)).double()


def train_alone(model, seed, data, epochs, batch_size, lr):
    """The same training as a plain loop over the model's own loss."""
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(model.train().parameters(), lr=lr)
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(data))
        for batch in order[: len(data) // batch_size * batch_size].split(batch_size):
            optimizer.zero_grad()
            model(DatasetOutput(data=data[batch]), epoch=epoch).loss.backward()
            optimizer.step()
    return model.eval()


@pytest.mark.parametrize(
    "options, compile",
    [
        ({}, False),
        ({"hutchinson_samples": 2, "noise": 0.0}, False),
        ({"beta_final": 5.0, "beta_epochs": 2, "latent_distribution": "student_t"}, False),
        ({"jacobian_at": "reconstruction"}, False),
        ({"gradient_to": "decoder", "trace_space": "data", "hutchinson_samples": 3}, False),
        pytest.param(
            {"hutchinson_kind": "rademacher", "blocks": (1, 0)}, True, marks=pytest.mark.slow
        ),
    ],
)
def test_a_member_is_the_model_trained_alone(options, compile):
    data = torch.randn(50, D, dtype=torch.float64)
    pairs = [(0.5, 3), (20.0, 3), (0.5, 4)]
    betas, seeds = zip(*pairs, strict=True)
    ensemble = Ensemble.build(lambda b: build(b, **options), betas, seeds, compile=compile)
    ensemble.train(data, epochs=2, batch_size=16, learning_rate=0.01)
    assert ensemble.backend == ("compiled" if compile else "eager")
    weights = []
    for member, beta, seed in zip(ensemble.members(), betas, seeds, strict=True):
        torch.manual_seed(seed)
        alone = train_alone(build(beta, **options), seed, data, 2, 16, 0.01)
        for ours, theirs in zip(member.parameters(), alone.parameters(), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-11)
        weights.append(next(member.parameters()))
    assert not torch.allclose(weights[0], weights[1])
    assert not torch.allclose(weights[0], weights[2])


def test_evaluation_in_chunks(monkeypatch):
    x = torch.randn(9, D, dtype=torch.float64)
    ensemble = Ensemble.build(build, [1.0, 2.0], [0, 1])
    whole = ensemble.log_prob(x)
    monkeypatch.setattr("pythae_fif.ensemble.ensemble.CHUNK_NUMEL", 2 * LATENT * 8 * 2)
    assert torch.allclose(ensemble.log_prob(x), whole)


@pytest.mark.parametrize("largest", [1, 2, 3, 5])
def test_members_in_groups_are_the_same(monkeypatch, largest):
    """Also in groups that overlap, of five members."""
    data, seeds = torch.randn(40, D, dtype=torch.float64), range(5)
    ends = []
    for numel in (2**20, largest * 10 * 8):
        monkeypatch.setattr(Ensemble, "group_numel", numel)
        ensemble = Ensemble.build(build, [1.0] * 5, seeds)
        ensemble.train(data, epochs=2, batch_size=10, learning_rate=0.01)
        ends.append(ensemble.encode(data))
    assert torch.allclose(*ends)


def test_a_diverged_member_does_not_touch_the_others():
    data = torch.randn(30, D, dtype=torch.float64)
    ensemble = Ensemble.build(build, [1.0, 1.0], [0, 1])
    alone = Ensemble.build(build, [1.0], [1])
    next(ensemble._nets.parameters()).data[0, 0, 0] = torch.nan
    for trained in (ensemble, alone):
        trained.train(data, epochs=1, batch_size=10)
    log_prob = ensemble.log_prob(data)
    assert log_prob[0].isnan().all()
    assert torch.allclose(log_prob[1], alone.log_prob(data)[0])


def test_data_of_each_members_own_and_schedule():
    data = torch.randn(2, 32, D, dtype=torch.float64)
    seen = []

    def schedule(optimizer, steps):
        seen.append(steps)
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)

    ensemble = Ensemble.build(build, [1.0, 1.0], [0, 0])
    epochs = []
    ensemble.train(data, epochs=3, batch_size=10, schedule=schedule, on_epoch=epochs.append)
    assert (set(seen), epochs) == ({9}, [1, 2, 3])
    single = Ensemble.build(build, [1.0], [0])
    single.train(data[1], epochs=3, batch_size=10, schedule=schedule)
    x = data[0]
    assert torch.allclose(ensemble.encode(x)[1], single.encode(x)[0])
    assert not torch.allclose(ensemble.encode(x)[0], single.encode(x)[0])


@pytest.mark.parametrize("resumed_in", [1, 2, 3], ids="groups of {}".format)
@pytest.mark.parametrize("kind", ["free-form", "rectangular"])
def test_a_training_that_goes_on_is_the_uninterrupted_one(kind, resumed_in, monkeypatch, tmp_path):
    data, kept = torch.randn(30, 5).double(), tmp_path / "state.pt"
    options = {"batch_size": 10, "learning_rate": [1e-2, 3e-4, 1e-3], "schedule": one_cycle}

    def trained(members_in_group, state=None, on_epoch=lambda epoch: None):
        monkeypatch.setattr(Ensemble, "group_numel", members_in_group * 10 * 16)
        ensemble = Ensemble(members(kind, "data"), [5, 6, 7])
        keep = on_epoch if state else lambda epoch: on_epoch(epoch) or save(ensemble, epoch)
        ensemble.train(data, epochs=3, state=state, on_epoch=keep, **options)
        return ensemble

    def save(ensemble, epoch):
        if epoch == 1:
            torch.save(ensemble.training_state().to_dict(), kept)

    whole = trained(3)
    epochs = []
    state = TrainingState.from_dict(torch.load(kept, weights_only=True))
    resumed = trained(resumed_in, state, epochs.append)
    assert epochs == [2, 3]
    exact = {"rtol": 1e-6, "atol": 1e-8} if resumed_in < 3 else {"rtol": 0, "atol": 0}
    if resumed_in == 3:
        assert resumed.cg_iterations == whole.cg_iterations
        with pytest.raises(ConfigError, match="of an ensemble of other members or networks"):
            Ensemble(members(kind, "data")[:2], [5, 6]).train(
                data, epochs=3, batch_size=10, state=state
            )
        with pytest.raises(ConfigError, match="while it trains: ask in on_epoch"):
            resumed.training_state()
    for ours, theirs in zip(resumed.members(), whole.members(), strict=True):
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), **exact)


def test_one_model_is_one_member():
    with pytest.raises(ConfigError, match="one model stands for two members"):
        Ensemble([build()] * 2, [0, 1])


def test_the_global_random_state_is_kept():
    state = torch.get_rng_state()
    Ensemble.build(build, [1.0], [0])
    assert torch.equal(torch.get_rng_state(), state)


class Conv(BaseEncoder):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv1d(1, LATENT, D)

    def forward(self, x):
        return ModelOutput(embedding=self.layer(x[:, None])[..., 0])


class Flattening(BaseEncoder):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(D, LATENT)

    def forward(self, x):
        return ModelOutput(embedding=self.layer(x.reshape(-1, D)))


def with_encoder(encoder, input_dim=(D,)):
    config = FIFConfig(input_dim=input_dim, latent_dim=LATENT)
    return FIF(config, encoder, ResidualDecoder(D, LATENT))


@pytest.mark.parametrize(
    "models, seeds, message",
    [
        (lambda: [], [], "at least 1"),
        (lambda: [build()], [0, 1], "as many seeds"),
        (lambda: [build(), build(hutchinson_samples=2)], [0, 1], "agree in hutchinson_samples"),
        (lambda: [build(mode="mixed")], [0], "mode='replay'"),
        (lambda: [build(surrogate_fraction=0.5)], [0], "surrogate_fraction=1.0"),
        (lambda: [build(whiten=True)], [0], "whiten=False"),
        (lambda: [build().requires_grad_(False)], [0], "frozen"),
        (lambda: [with_encoder(ResidualEncoder(D, LATENT), None)], [0], "models with input_dim"),
        (lambda: [FIF(FIFConfig(input_dim=(1, 4, 4)))], [0], "models with input_dim"),
        (lambda: [with_encoder(Conv())], [0], "only linear"),
        (lambda: [with_encoder(Flattening()), with_encoder(Flattening())], [0, 1], "stacked"),
        (
            lambda: [
                with_encoder(ResidualEncoder(D, LATENT)),
                with_encoder(ResidualEncoder(D, LATENT, width=3)),
            ],
            [0, 1],
            "same layers",
        ),
    ],
)
def test_what_cannot_be_stacked(models, seeds, message):
    with pytest.raises(ConfigError, match=message):
        Ensemble(models(), seeds)


@pytest.mark.parametrize(
    ("shape", "rates", "batch_size"),
    [
        ((9, D), [1e-3], 3),
        ((9, D), [1e-3] * 3, 3),
        ((3, 9, D), 1e-3, 3),
        ((0, D), 1e-3, 3),
        ((9, D + 1), 1e-3, 3),
        ((D,), 1e-3, 3),
        ((9, D), 1e-3, 0),
    ],
)
def test_rates_data_and_batches_of_other_sizes_are_refused(shape, rates, batch_size):
    with pytest.raises(ConfigError, match=r"an ensemble of 2 .* \(2, N, 4\) are needed"):
        Ensemble([build(), build()], [0, 1]).train(
            torch.rand(shape), epochs=1, batch_size=batch_size, learning_rate=rates
        )


@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 16))
def test_groups_keep_every_thread_busy(members, largest, threads):
    slices = split_members(members, largest, threads)
    assert [i for part in slices for i in range(members)[part]] == list(range(members))
    sizes = {len(range(members)[part]) for part in slices}
    assert max(sizes) <= largest and max(sizes) - min(sizes) <= 1
    assert len(slices) >= min(members, threads)
    # Of groups that differ there are enough for turns to even them out.
    assert len(sizes) == 1 or len(slices) != threads or threads == 1


def test_five_on_two_cores_are_not_two_against_three():
    assert [s.stop - s.start for s in split_members(5, largest=4, threads=2)] == [1, 2, 2]


def test_a_failing_compiler_is_recorded(monkeypatch):
    def fails(graph, **_):
        def step(*_):
            raise RuntimeError("no C++ compiler\nmore lines")

        return step

    monkeypatch.setattr(torch, "compile", fails)
    data = torch.randn(20, D, dtype=torch.float64)
    ensemble = Ensemble.build(build, [1.0], [0], compile=True)
    ensemble.train(data, epochs=1, batch_size=10)
    assert ensemble.backend == "eager: torch.compile failed: no C++ compiler"
    eager = Ensemble.build(build, [1.0], [0], compile=False)
    eager.train(data, epochs=1, batch_size=10)
    assert eager.backend == "eager"
    assert torch.equal(ensemble.encode(data), eager.encode(data))


# ---------------------------------------------------------------- other estimators and networks


def members(kind, jacobian_at, **options):
    shape = {"input_dim": (5,), "latent_dim": 3}
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        if kind == "free-form":
            nets = TabularEncoder(**shape, hidden_dim=16), TabularDecoder(**shape, hidden_dim=16)
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


@pytest.mark.parametrize("kind", ["free-form", "coupling", "rectangular"])
def test_rows_that_all_share_are_evaluated_by_each(kind):
    ensemble, x = Ensemble(members(kind, "data"), [5, 6, 7]), torch.randn(9, 5).double()
    z = torch.randn(9, 3).double()
    for of_each, alone in [
        (ensemble.encode(x), lambda model: model.embed(x)),
        (ensemble.decode(z), lambda model: model.decoder(z).reconstruction),
        (ensemble.log_prob(x), lambda model: model.log_prob(x)),
        (ensemble.log_prob(x.expand(3, 9, 5)), lambda model: model.log_prob(x)),
        (ensemble.reconstruction_error(x), lambda m: (m.reconstruct(x) - x).square().sum(1)),
    ]:
        torch.testing.assert_close(of_each, torch.stack([alone(m) for m in ensemble.models]))
    with pytest.raises(DataError, match=r"takes rows \(N, D\) or \(M, N, D\), not \(5,\)"):
        ensemble.log_prob(x[0])


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
