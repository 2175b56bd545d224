"""Densities of models whose numbers are out of the usual: a right number, or one clear line."""

import math

import pytest
import torch
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import nn

from pythae_fif.baselines import DNF, DNFConfig, Trumpet, TrumpetConfig
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.models import FIF, FIFConfig, RectangularFlow, RectangularFlowConfig
from pythae_fif.volume_change import log_volume

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


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("latent", ["normal", "student_t", "multivariate_student_t"])
def test_half_precision_is_sampled(latent, half):
    config = FIFConfig(input_dim=(4,), latent_dim=2, latent_distribution=latent)
    samples = FIF(config).to(half).sample(3)
    assert samples.dtype == half and samples.isfinite().all()


def test_fewer_numbers_than_latent_dimensions_are_refused():
    """With networks of one's own the model need not know the data's shape before."""
    config = FIFConfig(latent_dim=X[0].numel() + 1)
    mlp = FIF(FIFConfig(input_dim=(config.latent_dim,), latent_dim=config.latent_dim))
    wide = FIF(config, mlp.encoder, mlp.decoder)
    for call in (wide.log_prob, wide.embed, lambda x: wide({"data": x})):
        with pytest.raises(DataError, match="each needs at least as many numbers"):
            call(X)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("shape", [(2, 4, 4), (3, 4, 4), (4, 4, 1), (4, 1, 4), (15,)])
def test_data_of_another_shape_are_refused(model, score, shape):
    """A multiple of the size, too, of which an MLP would make more rows, and channels last."""
    with pytest.raises(DataError, match="for input_dim="):
        getattr(model, score)(torch.rand(2, *shape))


@pytest.mark.parametrize("score", SCORES)
def test_data_may_be_flattened(model, score):
    found, expected = getattr(model, score)(X.flatten(1)), getattr(model, score)(X)
    assert torch.equal(found.reshape(expected.shape), expected)


