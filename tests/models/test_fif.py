"""FIF does what a built-in Pythae model does, and its densities are right."""

import numpy as np
import pandas
import pytest
import scipy.stats
import torch
from pythae.data.datasets import DatasetOutput
from pythae.models import AE, AEConfig, AutoModel
from pythae.models.base.base_utils import ModelOutput
from pythae.pipelines import GenerationPipeline, TrainingPipeline
from pythae.samplers import GaussianMixtureSamplerConfig, MAFSamplerConfig, NormalSamplerConfig
from pythae.trainers import BaseTrainerConfig
from support.networks import Map, hand_built_networks, linear_decoder, linear_encoder

from pythae_fif import FIF, FIFConfig
from pythae_fif.baselines import RectangularFlow, RectangularFlowConfig
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.models import evaluation_loss
from pythae_fif.models.evaluation_loss import EVALUATED_POINTS, evaluated_points
from pythae_fif.models.outputs import without_gradients
from pythae_fif.models.saved import load_model
from pythae_fif.nn import build_networks
from pythae_fif.volume_change.exact import decoder_jacobian, encoder_jacobian, log_volume

SHAPE = (1, 4, 4)
LATENTS = ("normal", "student_t", "multivariate_student_t")


def model(**options):
    torch.manual_seed(0)
    return FIF(FIFConfig(input_dim=SHAPE, latent_dim=3, **options))


def images(count=40):
    x = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))
    x[:1, 0, 0, 0] = 1.0
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


@pytest.mark.parametrize("mode", ["replay", "published"])
def test_a_decoder_is_trained_with_a_frozen_encoder(mode):
    encoder = linear_encoder(torch.randn(2, 5)).requires_grad_(False)
    fif = FIF(FIFConfig(input_dim=(5,), latent_dim=2), encoder, linear_decoder(torch.randn(5, 2)))
    fif.surrogate_mode = mode
    config = RectangularFlowConfig(input_dim=(5,), latent_dim=2)
    rectangular = RectangularFlow(config, encoder, linear_decoder(torch.randn(5, 2)))
    for model in (fif, rectangular):
        model.train()({"data": torch.rand(6, 5)}).loss.backward()
        assert model.decoder.weight.grad is not None


def test_the_output_in_training():
    out = model(beta=7.0).train()({"data": images()})
    torch.testing.assert_close(out.loss, out.nll_loss + 7.0 * out.recon_loss)
    assert out.recon_x.shape == (40, *SHAPE) and out.z.shape == (40, 3)


@pytest.mark.parametrize("fraction", [0.25, 0.3, 1.0])
def test_gradient_of_a_fraction_is_unbiased_over_the_order_of_the_batch(fraction):
    """Averages over all cyclic orders of the batch, each with its own Hutchinson vectors."""
    x = images(8).double()
    gradients = {}
    for share in (fraction, 1.0):
        fif = model(surrogate_fraction=share, hutchinson_samples=3, noise=0.0).double().train()
        for shift in range(8):  # K = d: orthogonal vectors give the trace exactly
            (fif({"data": x.roll(shift, 0)}).loss / 8).backward()
        gradients[share] = torch.cat([p.grad.flatten() for p in fif.parameters()])
    torch.testing.assert_close(gradients[fraction], gradients[1.0])


@pytest.mark.parametrize("mode", ["replay", "published"])
@pytest.mark.parametrize("arch, samples", [("fif_convnet", 1), ("fif_convnet", 2), ("resnet", 1)])
def test_a_whole_step_in_bfloat16(arch, samples, mode):
    options = {"surrogate_fraction": 0.5, "hutchinson_samples": samples}
    config = FIFConfig(input_dim=(1, 28, 28), latent_dim=3, noise=0.0, **options)
    fif = FIF(config, *build_networks(arch, (1, 28, 28), 3)).train()
    fif.surrogate_mode = mode
    x = {"data": torch.rand(4, 1, 28, 28)}

    def loss(bfloat16):
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            return fif(x).loss

    coarse = loss(bfloat16=True)
    fine = loss(bfloat16=False)
    coarse.backward()
    assert all(p.grad.isfinite().all() for p in fif.parameters())
    assert coarse.dtype == torch.float32
    assert coarse.item() == pytest.approx(fine.item(), rel=0.02)


class PenalizedFIF(FIF):
    """A FIF with a further term of the loss."""

    def total_loss(self, x, terms):
        return super().total_loss(x, terms) + terms.z.square().sum(1).mean()


