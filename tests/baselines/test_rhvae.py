"""RHVAE equals Pythae's, and its metric is part of its state."""

import pytest
import torch
from pythae.models import RHVAE as PythaesRHVAE
from pythae.models import AutoModel, RHVAEConfig
from pythae.models.nn.default_architectures import Encoder_VAE_MLP
from pythae.models.rhvae.rhvae_utils import create_inverse_metric, create_metric
from pythae.samplers import RHVAESampler

from pythae_fif.baselines import RHVAE
from pythae_fif.errors import ConfigError
from pythae_fif.sampling.samplers import generate

CENTROIDS = 30
DIM = 3


@pytest.fixture
def model():
    """An RHVAE with a metric like that after an epoch."""
    torch.manual_seed(0)
    model = RHVAE(RHVAEConfig(input_dim=(1, 4, 4), latent_dim=DIM)).double()
    factors = torch.randn(CENTROIDS, DIM, DIM, dtype=torch.float64)
    model.M_tens = factors @ factors.mT
    model.centroids_tens = torch.randn(CENTROIDS, DIM, dtype=torch.float64)
    return model


def in_float32(model):
    """Converts a model; `float` does not convert the metric, which is not a parameter."""
    model.M_tens = model.M_tens.float()
    model.centroids_tens = model.centroids_tens.float()
    return model.float()


def test_metric_and_sampler_force_equal_pythae_s(model):
    z = torch.randn(7, DIM, dtype=torch.float64)
    torch.testing.assert_close(model.G_inv(z), create_inverse_metric(model)(z))
    torch.testing.assert_close(model.G(z), create_metric(model)(z))
    torch.testing.assert_close(model.sampler_force(z), RHVAESampler.grad_log_prop(z, model))


def test_training_loss_and_updated_metric_equal_pythae_s(model):
    model = in_float32(model)
    pythaes_model = PythaesRHVAE(model.model_config)
    weights = {k: v for k, v in model.state_dict().items() if "extra" not in k}
    pythaes_model.load_state_dict(weights)
    x = torch.rand(8, 1, 4, 4)
    z = torch.randn(5, DIM)

    def loss_and_update(model):
        torch.manual_seed(1)
        loss = model.train()({"data": x}).loss.detach()
        model.update()
        return loss

    torch.testing.assert_close(loss_and_update(model), loss_and_update(pythaes_model))
    torch.testing.assert_close(model.G_inv(z), pythaes_model.G_inv(z))


def test_metric_is_saved_with_the_weights_and_pythae_s_files_can_be_loaded(model, tmp_path):
    z = torch.randn(5, DIM, dtype=torch.float64)
    copy = RHVAE(model.model_config).double()
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy.G_inv(z), model.G_inv(z))

    model = in_float32(model)
    pythaes_model = PythaesRHVAE(model.model_config)
    pythaes_model.M_tens = model.M_tens
    pythaes_model.centroids_tens = model.centroids_tens
    for loader, saved in ((AutoModel, model), (RHVAE, pythaes_model)):
        folder = str(tmp_path / loader.__name__)
        saved.save(folder)
        loaded = loader.load_from_folder(folder)
        assert type(loaded) is RHVAE
        assert torch.equal(loaded.M_tens, model.M_tens)
        expected = create_inverse_metric(pythaes_model)(z.float())
        torch.testing.assert_close(loaded.G_inv(z.float()), expected)


def test_a_pickled_network_is_not_opened_unless_it_is_trusted(model, tmp_path):
    encoder = Encoder_VAE_MLP(model.model_config)
    RHVAE(model.model_config, encoder=encoder).save(str(tmp_path))
    for loader in (RHVAE, AutoModel):
        with pytest.raises(ConfigError, match=r"encoder.pkl can run any code .*trust=True"):
            loader.load_from_folder(str(tmp_path))
        assert type(loader.load_from_folder(str(tmp_path), trust=True)) is RHVAE


def test_samples_of_its_own_prior_move_from_the_centroids(model):
    model = in_float32(model)
    decoded_codes = []

    def record_codes(module, args, kwargs, output):
        decoded_codes.append(kwargs["z"])

    model.decoder.register_forward_hook(record_codes, with_kwargs=True)
    samples = generate("rhvae", model, torch.zeros(1, DIM), num_samples=6, seed=0)
    assert samples.shape == (6, 1, 4, 4)
    distances = torch.cdist(decoded_codes[0], model.centroids_tens).min(1).values
    assert bool((distances > 1e-3).all())
