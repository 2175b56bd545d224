"""FIF does what a built-in Pythae model does, and its densities are right."""

import numpy as np
import pandas
import pytest
import scipy.stats
import torch
from pythae.data.datasets import DatasetOutput
from pythae.models import AutoModel
from pythae.models.base.base_utils import ModelOutput
from pythae.pipelines import GenerationPipeline, TrainingPipeline
from pythae.samplers import GaussianMixtureSamplerConfig, MAFSamplerConfig, NormalSamplerConfig
from pythae.trainers import BaseTrainerConfig
from support.networks import Map, linear_decoder, linear_encoder

from pythae_fif import FIF, FIFConfig
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.models import RectangularFlow, RectangularFlowConfig
from pythae_fif.models.fif import EVALUATED_POINTS
from pythae_fif.models.outputs import without_gradients
from pythae_fif.nn import build_networks
from pythae_fif.volume_change.exact import decoder_jacobian, encoder_jacobian, log_volume

SHAPE = (1, 4, 4)
LATENTS = ("normal", "student_t", "multivariate_student_t")


def model(**options):
    torch.manual_seed(0)
    return FIF(FIFConfig(input_dim=SHAPE, latent_dim=3, **options))


def images(n=40):
    x = torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(1))
    x[0, 0, 0, 0] = 1.0
    return x


def trainer_config(path, **options):
    options = {"num_epochs": 2, "per_device_train_batch_size": 20, **options}
    return BaseTrainerConfig(output_dir=str(path), no_cuda=True, **options)


# ---------------------------------------------------------------- a training step


def test_batch_norm_in_an_encoder_that_runs_twice_is_refused():
    config = FIFConfig(input_dim=(1, 8, 8), latent_dim=2, jacobian_at="reconstruction")
    encoder, decoder = build_networks("fif_convnet", (1, 8, 8), 2)
    with pytest.raises(ConfigError, match="wrong running statistics"):
        FIF(config, encoder)
    model = FIF(config, decoder=decoder)
    with pytest.raises(ConfigError, match="wrong running statistics"):
        model.set_encoder(encoder)
    model.train()({"data": torch.rand(5, 1, 8, 8)}).loss.backward()


@pytest.mark.parametrize("way", ["replay", "published"])
def test_a_decoder_is_trained_beside_a_frozen_encoder(way):
    encoder = linear_encoder(torch.randn(2, 5)).requires_grad_(False)
    fif = FIF(FIFConfig(input_dim=(5,), latent_dim=2), encoder, linear_decoder(torch.randn(5, 2)))
    fif.surrogate_mode = way
    config = RectangularFlowConfig(input_dim=(5,), latent_dim=2)
    for model in (fif, RectangularFlow(config, encoder, linear_decoder(torch.randn(5, 2)))):
        model.train()({"data": torch.rand(6, 5)}).loss.backward()
        assert model.decoder.weight.grad is not None


def test_the_output_in_training():
    out = model(beta=7.0).train()({"data": images()})
    torch.testing.assert_close(out.loss, out.nll_loss + 7.0 * out.recon_loss)
    assert out.recon_x.shape == (40, *SHAPE) and out.z.shape == (40, 3)


@pytest.mark.parametrize("fraction", [0.25, 0.3, 1.0])
def test_gradient_of_a_fraction_is_unbiased_over_the_order_of_the_batch(fraction):
    """Mean over all cyclic orders of the batch, with the Hutchinson vectors of every one."""
    x, total = images(8).double(), {}
    for part in (fraction, 1.0):
        fif = model(surrogate_fraction=part, hutchinson_samples=3, noise=0.0).double().train()
        for shift in range(8):  # K = d: orthogonal vectors give the trace exactly
            (fif({"data": x.roll(shift, 0)}).loss / 8).backward()
        total[part] = torch.cat([p.grad.flatten() for p in fif.parameters()])
    torch.testing.assert_close(total[fraction], total[1.0])


@pytest.mark.parametrize("way", ["replay", "published"])
@pytest.mark.parametrize("arch, samples", [("fif_convnet", 1), ("fif_convnet", 2), ("resnet", 1)])
def test_a_whole_step_in_bfloat16(arch, samples, way):
    options = {"surrogate_fraction": 0.5, "hutchinson_samples": samples}
    config = FIFConfig(input_dim=(1, 28, 28), latent_dim=3, noise=0.0, **options)
    fif, losses = FIF(config, *build_networks(arch, (1, 28, 28), 3)).train(), []
    fif.surrogate_mode = way
    x = {"data": torch.rand(4, 1, 28, 28)}
    for low in (True, False):
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            losses.append(fif(x).loss)
    losses[0].backward()
    assert all(p.grad.isfinite().all() for p in fif.parameters())
    assert losses[0].dtype == torch.float32
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=0.02)


# ---------------------------------------------------------------- an evaluation


