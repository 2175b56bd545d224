"""Densities of models whose numbers are out of the usual: a right number, or one clear line."""

import math

import pytest
import torch
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import nn

from pythae_fif import FIF, FIFConfig
from pythae_fif.errors import ConfigError, DataError, NonFiniteError

CONFIG = FIFConfig(input_dim=(1, 4, 4), latent_dim=3)
SCORES = ("log_prob", "log_volume", "singular_values", "embed", "reconstruct")
X = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))


class FirstPixels(BaseEncoder):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return ModelOutput(embedding=self.scale * x.flatten(1)[:, :3])


class Linear(BaseDecoder):
    """g(z) = A z."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, z):
        return ModelOutput(reconstruction=(z @ self.matrix.T).reshape(-1, 1, 4, 4))


def linear(matrix: torch.Tensor) -> FIF:
    return FIF(CONFIG, FirstPixels(), Linear(matrix)).to(matrix.dtype).eval()


@pytest.fixture(scope="module")
def model() -> FIF:
    torch.manual_seed(0)
    return FIF(CONFIG).eval()


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_decomposed_in_float32(model, half):
    rounded = FIF(CONFIG).to(half).eval()
    rounded.load_state_dict(model.state_dict())
    for score in SCORES[:3]:
        found = getattr(rounded, score)(X.to(half))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, getattr(model, score)(X), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("score", SCORES)
def test_data_take_the_type_of_the_weights(model, score):
    expected = getattr(model, score)(X)
    assert torch.equal(getattr(model, score)(X.double()), expected)
    with pytest.raises(DataError, match="floating-point numbers as in training"):
        getattr(model, score)((255 * X).to(torch.uint8))
    assert getattr(model, score)(X[:0]).shape == (0, *expected.shape[1:])


def test_lines_take_the_type_of_the_weights(model):
    expected = model.interpolate(X, X.flip(0), 3)
    assert torch.equal(model.interpolate(X.double(), X.flip(0), 3), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_singular_jacobian_is_named(dtype):
    with pytest.warns(RuntimeWarning, match=r"5 of 5 samples \(samples 0, 1, 2, 3, 4\)"):
        found = linear(torch.eye(16, 3, dtype=dtype) * torch.tensor([1, 1, 0])).log_prob(X)
    assert found.dtype == dtype
    assert (found == math.inf).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_huge_jacobian_gives_its_volume_or_an_error(dtype):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(16, 3, generator=generator, dtype=torch.float64)
    expected = matrix.T.matmul(matrix).logdet() / 2 + 3 * math.log(1e38)
    try:
        found = linear((1e38 * matrix).to(dtype)).log_volume(X)
    except NonFiniteError as error:
        assert dtype == torch.float32 and "5 of 5 samples" in str(error)
    else:
        torch.testing.assert_close(found, expected.to(dtype).expand(5))


@pytest.mark.parametrize("df", [math.inf, math.nan, 0])
def test_degrees_of_freedom_are_finite_and_positive(df):
    with pytest.raises(ConfigError, match="student_t_df"):
        FIFConfig(latent_distribution="student_t", student_t_df=df)
