"""Flow matching in data space: it finds the data, and its likelihood is exact without noise."""

import numpy as np
import pytest
import torch

from pythae_fif.baselines import FlowMatching, FlowMatchingConfig
from pythae_fif.data import Splits
from pythae_fif.errors import ConfigError
from pythae_fif.evaluation import Features, frechet_distance
from pythae_fif.evaluation.likelihood import marginal_likelihoods

MEAN = torch.tensor([2.0, 0.0, -1.0])


def draw(count):
    """Returns rows of a Gaussian around `MEAN` with standard deviation 0.5."""
    return 0.5 * torch.randn(count, 3) + MEAN


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = FlowMatching(FlowMatchingConfig(input_dim=(3,), latent_dim=3))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        model({"data": draw(200)}, epoch=1).loss.backward()
        optimizer.step()
    return model.eval()


def test_samples_and_density_are_those_of_the_data(trained):
    torch.manual_seed(1)
    x = draw(2000)
    assert frechet_distance(Features(trained.sample(2000)), Features(x)) < 0.05
    expected = torch.distributions.Normal(MEAN, 0.5).log_prob(x).sum(1).mean()
    log_prob = trained.log_prob(x)
    assert float(log_prob.mean()) == pytest.approx(float(expected), abs=0.05)

    some = x[:100]
    assert log_prob[:100].allclose(trained.decoder.flow.log_prob(some), atol=1e-4)
    assert trained.reconstruct(some).allclose(some, atol=1e-4)


def test_trainers_get_the_loss_alone(trained):
    x = draw(20)
    assert trained({"data": x}, dataset_size=20, position=0).keys() == {"loss"}
    output = trained({"data": x})
    assert {"loss", "z", "recon_x"} <= output.keys()
    assert output.z.allclose(trained.encode(x))


def test_the_benchmark_scores_its_likelihood_without_noise(trained):
    rows = {name: draw(60).numpy() for name in ("train", "val", "test")}
    splits = Splits("rows", **rows, labels=None, source="", partial=False)
    options = {"num_samples": 1000, "train_seconds": np.inf, "seed": 0, "steps": None}
    scores = marginal_likelihoods(trained, ["normal"], splits, {}, **options)
    likelihood = scores["normal"]["test"]
    expected = trained.log_prob(rows["test"][likelihood.examples]).numpy()
    np.testing.assert_allclose(likelihood.nats, expected, atol=1e-4)
    assert likelihood.score.scale == 0


@pytest.mark.parametrize("shape", [(1, 8, 8), (4,), None])
def test_it_takes_rows_of_as_many_columns_as_codes(shape):
    with pytest.raises(ConfigError, match=r"latent_dim=3 and input_dim=.*: rows"):
        FlowMatchingConfig(input_dim=shape, latent_dim=3)
