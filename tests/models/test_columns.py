"""Models of tables know their columns: DataFrames in original units go in and come out."""

import json
import warnings

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
    generator = torch.Generator().manual_seed(1)
    frame = model.sample((4, 5), as_frame=True, raw=True, generator=generator)
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
    with pytest.raises(DataError, match=r"data\.json: EOF while parsing"):
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


def set_value(content, path, value):
    """Sets a value in nested dictionaries."""
    *parents, key = path
    for parent in parents:
        content = content[parent]
    content[key] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("columns", "mean"), ["much", 1, 2], "mean='much': should be a valid number"),
        (("columns", "names"), 5, "names=5: should be a valid array"),
        (("columns", "names"), ["a", "b"], "mean has 3 numbers, needs 2"),
        (("columns", "std"), [1.0, 0.0, 1.0], "std=0.0: should be greater than 0"),
        (("columns", "std"), [1.0], "std has 1 numbers, needs 3"),
        (("columns", "ranges"), {"a": [1]}, "ranges"),
        (("columns", "unknown"), 1, "unknown key 'unknown'"),
        (
            ("columns",),
            {"names": ["a"], "mean": [0], "std": [1]},
            r"1 numbers for input_dim=\(3,\)",
        ),
        (("class_names",), "ab", "class_names='ab': should be a valid array"),
        (("noise_std",), -1, "noise_std=-1"),
        (("code_mean",), [0.0], r"code_mean has 1 numbers, needs 2"),
    ],
)
def test_a_wrong_description_of_the_data_is_one_line(path, value, message, tmp_path):
    model = make_model()
    model.calibrate(torch.from_numpy(SPLITS.val))
    model.save(tmp_path)
    content = json.loads((tmp_path / "data.json").read_text())
    set_value(content, path, value)
    (tmp_path / "data.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as error:
        FIF.load_from_folder(tmp_path)
    assert "data.json: " in str(error.value)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- what training leaves in a model


def test_training_calibrates_a_model_and_saves_it(tmp_path):
    model = make_model().float()
    config = FIFTrainerConfig(num_epochs=1, no_cuda=True)
    state = torch.get_rng_state()
    FIFTrainer(model, SPLITS.train, SPLITS.val, config, run_dir=tmp_path).train()
    torch.set_rng_state(state)

    codes = model.encode(SPLITS.val)
    np.testing.assert_allclose(model.code_mean, codes.mean(0), atol=1e-6)
    np.testing.assert_allclose(model.code_std, codes.std(0, correction=0), rtol=1e-5)
    assert model.noise_std == pytest.approx(model.estimate_noise_std(SPLITS.val))
    loaded = FIF.load_from_folder(tmp_path / "model")
    assert (loaded.code_mean, loaded.noise_std) == (model.code_mean, model.noise_std)
    assert as_density(loaded).noise_std == model.noise_std


@pytest.mark.parametrize("kind", [None, "gaussian"])
def test_original_units_in_place_of_standardised_rows_are_warned_of(kind):
    model = make_model()
    if kind is None:
        model.calibrate(SPLITS.val)
    else:
        model.fit_prior(SPLITS.train, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.log_prob(ROWS)
        model.log_prob(SPLITS.test)
    with pytest.warns(UserWarning, match="times as large .*: pass original units as a DataFrame"):
        model.log_prob(1000 + 1000 * ROWS[[*"abc"]].to_numpy())


def test_noise_is_part_of_the_rows_of_a_table():
    model = make_model()
    model.noise_std = 0.5

    def sample(**options):
        return model.sample(200, generator=torch.Generator().manual_seed(0), **options)

    clean = SPLITS.columns.to_frame(sample())
    noisy = SPLITS.columns.to_frame(sample(noise_std=0.5))
    pd.testing.assert_frame_equal(sample(as_frame=True), noisy)
    pd.testing.assert_frame_equal(sample(as_frame=True, noise_std=0.0), clean)
    raw = SPLITS.columns.to_frame(sample(), raw=True)
    pd.testing.assert_frame_equal(sample(as_frame=True, raw=True), raw)
    assert not noisy.equals(clean)


@pytest.mark.parametrize("labels", ["y", 1, [0, 1, 1, 0], None])
def test_samples_of_a_conditional_model_have_their_class(labels):
    frame = FRAME.assign(kind=["x", "y"] * 75)
    splits = load_table(frame, label="kind")
    model = FIF(FIFConfig(input_dim=(3,), latent_dim=2, condition_dim=2))
    model.columns = splits.columns
    model.class_names = splits.class_names
    if labels is None:  # condition vectors that are no classes
        assert "kind" not in model.sample(4, labels=torch.full((4, 2), 0.5), as_frame=True)
        return
    rows = model.sample(4, labels=labels, as_frame=True)
    expected = ["x", "y", "y", "x"] if isinstance(labels, list) else ["y"] * 4
    assert rows["kind"].tolist() == expected


def test_densities_of_heavy_tails_in_original_units():
    """For d = D the density is that of the standardised rows divided by the derivatives."""
    tail = np.random.default_rng(1).standard_t(1.5, len(FRAME))
    frame = FRAME.assign(c=tail)
    splits = load_table(frame, quantiles=["c"])
    weight = torch.randn(3, 3, dtype=torch.float64, generator=torch.manual_seed(0))
    model = linear_model(weight)
    model.columns = splits.columns
    rows = frame.iloc[splits.example_ids["test"]]  # derivatives jump at the training rows
    x = torch.from_numpy(splits.columns.transform(rows))
    expected = model.log_prob(x) - splits.columns.log_scale(x)
    torch.testing.assert_close(model.log_prob(rows, original_units=True), expected)