@pytest.mark.parametrize("training", [True, False])
def test_a_further_term(training):
    plain = model(beta=7.0)
    fif = PenalizedFIF(plain.model_config, plain.encoder, plain.decoder).train(training)
    torch.manual_seed(0)
    output = fif({"data": images(100)})
    penalty = output.z.square().sum(1).mean()
    expected = output.nll_loss + 7.0 * output.recon_loss + penalty
    torch.testing.assert_close(output.loss, expected.detach() if not training else expected)


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
        output = fif({"data": images()})
        assert "loss" not in output  # a sampler that reads z waits for no loss
        assert output.loss.item() == pytest.approx(exact_loss(fif, images()).item(), rel=1e-5)
        assert output["loss"] is output.loss
        assert output["nll_loss"] is output.nll_loss
        assert not output.loss.requires_grad

        in_a_pass = fif({"data": images()}, epoch=3, dataset_size=40)
        assert in_a_pass.loss.item() == output.loss.item()
        late_output = fif({"data": images()})
        assert late_output.recon_loss.requires_grad == grad

    fif.train()
    assert late_output.loss.item() == output.loss.item()
    assert all(module.training for module in fif.modules())
    with pytest.raises(AttributeError):
        _ = output.nothing


@pytest.mark.parametrize("has_position", [True, False])
@pytest.mark.parametrize("size, batch_size", [(50, 20), (100, 7), (200, 25), (200, 1)])
def test_evaluation_nll_is_computed_at_points_spread_over_the_set(
    size, batch_size, has_position, monkeypatch
):
    """A trainer that reports positions gets as many points as a whole set in one batch."""
    fif = model().eval()
    exact_nll = evaluation_loss._exact_nll
    batches = images(size).split(batch_size)
    starts = range(0, size, batch_size)
    counts = []

    def record(model, *inputs):
        counts.append(len(inputs[0]))
        return exact_nll(model, *inputs)

    monkeypatch.setattr(evaluation_loss, "_exact_nll", record)
    means = []
    for batch, start in zip(batches, starts, strict=True):
        keywords = {"position": start} if has_position else {}
        means.append(fif({"data": batch}, dataset_size=size, **keywords).nll_loss)

    points = min(EVALUATED_POINTS, size)
    if has_position:
        assert sum(counts) == points
        assert max(counts) <= 1 + points * batch_size // size
    else:
        assert len(counts) == len(batches)
        first_rows = [batch[:count] for batch, count in zip(batches, counts, strict=True)]
        expected = [exact_nll(fif, x, fif.encode(x))[0].mean() for x in first_rows]
        torch.testing.assert_close(means, [value.detach() for value in expected])


@pytest.mark.parametrize(
    ("latent_dim", "points"), [(1, 64), (16, 64), (21, 48), (64, 16), (512, 16)]
)
def test_larger_codes_have_fewer_exact_points(latent_dim, points):
    assert evaluated_points(latent_dim) == points


def test_the_points_of_an_evaluation_have_equal_weights():
    fif = model().eval()
    batches = images(200).split(25)
    outputs = [fif({"data": x}, dataset_size=200, position=25 * i) for i, x in enumerate(batches)]
    nll = torch.cat(
        [evaluation_loss._exact_nll(fif, x[:8], fif.encode(x[:8]))[0] for x in batches]
    ).detach()
    mean = sum(output.nll_loss for output in outputs) / len(outputs)
    torch.testing.assert_close(mean, nll.mean())


# ---------------------------------------------------------------- densities and samples


def linear_model(cls, config_class, latent):
    """A linear model z -> W z with its pseudo-inverse, and W (5, 2)."""
    weight = torch.randn(5, 2, dtype=torch.float64)
    config = config_class(input_dim=(5,), latent_dim=2, latent_distribution=latent, student_t_df=3)
    networks = linear_encoder(torch.linalg.pinv(weight)), linear_decoder(weight)
    return cls(config, *networks), weight


MODEL_CLASSES = [(FIF, FIFConfig), (RectangularFlow, RectangularFlowConfig)]


