"""RHVAE is Pythae's, with its metric in its state."""

import pytest
import torch
from pythae.models import RHVAE as PythaesRHVAE
from pythae.models import AutoModel, RHVAEConfig
from pythae.models.rhvae.rhvae_utils import create_inverse_metric, create_metric
from pythae.samplers import RHVAESampler

from pythae_fif.baselines import RHVAE
from pythae_fif.sampling.samplers import generate

CENTROIDS, DIM = 30, 3


@pytest.fixture
def model():
    """With a metric as after an epoch."""
    torch.manual_seed(0)
    model = RHVAE(RHVAEConfig(input_dim=(1, 4, 4), latent_dim=DIM)).double()
    factors = torch.randn(CENTROIDS, DIM, DIM, dtype=torch.float64)
    model.M_tens = factors @ factors.mT
    model.centroids_tens = torch.randn(CENTROIDS, DIM, dtype=torch.float64)
    return model


def in_float32(model):
    """Its metric is no parameter, which `float` would see."""
    model.M_tens, model.centroids_tens = model.M_tens.float(), model.centroids_tens.float()
    return model.float()


def test_its_metric_and_its_sampler_s_force_are_pythae_s(model):
    z = torch.randn(7, DIM, dtype=torch.float64)
    torch.testing.assert_close(model.G_inv(z), create_inverse_metric(model)(z))
    torch.testing.assert_close(model.G(z), create_metric(model)(z))
    torch.testing.assert_close(model.sampler_force(z), RHVAESampler.grad_log_prop(z, model))


def test_its_loss_in_training_and_the_metric_after_an_epoch_are_pythae_s(model):
    model = in_float32(model)
    theirs = PythaesRHVAE(model.model_config)
    theirs.load_state_dict({k: v for k, v in model.state_dict().items() if "extra" not in k})
    x, z = torch.rand(8, 1, 4, 4), torch.randn(5, DIM)
    losses = []
    for of in (model, theirs):
        torch.manual_seed(1)
        losses.append(of.train()({"data": x}).loss.detach())
        of.update()
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(model.G_inv(z), theirs.G_inv(z))


def test_its_metric_goes_with_its_weights_and_pythae_s_files_are_read(model, tmp_path):
    z = torch.randn(5, DIM, dtype=torch.float64)
    other = RHVAE(model.model_config).double()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.G_inv(z), model.G_inv(z))
    model, theirs = in_float32(model), PythaesRHVAE(model.model_config)
    theirs.M_tens, theirs.centroids_tens = model.M_tens, model.centroids_tens
    for name, saved in (("ours", model), ("theirs", theirs)):
        saved.save(str(tmp_path / name))
        loaded = AutoModel.load_from_folder(str(tmp_path / name))
        assert type(loaded) is RHVAE
        assert torch.equal(loaded.M_tens, model.M_tens)
        torch.testing.assert_close(
            loaded.G_inv(z.float()), create_inverse_metric(theirs)(z.float())
        )


def test_samples_of_its_own_prior_move_from_the_centroids(model):
    model = in_float32(model)
    seen = []
    model.decoder.register_forward_hook(lambda _, given, kwargs, out: seen.append(kwargs["z"]),
                                        with_kwargs=True)  # fmt: skip
    samples = generate("rhvae", model, torch.zeros(1, DIM), num_samples=6, seed=0)
    assert samples.shape == (6, 1, 4, 4)
    distances = torch.cdist(seen[0], model.centroids_tens).min(1).values
    assert bool((distances > 1e-3).all())