def exact_loss(fif, x):
    """The loss whose gradient the surrogate estimates, from dense Jacobians."""
    z = fif.encode(x)
    if fif.model_config.jacobian_at == "data":
        volume = -log_volume(encoder_jacobian(fif._encode, x))  # eq. 46
    else:
        volume = log_volume(decoder_jacobian(fif._decode, z))  # eq. 11
    recon = (fif.reconstruct(x) - x).square().flatten(1).sum(1)
    log_prior = fif.latent_distribution(z).log_prob(z)
    return (fif.model_config.beta * recon - log_prior + volume).mean().detach()


@pytest.mark.parametrize("jacobian_at", ["data", "reconstruction"])
@pytest.mark.parametrize("grad", [True, False])
def test_evaluation_loss_is_exact_lazy_and_deterministic(grad, jacobian_at):
    fif = model(beta=7.0, jacobian_at=jacobian_at).eval()
    with torch.set_grad_enabled(grad):
        out = fif({"data": images()})
        assert "loss" not in out  # nothing computed for a sampler that reads z
        assert out.loss.item() == pytest.approx(exact_loss(fif, images()).item(), rel=1e-5)
        assert out["loss"] is out.loss and out["nll_loss"] is out.nll_loss
        again = fif({"data": images()}, epoch=3, dataset_size=40)
        assert again.loss.item() == out.loss.item()
        late = fif({"data": images()})
        assert late.recon_loss.requires_grad == grad and not out.loss.requires_grad
    fif.train()
    assert late.loss.item() == out.loss.item() and all(m.training for m in fif.modules())
    with pytest.raises(AttributeError):
        _ = out.nothing


@pytest.mark.parametrize("size, batch", [(50, 20), (100, 7), (200, 25), (200, 1)])
def test_evaluation_nll_is_that_of_points_spread_over_the_set(size, batch, monkeypatch):
    """The same in every pass; a batch with none costs nothing."""
    fif, counted = model().eval(), []
    original = fif._exact_nll
    monkeypatch.setattr(
        fif, "_exact_nll", lambda *args: counted.append(original(*args)) or counted[-1]
    )
    passes = []
    for _ in range(2):
        counted.clear()
        outs = [fif({"data": x}, dataset_size=size) for x in images(size).split(batch)]
        sums = sum(out.nll_loss * len(out.z) for out in outs) / size
        assert torch.allclose(sums, torch.cat(counted).mean(), rtol=1e-4)
        passes.append(torch.cat(counted))
        _ = fif({"data": images(7)}).z  # as a sampler does, whose data are no set
    assert len(passes[0]) == min(EVALUATED_POINTS, size) and torch.equal(*passes)


# ---------------------------------------------------------------- densities and samples


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize(
    ("cls", "config"), [(FIF, FIFConfig), (RectangularFlow, RectangularFlowConfig)]
)
def test_log_prob_of_a_linear_model_is_the_closed_form(cls, config, latent):
    weight = torch.randn(5, 2, dtype=torch.float64)
    config = config(input_dim=(5,), latent_dim=2, latent_distribution=latent, student_t_df=3)
    fif = cls(config, linear_encoder(torch.linalg.pinv(weight)), linear_decoder(weight))
    z = torch.randn(7, 2, dtype=torch.float64)
    prior = {
        "normal": scipy.stats.multivariate_normal(np.zeros(2)).logpdf,
        "student_t": lambda z: scipy.stats.t(3).logpdf(z).sum(1),
        "multivariate_student_t": scipy.stats.multivariate_t(np.zeros(2), df=3).logpdf,
    }[latent]
    expected = torch.from_numpy(prior(z.numpy())) - 0.5 * torch.logdet(weight.T @ weight)
    x = z @ weight.T
    odd = x.numpy().astype(">f8")[::-1].copy()[::-1]  # of other bytes, and strides below 0
    for data in (x, x.numpy(), odd, pandas.DataFrame(x.numpy(), columns=list("abcde"))):
        assert torch.allclose(fif.log_prob(data), expected)
    assert torch.allclose(fif.singular_values(x)[0], torch.linalg.svdvals(weight))
    assert torch.allclose(fif.log_volume(x), torch.linalg.svdvals(weight).log().sum())
    samples, density = fif.sample_and_log_prob((2, 3))
    assert samples.shape == (2, 3, 5) and density.shape == (2, 3)
    assert torch.allclose(density.flatten(), fif.log_prob(samples.flatten(0, 1)))