@pytest.mark.parametrize("score", SCORES)
def test_data_take_the_type_of_the_weights(model, score):
    expected = getattr(model, score)(X)
    assert torch.equal(getattr(model, score)(X.double()), expected)
    with pytest.raises(DataError, match="floating-point numbers as in training"):
        getattr(model, score)((255 * X).to(torch.uint8))
    assert torch.equal(getattr(model, score)(X.numpy()), expected)
    for wrong in ((255 * X).to(torch.uint8).numpy(), [["a"]], None):
        with pytest.raises(DataError, match="floating-point numbers as in training, not"):
            getattr(model, score)(wrong)
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
def test_a_huge_jacobian_gives_its_volume(dtype):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(16, 3, generator=generator, dtype=torch.float64)
    expected = matrix.T.matmul(matrix).logdet() / 2 + 3 * math.log(1e38)
    found = linear((1e38 * matrix).to(dtype)).log_volume(X)
    torch.testing.assert_close(found, expected.to(dtype).expand(5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("share", [0.99, 1e-5, 1e-20])
def test_volume_and_gradient_of_huge_entries(dtype, share):
    generator = torch.Generator().manual_seed(0)
    most = share * torch.finfo(dtype).max
    matrix = torch.rand(2, 6, 3, generator=generator, dtype=torch.float64)
    expected = log_volume(matrix) + 3 * math.log(most)
    jacobian = (most * matrix).to(dtype).requires_grad_()
    torch.testing.assert_close(log_volume(jacobian), expected.to(dtype))
    (gradient,) = torch.autograd.grad(log_volume(jacobian).sum(), jacobian)
    wanted = torch.linalg.pinv(matrix).mT.to(dtype)  # of matrix itself; that of most * matrix is
    torch.testing.assert_close(gradient * most, wanted, rtol=1e-3, atol=1e-3)  # smaller by most


class Ignores(BaseEncoder, BaseDecoder):
    """A network that gives the same numbers, whatever it is given."""

    def __init__(self, key, shape, how):
        super().__init__()
        self.key, self.shape, self.how = key, shape, how
        self.layer = nn.Linear(2, math.prod(shape))

    def forward(self, x):
        if self.how == "detached":
            x = x.flatten(1)[:, :2].detach()
            values = self.layer(x)
        else:
            values = self.layer.bias.expand(len(x), -1)
        return ModelOutput(**{self.key: values.unflatten(1, self.shape)})


def ignoring(side, how="constant", **options):
    config = FIFConfig(input_dim=(1, 4, 4), latent_dim=3, **options)
    network = {
        "encoder": lambda: Ignores("embedding", (3,), how),
        "decoder": lambda: Ignores("reconstruction", (1, 4, 4), how),
    }[side]()
    return FIF(config, **{side: network})


@pytest.mark.parametrize("how", ["constant", "detached"])
def test_a_decoder_that_ignores_its_input_has_no_volume(how):
    model = ignoring("decoder", how)
    with pytest.warns(RuntimeWarning, match="5 of 5 samples"):
        assert (model.log_prob(X) == math.inf).all()
    assert (model.log_volume(X) == -math.inf).all()
    assert torch.equal(model.singular_values(X), torch.zeros(5, 3))


@pytest.mark.parametrize("how", ["constant", "detached"])
def test_an_encoder_that_ignores_its_input_has_no_volume(how):
    assert ignoring("encoder", how).eval()({"data": X}).loss == math.inf


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_a_network_that_ignores_its_input_is_not_trained(side):
    with pytest.raises(ConfigError, match=f"FIF: the output of the {side} does not depend on"):
        ignoring(side).train()({"data": X})


def test_batch_norm_without_running_statistics_is_refused():
    model = FIF(FIFConfig(input_dim=(4,), latent_dim=2))
    norm = nn.BatchNorm1d(4, track_running_stats=False)
    model.encoder.layers = nn.Sequential(norm, model.encoder.layers)
    with pytest.raises(ConfigError, match="track_running_stats=False"):
        model.train()({"data": torch.rand(5, 4)})


class Reshaped(Linear):
    def __init__(self, shape):
        super().__init__(torch.rand(16, 3))
        self.shape = shape

    def forward(self, z):
        flat = super().forward(z)["reconstruction"].flatten(1)
        return ModelOutput(reconstruction=flat[:, : math.prod(self.shape)].view(-1, *self.shape))


@pytest.mark.parametrize("shape", [(16,), (1, 1, 4, 4), (1,)], ids=str)
def test_a_decoder_of_another_shape_than_the_data_is_refused(shape):
    model = FIF(FIFConfig(input_dim=(1, 4, 4), latent_dim=3), decoder=Reshaped(shape)).train()
    with pytest.raises(ConfigError, match=r"FIF: reconstructions of shape \(3, .*\) for data of"):
        model({"data": X})


FLOW = {"steps": 1, "hidden_channels": 8, "latent_blocks": 1, "latent_hidden_dim": 8}
LOSSES = {
    "FIF": (lambda: FIF(CONFIG), X),
    "RectangularFlow": (
        lambda: RectangularFlow(RectangularFlowConfig(input_dim=(5,), latent_dim=3)),
        torch.linspace(0, 1, 30).view(6, 5),
    ),
    "DNF": (lambda: DNF(DNFConfig(input_dim=(1, 4, 4), latent_dim=3, **FLOW)), X),
    "Trumpet": (lambda: Trumpet(TrumpetConfig(input_dim=(1, 4, 4), latent_dim=3, **FLOW)), X),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_other_types_and_of_no_data(name, training):
    build, x = LOSSES[name]
    model, losses = build().train(training), []
    for data in (x, x.double(), x.half()):
        torch.manual_seed(0)
        losses.append(model({"data": data}, epoch=1).loss)
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(losses[2], losses[0], rtol=0.05, atol=0.05)
    with pytest.raises(DataError, match=f"{name}: .*floating-point numbers as in training"):
        model({"data": (255 * x).to(torch.uint8)})
    if name in ("FIF", "RectangularFlow"):
        with pytest.raises(DataError, match=f"{name}: .*empty batch"):
            model({"data": x[:0]})


@pytest.mark.parametrize("df", [math.inf, math.nan, 0])
def test_degrees_of_freedom_are_finite_and_positive(df):
    with pytest.raises(ConfigError, match="student_t_df"):
        FIFConfig(latent_distribution="student_t", student_t_df=df)