@pytest.mark.filterwarnings("ignore:.* has no columns")
@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize(("cls", "config_class"), MODEL_CLASSES)
def test_log_prob_of_a_linear_model_is_the_closed_form(cls, config_class, latent):
    model, weight = linear_model(cls, config_class, latent)
    z = torch.randn(7, 2, dtype=torch.float64)
    x = z @ weight.T
    prior = {
        "normal": scipy.stats.multivariate_normal(np.zeros(2)).logpdf,
        "student_t": lambda z: scipy.stats.t(3).logpdf(z).sum(1),
        "multivariate_student_t": scipy.stats.multivariate_t(np.zeros(2), df=3).logpdf,
    }[latent]
    expected = torch.from_numpy(prior(z.numpy())) - 0.5 * torch.logdet(weight.T @ weight)

    big_endian_reversed = x.numpy().astype(">f8")[::-1].copy()[::-1]  # with negative strides
    frame = pandas.DataFrame(x.numpy(), columns=list("abcde"))
    for data in (x, x.numpy(), big_endian_reversed, frame):
        assert torch.allclose(model.log_prob(data), expected)


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize(("cls", "config_class"), MODEL_CLASSES)
def test_volume_and_samples_of_a_linear_model(cls, config_class, latent):
    model, weight = linear_model(cls, config_class, latent)
    x = torch.randn(7, 2, dtype=torch.float64) @ weight.T
    singular_values = torch.linalg.svdvals(weight)
    assert torch.allclose(model.singular_values(x)[0], singular_values)
    assert torch.allclose(model.log_volume(x), singular_values.log().sum())

    samples, density = model.sample_and_log_prob((2, 3))
    assert samples.shape == (2, 3, 5)
    assert density.shape == (2, 3)
    assert torch.allclose(density.flatten(), model.log_prob(samples.flatten(0, 1)))


@pytest.mark.parametrize("latent", LATENTS)
def test_samples_come_from_the_latent_distribution(latent):
    identity = torch.eye(2)
    config = FIFConfig(input_dim=(2,), latent_dim=2, latent_distribution=latent, student_t_df=5)
    fif = FIF(config, linear_encoder(identity), linear_decoder(identity)).train()
    samples = fif.sample(100_000)
    variance = 1.0 if latent == "normal" else 5 / 3
    assert torch.allclose(samples.var(0), torch.full((2,), variance), rtol=0.05)
    if latent == "multivariate_student_t":  # |z|^2 / d is F-distributed
        lengths = samples.square().sum(1).detach().numpy()
        assert scipy.stats.kstest(lengths / 2, scipy.stats.f(2, 5).cdf).pvalue > 0.01

    seeded = fif.sample(3, generator=torch.Generator().manual_seed(4))
    assert torch.equal(seeded, fif.sample(3, generator=torch.Generator().manual_seed(4)))
    assert not torch.equal(seeded, fif.sample(3))
    assert fif.sample((4, 3)).shape == (4, 3, 2)
    assert fif.training

    # d = D: a full-dimensional flow, with a density in data space.
    x = torch.randn(5, 2)
    assert torch.allclose(fif.log_prob(x), fif.latent_distribution(x).log_prob(x), atol=1e-5)


@pytest.mark.parametrize("size", [-1, 0, 2.5, "3", (2, 0), (), None])
def test_a_bad_number_of_samples_is_one_line(size):
    message = r"FIF: num_samples=.*: use a positive integer, or a shape"
    with pytest.raises(ConfigError, match=message):
        model().sample(size)


def test_codes_and_points_have_gradients_on_request():
    fif = model().train()
    x = images(5).requires_grad_()
    z = fif.encode(x)
    for result in (z, fif.decode(z), fif.reconstruct(x)):
        assert not result.requires_grad

    z = fif.encode(x, gradients=True)
    assert z.requires_grad
    assert fif.decode(z, gradients=True).requires_grad
    assert fif.embed(x).requires_grad
    assert fif.predict(x).recon_x.requires_grad
    torch.autograd.grad(fif.reconstruct(x, gradients=True).sum(), [x, *fif.parameters()])
    assert fif.training


def test_shapes_of_codes():
    fif = model()
    assert fif.decode(np.zeros((5, 1, 3))).shape == (5, 1, *SHAPE)
    with pytest.raises(DataError, match=r"codes of shape \(5, 4\): \(B, 3\) is needed"):
        fif.decode(torch.zeros(5, 4))


