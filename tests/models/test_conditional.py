"""Conditional FIF: for one label it is an unconditional model of that label's data."""

import copy

import pandas as pd
import pytest
import torch
from pythae.data.datasets import DatasetOutput
from pythae.models import AutoModel
from pythae.samplers import GaussianMixtureSampler, GaussianMixtureSamplerConfig, NormalSampler
from support.networks import linear_decoder, linear_encoder
from torch import nn

from pythae_fif import FIF, FIFConfig
from pythae_fif.baselines import RectangularFlow, RectangularFlowConfig
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.nn import build_networks

CLASSES = 3
SHAPE = (1, 8, 8)


def model(arch="convnet", shape=SHAPE, latent_dim=4, condition_dim=CLASSES, **options):
    torch.manual_seed(0)
    config = FIFConfig(
        input_dim=shape, latent_dim=latent_dim, condition_dim=condition_dim, noise=0.0, **options
    )
    return FIF(config, *build_networks(arch, shape, latent_dim, condition_dim=condition_dim))


def batch(count=12, shape=SHAPE, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    data = torch.rand(count, *shape, generator=generator, dtype=dtype)
    return data, torch.arange(count) % CLASSES


def gradient(fif, data, labels):
    """Returns the gradient of one training step as a vector; BatchNorm's statistics stay."""
    fif = copy.deepcopy(fif).train()
    torch.manual_seed(5)
    fif(DatasetOutput(data=data, labels=labels)).loss.backward()
    return torch.cat([p.grad.flatten() for p in fif.parameters()])


@pytest.mark.parametrize(("arch", "shape"), [("convnet", SHAPE), ("tabular", (6,))])
def test_gradient_is_the_mean_over_the_unconditional_models_of_the_classes(arch, shape):
    """Takes K = d, so that the draw of Hutchinson vectors does not matter."""
    fif = model(arch, shape, hutchinson_samples=4).double()
    data, labels = batch(shape=shape)
    class_gradients = []
    for label in range(CLASSES):
        class_model = fif.conditioned_on(label)
        addresses = [p.data_ptr() for p in class_model.parameters()]
        assert addresses == [p.data_ptr() for p in fif.parameters()]
        class_gradients.append(gradient(class_model, data[labels == label], None))
    expected = torch.stack(class_gradients).mean(0)
    assert torch.allclose(gradient(fif, data, labels), expected)


@pytest.mark.parametrize("vectors", [False, True])
def test_density_given_a_condition_is_the_closed_form(vectors):
    """The decoder W z + V c and its pseudo-inverse: a Gaussian of mean V c for condition c."""
    torch.manual_seed(0)
    w = torch.randn(5, 2).double()
    v = torch.randn(5, CLASSES).double()
    inverse = torch.linalg.pinv(w)
    encoder = linear_encoder(torch.cat([inverse, -inverse @ v], 1))
    decoder = linear_decoder(torch.cat([w, v], 1))
    fif = FIF(FIFConfig(input_dim=(5,), latent_dim=2, condition_dim=CLASSES), encoder, decoder)

    labels = torch.tensor([0, 2, 2, 1])
    condition = nn.functional.one_hot(labels, CLASSES).double()
    if vectors:
        labels = condition = torch.randn(4, CLASSES).double()
    z = torch.randn(4, 2).double()
    x = z @ w.T + condition @ v.T

    volume = 0.5 * torch.logdet(w.T @ w)
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    assert torch.allclose(fif.embed(x, labels), z)
    assert torch.allclose(fif.log_prob(x, labels), log_prior - volume)
    assert torch.allclose(fif.log_volume(x, labels), volume.expand(4))
    assert torch.allclose(fif.singular_values(x, labels)[1], torch.linalg.svdvals(w))
    assert torch.allclose(fif.reconstruct(x, labels), x)
    loss = fif.eval()(DatasetOutput(data=x, labels=labels)).loss
    assert torch.allclose(loss, (volume - log_prior).mean())


METHODS = ("embed", "reconstruct", "log_prob", "log_volume", "singular_values")


@pytest.mark.parametrize("name", METHODS)
def test_methods_with_a_label_give_what_the_model_of_that_label_gives(name):
    fif = model(arch="resnet").double().eval()
    class_model = fif.conditioned_on(2)
    assert class_model.model_config.condition_dim == 0
    assert not class_model.training

    data, labels = batch()
    in_class = labels == 2
    result = getattr(fif, name)(data, labels)
    class_result = getattr(class_model, name)(data[in_class])
    assert torch.allclose(result[in_class], class_result)
    assert not torch.allclose(result, getattr(fif, name)(data, (labels + 1) % CLASSES))


def test_samples_with_a_label_are_samples_of_the_model_of_that_label():
    fif = model(arch="resnet").double().eval()
    torch.manual_seed(3)
    samples = fif.sample(6, labels=[0, 1, 2, 0, 1, 2])
    torch.manual_seed(3)
    assert torch.allclose(samples[2::3], fif.conditioned_on(2).sample(6)[2::3])

    data, labels = batch()
    assert torch.equal(fif.predict(data, labels).embedding, fif.embed(data, labels))


def test_the_model_of_a_label_has_the_loss_of_its_data():
    fif = model(beta="auto").double().eval()
    fif.beta.fill_(50)
    data, _ = batch()
    labels = torch.ones(len(data), dtype=torch.long)
    class_loss = fif.conditioned_on(1)(DatasetOutput(data=data)).loss
    assert torch.allclose(class_loss, fif(DatasetOutput(data=data, labels=labels)).loss)


def test_the_model_of_a_label_is_saved_and_loaded(tmp_path):
    fif = model().eval()
    data, _ = batch(dtype=torch.float32)
    fif.conditioned_on(1).save(str(tmp_path))
    loaded = AutoModel.load_from_folder(str(tmp_path), trust=True).eval()
    assert torch.equal(loaded.embed(data), fif.embed(data, labels=1))


def test_classes_have_names(tmp_path):
    fif = model().eval()
    fif.class_names = ("male", "female", "7")
    fif.save(str(tmp_path))
    loaded = AutoModel.load_from_folder(str(tmp_path))
    data, _ = batch(3, dtype=torch.float32)
    names = pd.Series(["7", "male", "female"])
    for named in (fif, loaded):
        assert torch.equal(named.embed(data, names), fif.embed(data, [2, 0, 1]))
        assert torch.equal(named.embed(data, "female"), fif.embed(data, 1))
        class_model = named.conditioned_on("female")
        assert torch.equal(class_model.embed(data), fif.conditioned_on(1).embed(data))

    with pytest.raises(ConfigError, match="class 'femal' is unknown: did you mean 'female'"):
        loaded.sample(2, labels="femal")
    with pytest.raises(ConfigError, match="needs labels: class indices 0 to 2, or the names male"):
        loaded.sample(2)


def test_pythaes_samplers_take_the_model_of_a_label(tmp_path):
    fif = model()
    data, labels = batch(dtype=torch.float32)
    data[0, 0, 0, 0] = 1.0  # Pythae's fit asks for a maximum of 1
    sampler = GaussianMixtureSampler(
        fif.conditioned_on(0), GaussianMixtureSamplerConfig(n_components=1)
    )
    sampler.fit(data[labels == 0])
    for samples in (sampler.sample(5), NormalSampler(fif.conditioned_on(0)).sample(5)):
        assert samples.shape == (5, *SHAPE)
        assert samples.isfinite().all()


@pytest.mark.parametrize(
    "labels, error, message",
    [
        (None, ConfigError, "needs labels: class indices 0 to 2"),
        ([0, 1, 3, 0], DataError, "label 3 is not one of the class indices 0 to 2"),
        ([0.5, 1, 2, 0], DataError, "label 0.5"),
        (["a", "b", "a", "b"], DataError, "labels of type <U1: class indices 0 to 2 are needed"),
        ([0, 1], DataError, r"shape \(2,\) for 4 samples"),
        (torch.zeros(4, 2), DataError, r"condition vectors \(4, 3\)"),
        ([0, 1, 10**9, 0], DataError, "label 1e\\+09 is not one of"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, error, message):
    fif = model()
    data, _ = batch(4, dtype=torch.float32)
    with pytest.raises(error, match=message):
        fif.log_prob(data, labels)
    with pytest.raises(error, match=message):
        fif.sample(4, labels=labels)


def test_unconditional_models_take_no_labels():
    fif = FIF(FIFConfig(input_dim=SHAPE, latent_dim=2))
    data, labels = batch(4, dtype=torch.float32)
    assert fif(
        DatasetOutput(data=data, labels=labels)
    ).loss.isfinite()  # Pythae's data sets have labels, all 1
    with pytest.raises(ConfigError, match="takes no labels"):
        fif.sample(4, labels=labels)
    with pytest.raises(ConfigError, match="takes no labels"):
        fif.conditioned_on(1)
    with pytest.raises(ConfigError, match="takes no labels"):
        RectangularFlow(RectangularFlowConfig(input_dim=(4,), latent_dim=2)).sample(2, labels=1)
