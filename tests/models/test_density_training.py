"""Tests of the training of densities: its fixed length, its automatic length, its best weights."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pythae_fif.models import density_training
from pythae_fif.models.density_training import train_density, train_until_converged
from pythae_fif.models.fitted_priors import FlowPrior, fit_new_prior

pytestmark = pytest.mark.usefixtures("one_thread")


class Gaussian(torch.nn.Module):
    """A normal distribution with a trained mean and scale; it records the data of each loss."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.nn.Parameter(torch.zeros(()))
        self.log_scale = torch.nn.Parameter(torch.zeros(()))
        self.training_values: set[float] = set()
        self.held_out_values: list[set[float]] = []
        self.held_out_losses: list[float] = []

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        normal = torch.distributions.Normal(self.mean, self.log_scale.exp())
        loss = -normal.log_prob(x).mean()
        if self.training:
            self.training_values |= set(x.flatten().tolist())
        else:
            self.held_out_values.append(set(x.flatten().tolist()))
            self.held_out_losses.append(loss.item())
        return loss


def train_as_before(module, loss, data, steps):
    """The training of version 0.3's first revisions, by which the committed runs were made."""
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    module.train()
    for _ in range(steps):
        rows = torch.randint(len(data[0]), (min(100, len(data[0])),))
        optimizer.zero_grad()
        loss(*(tensor[rows] for tensor in data)).backward()
        optimizer.step()
        schedule.step()


@settings(max_examples=3)
@given(count=st.sampled_from([30, 250]), steps=st.integers(1, 6))
def test_a_given_number_of_steps_has_the_same_result_as_ever(count, steps):
    codes = torch.randn(count, 2)
    torch.manual_seed(1)
    expected = FlowPrior(2, 0).requires_grad_(True)
    new = copy.deepcopy(expected)

    torch.manual_seed(2)
    train_as_before(expected, lambda x: -expected.log_prob(x).mean(), [codes], steps)
    torch.manual_seed(2)
    train_density(new, lambda x: -new.log_prob(x).mean(), [codes], steps)

    for name, value in expected.state_dict().items():
        assert torch.equal(value, new.state_dict()[name]), name


def test_held_out_codes_are_a_tenth_and_never_trained_on():
    module = Gaussian()
    codes = torch.randn(500, 1)
    train_until_converged(module, module.loss, [codes])

    held_out = module.held_out_values[0]
    assert len(held_out) == 50
    assert all(values == held_out for values in module.held_out_values)
    assert not held_out & module.training_values


def test_it_ends_with_the_weights_of_the_lowest_held_out_loss(monkeypatch):
    monkeypatch.setattr(density_training, "MAX_STEPS_PER_RATE", 500)
    module = Gaussian()
    codes = 5 + 2 * torch.randn(300, 1)
    train_until_converged(module, module.loss, [codes])

    lowest = min(module.held_out_losses)
    held_out = torch.tensor(sorted(module.held_out_values[0]))
    module.eval()
    assert module.loss(held_out).item() == pytest.approx(lowest, abs=1e-5)
    assert lowest < module.held_out_losses[0] - 2


@pytest.mark.parametrize(
    ("count", "interval"), [(1, 50), (2, 50), (9, 50), (8000, 72), (60_000, 200)]
)
def test_checks_follow_the_number_of_codes(count, interval, monkeypatch):
    monkeypatch.setattr(density_training, "MAX_STEPS_PER_RATE", interval)
    module = Gaussian()
    steps = train_until_converged(module, module.loss, [torch.randn(count, 1)])
    assert steps == 3 * interval
    assert len(module.held_out_values) == 4


def test_a_random_loss_is_compared_with_the_same_random_numbers():
    module = Gaussian()
    draws = []

    def loss(x):
        noise = torch.randn(())
        if not module.training:
            draws.append(noise.item())
        return module.mean.square()

    train_until_converged(module, loss, [torch.randn(40, 1)])
    assert len(set(draws)) == 1


def test_a_training_that_diverges_returns_to_its_best_weights():
    module = Gaussian()

    def loss(x):
        return module.loss(x) if not module.training else module.mean * math.nan

    train_until_converged(module, loss, [torch.randn(40, 1)])
    assert float(module.mean) == 0


@pytest.mark.slow
def test_a_flow_trains_longer_on_more_codes_and_does_not_overfit_few():
    def codes(count):
        angle = 2 * math.pi * torch.rand(count)
        ring = torch.stack([angle.cos(), angle.sin()], 1)
        return ring + 0.2 * torch.randn(count, 2)

    few = codes(100)
    new_codes = codes(2000)
    automatic = fit_new_prior("flow", few).log_prob(new_codes).mean()
    fixed = fit_new_prior("flow", few, steps=600).log_prob(new_codes).mean()
    assert automatic > fixed + 0.1