@pytest.mark.parametrize("latent", LATENTS)
def test_samples_come_from_the_latent_distribution(latent):
    identity = torch.eye(2)
    config = FIFConfig(input_dim=(2,), latent_dim=2, latent_distribution=latent, student_t_df=5)
    fif = FIF(config, linear_encoder(identity), linear_decoder(identity)).train()
    samples = fif.sample(100_000)
    variance = 1.0 if latent == "normal" else 5 / 3
    assert torch.allclose(samples.var(0), torch.full((2,), variance), rtol=0.05)
    lengths = samples.square().sum(1).detach().numpy()
    if latent == "multivariate_student_t":  # |z|^2 / d is F-distributed
        assert scipy.stats.kstest(lengths / 2, scipy.stats.f(2, 5).cdf).pvalue > 0.01
    draws = [fif.sample(3, generator=torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(*draws) and not torch.equal(draws[0], fif.sample(3))
    assert fif.training and fif.sample((4, 3)).shape == (4, 3, 2)
    # d = D: a full-dimensional flow, whose density is that of the data space
    x = torch.randn(5, 2)
    assert torch.allclose(fif.log_prob(x), fif.latent_distribution(x).log_prob(x), atol=1e-5)


@pytest.mark.parametrize("size", [-1, 0, 2.5, "3", (2, 0), (), None])
def test_a_bad_number_of_samples_is_one_line(size):
    with pytest.raises(
        ConfigError, match=r"FIF: num_samples=.*: use a positive integer, or a shape"
    ):
        model().sample(size)


def test_codes_and_points_have_gradients_where_they_are_asked_for():
    fif, x = model().train(), images(5).requires_grad_()
    z = fif.encode(x)
    for found in (z, fif.decode(z), fif.reconstruct(x)):
        assert not found.requires_grad
    z = fif.encode(x, gradients=True)
    assert z.requires_grad and fif.decode(z, gradients=True).requires_grad
    assert fif.embed(x).requires_grad and fif.predict(x).recon_x.requires_grad
    torch.autograd.grad(fif.reconstruct(x, gradients=True).sum(), [x, *fif.parameters()])
    assert fif.training and fif.decode(z.view(5, 1, 3).numpy(force=True)).shape == (5, 1, *SHAPE)
    with pytest.raises(DataError, match=r"codes of shape \(5, 4\): \(B, 3\) is needed"):
        fif.decode(torch.zeros(5, 4))


def test_what_runs_without_gradients_may_differentiate_inside():
    x = torch.ones(3, requires_grad=True)
    assert not without_gradients(torch.exp, x).requires_grad
    (found,) = without_gradients(lambda: torch.autograd.grad(x.exp().sum(), x))
    torch.testing.assert_close(found, x.exp())
    with pytest.raises(RuntimeError, match="out of memory"):
        without_gradients(lambda: (_ for _ in ()).throw(RuntimeError("out of memory")).__next__())


# ---------------------------------------------------------------- Pythae's interface


@pytest.mark.parametrize(
    "options",
    [
        {"hutchinson_samples": 2, "surrogate_fraction": 0.5},
        {"jacobian_at": "reconstruction", "latent_distribution": "student_t"},
    ],
    ids=str,
)
def test_training_pipeline(tmp_path, options):
    fif, x = model(**options), images(60)
    before = fif.eval()({"data": x}).loss
    config = trainer_config(tmp_path, num_epochs=20, learning_rate=1e-3)
    pipeline = TrainingPipeline(model=fif, training_config=config)
    pipeline(train_data=x, eval_data=x)
    loaded = AutoModel.load_from_folder(f"{pipeline.trainer.training_dir}/final_model").eval()
    assert isinstance(loaded, FIF) and loaded(DatasetOutput(data=x)).loss < before
    for call in (loaded.log_prob, loaded.encode):
        with pytest.warns(UserWarning, match=r"codes are about \d+ times as large as the prior's"):
            call(255 * x)


@pytest.mark.parametrize(
    "sampler",
    [NormalSamplerConfig(), GaussianMixtureSamplerConfig(n_components=2), MAFSamplerConfig()],
    ids=lambda config: config.name,
)
def test_generation_pipeline(tmp_path, sampler):
    generated = GenerationPipeline(model=model().eval(), sampler_config=sampler)(
        num_samples=5,
        train_data=images(),
        eval_data=images(),
        training_config=trainer_config(tmp_path),
    )
    assert generated.shape == (5, *SHAPE) and torch.isfinite(generated).all()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_a_compiled_model_trains_and_leaves_nothing_behind():
    compiled = torch.compile(model(), backend="eager")
    for _ in range(2):
        compiled({"data": torch.rand(4, *SHAPE)}).loss.backward()
    assert compiled.surrogate_mode == "replay" and not torch.overrides._len_torch_function_stack()


# ---------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("output", "remedy"),
    [
        (torch.zeros(5, 2), r"a network returns a Tensor: let it return ModelOutput\(embedding="),
        (ModelOutput(codes=torch.zeros(5, 2)), r"a network returns a ModelOutput: let it return"),
        (ModelOutput(embedding=torch.zeros(5, 3)), r"embedding of shape \(5, 3\): \(B, 2\)"),
    ],
)
def test_an_encoder_of_another_kind(output, remedy):
    encoder = Map("embedding", None)
    encoder.forward = lambda _: output
    fif = FIF(FIFConfig(input_dim=SHAPE, latent_dim=2), encoder)
    for call in (fif.encode, fif.log_prob, lambda x: fif({"data": x})):
        with pytest.raises(ConfigError, match=remedy):
            call(torch.zeros(5, *SHAPE))
