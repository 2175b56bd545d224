"""The pictures of a run: what is written for which model, and what they show."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from pythae.models import AE, HVAE, VAE, VQVAE, AEConfig, HVAEConfig, VAEConfig, VQVAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from support.report_store import splits

from pythae_fif.benchmark import sheets
from pythae_fif.benchmark.sheets import reference_sheet, write_samples, write_sheets
from pythae_fif.models import FIF, FIFConfig
from pythae_fif.nn import build_networks

SPLITS = splits()
FOR_VECTORS = {"interpolations.png", "latents.png"}
ALWAYS = {"reconstructions.png", "samples-normal.png", "samples-gmm.png"}


def model_of(model_class, config_class, variational=False, latent_dim=4, **values):
    torch.manual_seed(0)
    encoder, decoder = build_networks(
        "convnet", SPLITS.input_dim, latent_dim, variational=variational
    )
    config = config_class(input_dim=SPLITS.input_dim, latent_dim=latent_dim, **values)
    return model_class(config, encoder=encoder, decoder=decoder)


class SpatialEncoder(BaseEncoder):
    def forward(self, x):
        return ModelOutput(embedding=x.reshape(len(x), 4, 4, 4))


class SpatialDecoder(BaseDecoder):
    def forward(self, z):
        return ModelOutput(reconstruction=z.reshape(len(z), 1, 8, 8).sigmoid())


def spatial_vqvae():
    config = VQVAEConfig(input_dim=SPLITS.input_dim, latent_dim=4, num_embeddings=8)
    config.embedding_dim = 4
    return VQVAE(config, encoder=SpatialEncoder(), decoder=SpatialDecoder())


def write(folder, model, codes=None, data=SPLITS):
    samples = {name: torch.rand(70, *data.input_dim) for name in ("normal", "gmm")}
    codes = torch.randn(len(data.train), 4) if codes is None else codes
    write_sheets(folder, model, data, codes)
    for name, drawn in samples.items():
        write_samples(folder, data, name, drawn)
    return samples, {path.name for path in folder.iterdir()}


class TestWhatIsWritten:
    @pytest.mark.parametrize(
        "model",
        [
            (AE, AEConfig),
            (VAE, VAEConfig, True),
            (FIF, FIFConfig),
            (HVAE, HVAEConfig, True),  # its forward pass takes derivatives
            (VQVAE, VQVAEConfig),
        ],
        ids=lambda model: model[0].__name__,
    )
    def test_every_kind_of_model(self, tmp_path, model):
        with torch.no_grad():  # as in a run
            _, names = write(tmp_path, model_of(*model))
        assert names == ALWAYS | FOR_VECTORS

    def test_codes_that_are_no_vectors(self, tmp_path):
        _, names = write(tmp_path, spatial_vqvae(), torch.randn(40, 4, 4, 4))
        assert names == ALWAYS

    def test_one_latent_dimension_has_no_plane(self, tmp_path):
        model = model_of(AE, AEConfig, latent_dim=1)
        _, names = write(tmp_path, model, torch.randn(40, 1))
        assert names == ALWAYS | {"interpolations.png"}

    def test_few_test_images_without_labels(self, tmp_path):
        few = dataclasses.replace(SPLITS, test=SPLITS.test[:11], labels=None)
        _, names = write(tmp_path, model_of(AE, AEConfig), data=few)
        assert names == ALWAYS | FOR_VECTORS

    @pytest.mark.parametrize(("images", "rows"), [(11, 1), (30, 3)])
    def test_originals_and_reconstructions_share_no_row(self, tmp_path, images, rows):
        black = np.zeros((images, *SPLITS.test.shape[1:]), SPLITS.test.dtype)
        few = dataclasses.replace(SPLITS, test=black, labels=None)
        write(tmp_path, model_of(AE, AEConfig), data=few)
        lit = blocks(tmp_path / "reconstructions.png").any((2, 3))
        assert lit.all(1).tolist() == [False, True] * rows + [False] * (8 - 2 * rows)
        assert not lit[::2].any()

    def test_samples_that_are_not_finite(self, tmp_path):
        broken = torch.full((70, 1, 8, 8), torch.nan)
        write_samples(tmp_path, SPLITS, "normal", broken)
        assert (np.asarray(Image.open(tmp_path / "samples-normal.png")) == 0).all()

    def test_the_model_is_left_without_gradients(self, tmp_path):
        model = model_of(AE, AEConfig)
        write(tmp_path, model)
        assert all(p.grad is None for p in model.parameters())


def blocks(path):
    """The 8 x 8 images of a sheet, (8, 8, 8, 8)."""
    return np.asarray(Image.open(path)).reshape(8, 8, 8, 8).transpose(0, 2, 1, 3)


class TestWhatTheyShow:
    def test_samples(self, tmp_path):
        samples, _ = write(tmp_path, model_of(AE, AEConfig))
        shown = blocks(tmp_path / "samples-gmm.png").reshape(64, 8, 8)
        expected = (samples["gmm"][:64, 0] * 255).round().numpy()
        np.testing.assert_array_equal(shown, expected)

    def test_reconstructions_below_their_originals(self, tmp_path):
        model = model_of(AE, AEConfig).eval()
        write(tmp_path, model)
        shown = blocks(tmp_path / "reconstructions.png")
        originals = SPLITS.test[:32]
        with torch.no_grad():
            made = model.reconstruct(torch.from_numpy(originals / 255).float())
        np.testing.assert_array_equal(shown[::2].reshape(32, 8, 8), originals[:, 0])
        expected = (made[:, 0] * 255).round().numpy()
        assert np.abs(shown[1::2].reshape(32, 8, 8) - expected).max() <= 1

    def test_interpolations_begin_and_end_at_reconstructions(self, tmp_path):
        model = model_of(AE, AEConfig).eval()
        write(tmp_path, model)
        shown = blocks(tmp_path / "interpolations.png").astype(float)
        with torch.no_grad():
            made = model.reconstruct(torch.from_numpy(SPLITS.test[:16] / 255).float())
        expected = (made[:, 0] * 255).round().numpy()
        assert np.abs(shown[:, 0] - expected[:8]).max() <= 1
        assert np.abs(shown[:, 7] - expected[8:]).max() <= 1

    def test_reference_sheet(self):
        shown = reference_sheet(SPLITS).reshape(8, 8, 8, 8).transpose(0, 2, 1, 3)
        np.testing.assert_array_equal(shown.reshape(64, 8, 8), SPLITS.test[:64, 0])


class TestPlane:
    @pytest.mark.parametrize("shift", [0.0, 3.0])
    def test_principal_plane(self, shift):
        torch.manual_seed(0)
        scales = torch.tensor([1.0, 5.0, 0.1, 3.0], dtype=torch.float64)
        codes = torch.randn(4000, 4, dtype=torch.float64) * scales + shift
        points, origin, shares = sheets._principal_plane(codes)
        assert points.std(axis=0) == pytest.approx([5, 3], rel=0.05)
        assert np.abs(points.mean(axis=0)).max() < 1e-9
        # The components are nearly the second and the fourth axis: the origin is at minus the mean.
        assert origin == pytest.approx([-shift, -shift], abs=0.25)
        assert shares == pytest.approx([25 / 35.01, 9 / 35.01], rel=0.1)

    def test_codes_that_all_are_the_same(self):
        points, _, shares = sheets._principal_plane(torch.ones(50, 3, dtype=torch.float64))
        assert np.isfinite(points).all()
        assert shares == [0, 0]
