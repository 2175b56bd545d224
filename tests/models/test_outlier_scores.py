"""`outlier_scores`: three numbers for each point, and their quantiles among validation data."""

import numpy as np
import pandas as pd
import pytest
import torch
from pythae.models import AE, AEConfig

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.data import load_table
from pythae_fif.models import as_density
from pythae_fif.nn import build_networks


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Rows near a plane in three dimensions, in other units."""
    codes = np.random.default_rng(0).normal(size=(400, 2))
    noise = 0.1 * np.random.default_rng(1).normal(size=400)
    return pd.DataFrame({
        "a": 100 * codes[:, 0],
        "b": codes[:, 1],
        "c": codes.sum(1) + noise,
    })  # fmt: skip


@pytest.fixture(scope="module")
def model(frame, tmp_path_factory) -> FIF:
    splits = load_table(frame)
    torch.manual_seed(0)
    networks = build_networks("tabular_small", (3,), 2)
    model = FIF(FIFConfig(input_dim=(3,), latent_dim=2), *networks)
    model.columns = splits.columns
    folder = tmp_path_factory.mktemp("fif")
    config = FIFTrainerConfig(output_dir=str(folder), num_epochs=20, learning_rate=1e-3)
    FIFTrainer(model, splits.train, splits.val, config).train()
    return model.cpu()


@pytest.mark.parametrize("original_units", [False, True])
def test_scores_are_those_of_the_models_methods(model, frame, original_units):
    units = {"original_units": original_units}
    scores = model.outlier_scores(frame, **units)
    torch.testing.assert_close(scores.log_likelihood, model.log_prob(frame, **units))
    x = torch.tensor(model.columns.transform(frame), dtype=torch.float32)
    torch.testing.assert_close(scores.distance, (model.reconstruct(x) - x).norm(dim=1))
    torch.manual_seed(1)
    marginal = model.marginal_log_prob(frame, model.noise_std, samples=500, **units)
    assert (scores.marginal_log_likelihood - marginal).abs().median() < 0.1


def test_the_scores_of_a_row_do_not_depend_on_the_other_rows(model, frame):
    model = model.double()
    scores = model.outlier_scores(frame).values()
    state = torch.get_rng_state()
    for name, values in model.outlier_scores(frame[7:9]).values().items():
        torch.testing.assert_close(values, scores[name][7:9], rtol=0, atol=1e-9)
    assert torch.equal(torch.get_rng_state(), state)
    model.float()


def test_quantiles_are_large_for_unusual_rows(model, frame):
    validation = model.outlier_scores(frame)
    usual = pd.DataFrame({"a": [0.0], "b": [0.0], "c": [0.0]})
    off_the_plane = usual.assign(c=3.0)
    far_on_the_plane = pd.DataFrame({"a": [400.0], "b": [4.0], "c": [8.0]})

    usual_shares = model.outlier_scores(usual).quantiles(validation)
    assert usual_shares["log_likelihood"] < 0.3
    assert usual_shares["marginal_log_likelihood"] < 0.5
    off_shares = model.outlier_scores(off_the_plane).quantiles(validation)
    assert off_shares["distance"] == 1
    assert off_shares["marginal_log_likelihood"] == 1
    far_shares = model.outlier_scores(far_on_the_plane).quantiles(validation)
    assert far_shares["log_likelihood"] == 1
    assert far_shares["marginal_log_likelihood"] == 1

    for shares in validation.quantiles(validation).values():  # uniform: 0, 1/400, 2/400, ...
        assert shares.mean().item() == pytest.approx(0.5, abs=0.01)


def test_a_model_without_noise_std_has_no_marginal_likelihood():
    density = as_density(AE(AEConfig(input_dim=(3,), latent_dim=2)))
    assert [*density.outlier_scores(torch.zeros(5, 3)).values()] == ["log_likelihood", "distance"]


def test_labels_of_a_conditional_model():
    torch.manual_seed(0)
    model = FIF(FIFConfig(input_dim=(3,), latent_dim=2, condition_dim=2))
    x = torch.randn(4, 3)
    model.calibrate(x, 1)
    scores = model.outlier_scores(x, [0, 1, 1, 0])
    torch.testing.assert_close(scores.log_likelihood, model.log_prob(x, [0, 1, 1, 0]))
    assert scores.marginal_log_likelihood.isfinite().all()