def test_a_call_without_gradients_may_differentiate_internally():
    x = torch.ones(3, requires_grad=True)
    assert not without_gradients(torch.exp, x).requires_grad
    (gradient,) = without_gradients(lambda: torch.autograd.grad(x.exp().sum(), x))
    torch.testing.assert_close(gradient, x.exp())

    def fail():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        without_gradients(fail)


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
    fif = model(**options)
    x = images(60)
    untrained_loss = fif.eval()({"data": x}).loss
    config = trainer_config(tmp_path, num_epochs=20, learning_rate=1e-3)
    pipeline = TrainingPipeline(model=fif, training_config=config)
    pipeline(train_data=x, eval_data=x)
    loaded = AutoModel.load_from_folder(f"{pipeline.trainer.training_dir}/final_model").eval()
    assert isinstance(loaded, FIF)
    assert loaded(DatasetOutput(data=x)).loss < untrained_loss
    for call in (loaded.log_prob, loaded.encode):
        with pytest.warns(UserWarning, match=r"codes are about \d+ times as large as those of"):
            call(255 * x)


@pytest.mark.parametrize(
    "sampler",
    [NormalSamplerConfig(), GaussianMixtureSamplerConfig(n_components=2), MAFSamplerConfig()],
    ids=lambda config: config.name,
)
def test_generation_pipeline(tmp_path, sampler):
    pipeline = GenerationPipeline(model=model().eval(), sampler_config=sampler)
    samples = pipeline(
        num_samples=5,
        train_data=images(),
        eval_data=images(),
        training_config=trainer_config(tmp_path),
    )
    assert samples.shape == (5, *SHAPE)
    assert samples.isfinite().all()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_a_compiled_model_trains_and_leaves_nothing_behind():
    compiled = torch.compile(model(), backend="eager")
    for _ in range(2):
        compiled({"data": torch.rand(4, *SHAPE)}).loss.backward()
    assert compiled.surrogate_mode == "replay"
    assert not torch.overrides._len_torch_function_stack()


# ---------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("output", "remedy"),
    [
        (torch.zeros(5, 2), r"a network returns a Tensor: let it return ModelOutput\(embedding="),
        (ModelOutput(codes=torch.zeros(5, 2)), r"a network returns a ModelOutput: let it return"),
        (ModelOutput(embedding=torch.zeros(5, 3)), r"embedding of shape \(5, 3\): \(B, 2\)"),
    ],
)
def test_an_encoder_with_another_output_is_refused(output, remedy):
    encoder = Map("embedding", None)
    encoder.forward = lambda _: output
    fif = FIF(FIFConfig(input_dim=SHAPE, latent_dim=2), encoder)
    for call in (fif.encode, fif.log_prob, lambda x: fif({"data": x})):
        with pytest.raises(ConfigError, match=remedy):
            call(torch.zeros(5, *SHAPE))


def test_inference_mode_has_no_training_loss():
    model = FIF(FIFConfig(input_dim=(5,), latent_dim=2)).train()
    with torch.inference_mode(), pytest.raises(ConfigError, match=r"use torch\.no_grad\(\) in"):
        model({"data": torch.randn(3, 5)})
    with torch.no_grad():
        assert model({"data": torch.randn(3, 5)}).loss.isfinite()


@pytest.mark.parametrize("kind", ["gaussian", "mixture", "flow", "flow_matching"])
def test_a_prior_of_no_codes_is_one_line(kind):
    with pytest.raises(ConfigError, match="a prior cannot be fitted to 0 codes"):
        model().fit_prior(images(0), kind)


def test_nll_has_the_interface_of_pythaes_vae():
    fif = model()
    x = images(7)
    torch.manual_seed(0)
    expected = fif.marginal_log_prob(x, 1.0, samples=5).mean().item()
    torch.manual_seed(0)
    assert fif.get_nll(x, n_samples=5) == pytest.approx(expected)
    assert np.isfinite(fif.get_nll(x, n_samples=2, batch_size=3))
    assert fif.log_prob(x).dtype == fif.marginal_log_prob(x, 1.0).dtype


def test_missing_files_come_before_untrusted_pickles(tmp_path):
    """With the error types that Pythae's own tests expect."""
    AE(AEConfig(input_dim=SHAPE, latent_dim=3), *hand_built_networks()).save(tmp_path)
    assert (tmp_path / "encoder.pkl").exists()
    with pytest.raises(ConfigError, match="can run any code"):
        load_model(str(tmp_path))
    (tmp_path / "model.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.pt is missing"):
        load_model(str(tmp_path))
    with pytest.raises(AttributeError, match="input_dim is needed"):
        FIF(FIFConfig(latent_dim=2))
