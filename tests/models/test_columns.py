"""Models of tables know their columns: DataFrames in original units go in and come out."""

import numpy as np
import pandas as pd
import pytest
import torch
from pythae.models import AE, AEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.data import load_table
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.models import InjectiveFlow, as_density
from pythae_fif.models.config import InjectiveFlowConfig
from pythae_fif.models.saved import load_model
from pythae_fif.nn import build_networks

FRAME = pd.DataFrame(
    np.random.default_rng(0).normal([5, -2, 0], [2, 30, 0.1], (150, 3)), columns=[*"abc"]
).assign(kind="x")
SPLITS = load_table(FRAME)
ROWS = FRAME.iloc[SPLITS.example_ids["test"]]


def make_model(latent_dim: int = 2) -> FIF:
    """Returns a model of the table in double precision."""
    torch.manual_seed(0)
    networks = build_networks("tabular", (3,), latent_dim)
    model = FIF(FIFConfig(input_dim=(3,), latent_dim=latent_dim), *networks).double()
    model.columns = SPLITS.columns
    return model


@pytest.mark.parametrize("method", ["log_prob", "encode", "reconstruct"])
def test_columns_are_found_by_name(method):
    model = make_model()
    expected = getattr(model, method)(SPLITS.columns.transform(ROWS))
    shuffled = ROWS[["kind", "c", "a", "b"]].rename(columns={"a": " a "})
    torch.testing.assert_close(getattr(model, method)(shuffled), expected, rtol=0, atol=0)
    np.testing.assert_allclose(SPLITS.columns.transform(ROWS), SPLITS.test, atol=1e-6)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (ROWS.drop(columns="b"), "the table has no column 'b': the model needs a, b, c, each once"),
        (ROWS.assign(**{"b ": 0}), "the table has 2 columns 'b': the model needs a, b, c"),
        (ROWS.assign(b="much"), "column 'b' needs numbers as in training .*'much'"),
        (
            ROWS.assign(b=[1, 2, np.nan, np.inf, *[0] * (len(ROWS) - 4)]),
            r"2 of 15 rows have missing or infinite values, the first is row 2 \(from 0\)",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_one_line(frame, message):
    with pytest.raises(DataError, match=message) as error:
        make_model().log_prob(frame)
    assert "\n" not in str(error.value)


def test_a_model_without_columns_warns_of_a_table():
    model = make_model()
    model.columns = None
    with pytest.warns(UserWarning, match="FIF has no columns, so a DataFrame must be standardised"):
        model.log_prob(FRAME.drop(columns="kind").head(3))


def test_formatted_numbers_are_read_as_in_training():
    formatted = ROWS.assign(b=[f"{1000 + value:,.1f}" for value in ROWS["b"]])
    numbers = ROWS.assign(b=(1000 + ROWS["b"]).round(1))
    columns = SPLITS.columns
    np.testing.assert_allclose(columns.transform(formatted), columns.transform(numbers))


def test_samples_in_original_units():
    model = make_model()
    frame = model.sample((4, 5), as_frame=True, generator=torch.Generator().manual_seed(1))
    rows = model.sample(20, generator=torch.Generator().manual_seed(1))
    assert [*frame] == [*"abc"]
    np.testing.assert_allclose(frame, SPLITS.columns.inverse_transform(rows.numpy()))
    assert frame["b"].std() > 20 * frame["c"].std()

    model.columns = None
    with pytest.raises(ConfigError, match=r"does not know the columns .* set model\.columns"):
        model.sample(3, as_frame=True)


def linear_model(weight: torch.Tensor) -> InjectiveFlow:
    """Returns the density of x = W z, z standard normal, with the pseudoinverse as encoder."""

    class F(BaseEncoder):
        def forward(self, x):
            return ModelOutput(embedding=x @ torch.linalg.pinv(weight).T)

    class G(BaseDecoder):
        def forward(self, z):
            return ModelOutput(reconstruction=z @ weight.T)

    encoder, decoder = F(), G()
    encoder.scale = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    model = InjectiveFlow(InjectiveFlowConfig((3,), weight.shape[1]), encoder, decoder)
    model.columns = SPLITS.columns
    return model


@pytest.mark.parametrize("latent_dim", [2, 3])
def test_densities_in_original_units(latent_dim):
    """The density of the rescaled manifold; for d = D the sum of the log scales is subtracted."""
    weight = torch.randn(3, latent_dim, dtype=torch.float64, generator=torch.manual_seed(0))
    model = linear_model(weight)
    x = torch.tensor(SPLITS.columns.transform(ROWS))
    std = torch.tensor(SPLITS.columns.std, dtype=torch.float64)

    rescaled = linear_model(std[:, None] * weight)
    expected = rescaled.log_prob(model.reconstruct(x) * std)
    torch.testing.assert_close(model.log_prob(ROWS, original_units=True), expected)
    if latent_dim == 3:
        torch.testing.assert_close(expected, model.log_prob(ROWS) - std.log().sum())


def test_marginal_densities_in_original_units():
    model = make_model()
    values = []
    for original_units in (False, True):
        torch.manual_seed(0)
        values.append(model.marginal_log_prob(ROWS, 0.3, original_units=original_units))
    difference = values[0] - values[1]
    expected = torch.full_like(difference, np.log(SPLITS.columns.std).sum())
    torch.testing.assert_close(difference, expected)


def test_columns_are_saved_with_the_model(tmp_path):
    model = make_model()
    model.save(tmp_path)
    loaded = FIF.load_from_folder(tmp_path)
    assert loaded.columns == SPLITS.columns
    assert loaded.columns.dropped == ["kind"]
    assert torch.equal(loaded.log_prob(ROWS), model.log_prob(ROWS))

    (tmp_path / "data.json").write_text('{"columns": ')
    with pytest.raises(DataError, match="cannot load a model"):
        FIF.load_from_folder(tmp_path)
    model.columns = None
    model.save(tmp_path)
    assert FIF.load_from_folder(tmp_path).columns is None


def test_columns_of_pythaes_models_are_saved_by_the_trainer(tmp_path):
    networks = build_networks("tabular", (3,), 2)
    model = AE(AEConfig(input_dim=(3,), latent_dim=2), *networks)
    model.columns = SPLITS.columns
    config = FIFTrainerConfig(num_epochs=1, no_cuda=True)
    FIFTrainer(model, SPLITS.train, SPLITS.val, config, run_dir=tmp_path).train()
    density = as_density(load_model(str(tmp_path / "model"), trust=True))
    assert density.log_prob(ROWS).isfinite().all()
