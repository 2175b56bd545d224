"""The density with its gradient, and one line with the remedy for what is given wrongly."""

import numpy as np
import pytest
import torch
from pythae.models import AutoModel
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseEncoder
from pythae.samplers import GaussianMixtureSampler, NormalSampler
from torch.utils.data import DataLoader

from pythae_fif import FIF, FIFConfig, FIFTrainer
from pythae_fif.data import ImageDataset
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.evaluation import EvaluationPipeline
from pythae_fif.nn import build_networks
from pythae_fif.nn.tabular import TabularDecoder, TabularEncoder

SHAPE = (1, 4, 4)


def smooth(dim: int = 4) -> FIF:
    nets = (of((dim,), 2, 16, torch.nn.SiLU) for of in (TabularEncoder, TabularDecoder))
    return FIF(FIFConfig(input_dim=(dim,), latent_dim=2), *nets).double()


def test_log_prob_can_be_differentiated_where_it_is_asked_for():
    model = smooth()
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    value = model.log_prob(x, create_graph=True)
    torch.testing.assert_close(value.detach(), model.log_prob(x))
    assert not model.log_prob(x).requires_grad and model.training
    assert torch.autograd.gradcheck(lambda x: model.log_prob(x, create_graph=True), (x,))
    value.sum().backward()
    weight = next(model.decoder.parameters())
    assert weight.grad is not None and bool(weight.grad.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_of_half_precision_has_an_evaluation_loss(dtype):
    torch.manual_seed(0)
    model, x = FIF(FIFConfig(input_dim=(4,), latent_dim=2)).eval(), torch.rand(9, 4)
    expected = model({"data": x}).loss
    assert float(model.to(dtype)({"data": x}).loss) == pytest.approx(float(expected), rel=0.05)


@pytest.mark.parametrize("samples", [1, 2])
def test_a_model_of_half_precision_has_a_training_loss(samples):
    torch.manual_seed(0)
    config = FIFConfig(input_dim=(4,), latent_dim=2, hutchinson_samples=samples)
    loss = FIF(config).bfloat16()({"data": torch.rand(9, 4)}).loss
    loss.backward()
    assert bool(loss.isfinite())


def test_networks_of_numpy_integers_are_saved(tmp_path):
    networks = build_networks("convnet", np.array([1, 8, 8]), torch.tensor(2))
    FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=2), *networks).save(str(tmp_path))
    assert FIF.load_from_folder(str(tmp_path)).latent_dim == 2


@pytest.mark.parametrize("default", ["encoder", "decoder", "both"])
def test_a_model_comes_back_in_its_precision(default, tmp_path):
    encoder, decoder = build_networks("convnet", (1, 8, 8), 2)
    given = {"encoder": {"decoder": decoder}, "decoder": {"encoder": encoder}, "both": {}}[default]
    model = FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=2), **given).double().eval()
    model.save(str(tmp_path))
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    for loaded in (
        FIF.load_from_folder(str(tmp_path)),
        AutoModel.load_from_folder(str(tmp_path), True),
    ):
        torch.testing.assert_close(loaded.eval().log_prob(x), model.log_prob(x), rtol=0, atol=0)


def test_get_nll_is_the_mean_log_likelihood_as_of_pythae():
    model = smooth()
    x = torch.randn(7, 4, dtype=torch.float64)
    assert model.get_nll(x, n_samples=5, batch_size=3) == pytest.approx(
        float(model.log_prob(x).mean())
    )


class Gives(BaseEncoder):
    def __init__(self, output) -> None:
        super().__init__()
        self.output, self.weight = output, torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return self.output


@pytest.mark.parametrize(
    ("output", "remedy"),
    [
        (torch.zeros(5, 2), r"the encoder gives a Tensor: .* ModelOutput\(embedding="),
        (None, r"the encoder gives a NoneType: .* ModelOutput\(embedding="),
        (ModelOutput(codes=torch.zeros(5, 2)), r"a ModelOutput without 'embedding': let it return"),
        (ModelOutput(embedding=torch.zeros(5, 3)), r"codes of shape \(5, 3\), needs \(B, 2\)"),
    ],
)
def test_an_encoder_of_another_kind(output, remedy):
    model = FIF(FIFConfig(input_dim=SHAPE, latent_dim=2), Gives(output))
    for call in (model.embed, model.log_prob, lambda x: model({"data": x})):
        with pytest.raises(ConfigError, match=remedy):
            call(torch.zeros(5, *SHAPE))


@pytest.mark.parametrize(
    ("wrap", "remedy"),
    [
        (
            lambda images: ImageDataset(images.repeat(3, axis=1)),
            r"items \(3, 4, 4\), .*\(1, 4, 4\)",
        ),
        (lambda images: DataLoader(ImageDataset(images)), r"is a DataLoader: .* loader\.dataset"),
        (list, "is a list: "),
    ],
)
def test_data_of_another_kind_for_the_trainer(wrap, remedy):
    model = FIF(FIFConfig(input_dim=SHAPE, latent_dim=2))
    with pytest.raises(DataError, match=remedy):
        FIFTrainer(model, wrap(np.zeros((20, *SHAPE), np.uint8)))


def test_what_the_evaluation_does_not_take():
    model = FIF(FIFConfig(input_dim=SHAPE, latent_dim=2))
    with pytest.raises(ConfigError, match=r"<class .*: pass NormalSampler\(model\)"):
        EvaluationPipeline(model, NormalSampler, extractor="pixels")
    pipeline = EvaluationPipeline(model, extractor="pixels", num_samples=10)
    images = ImageDataset(np.zeros((20, *SHAPE), np.uint8))
    with pytest.raises(DataError, match=r"eval_data: .DataLoader. object .*pass images"):
        pipeline(None, DataLoader(images))


@pytest.mark.parametrize("sampler", [NormalSampler, GaussianMixtureSampler])
def test_a_sampler_of_a_conditional_model(sampler):
    model = FIF(FIFConfig(input_dim=SHAPE, latent_dim=2, condition_dim=3))
    remedy = rf"{sampler.__name__} knows no labels, .*: pass model\.given\(label\)"
    with pytest.raises(ConfigError, match=remedy):
        sampler(model)
    assert NormalSampler(model.given(2)).sample(4).shape == (4, *SHAPE)
