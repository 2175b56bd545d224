"""FIF does what a built-in Pythae model does, and its densities are right."""

import copy
import math

import numpy as np
import pytest
import scipy.stats
import torch
from pythae.data.datasets import DatasetOutput
from pythae.models import AutoModel
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.models.nn.benchmarks.mnist import Decoder_Conv_AE_MNIST, Encoder_Conv_AE_MNIST
from pythae.models.nn.default_architectures import Encoder_AE_MLP
from pythae.pipelines import GenerationPipeline, TrainingPipeline
from pythae.samplers import (
    GaussianMixtureSamplerConfig,
    IAFSamplerConfig,
    MAFSamplerConfig,
    NormalSamplerConfig,
)
from pythae.trainers import BaseTrainerConfig
from torch import nn

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.data import ImageDataset
from pythae_fif.errors import ConfigError
from pythae_fif.models import RectangularFlow, RectangularFlowConfig
from pythae_fif.models.fif import SlowerModeWarning
from pythae_fif.nn import build_networks
from pythae_fif.volume_change import (
    decoder_jacobian,
    encoder_jacobian,
    log_volume,
    sample_hutchinson,
    surrogate,
)

SHAPE = (1, 4, 4)
LATENTS = ("normal", "student_t", "multivariate_student_t")


class LinearEncoder(BaseEncoder):
    def __init__(self, weight):
        super().__init__()
        self.linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.linear.weight.data = weight

    def forward(self, x):
        return ModelOutput(embedding=self.linear(x))


class LinearDecoder(BaseDecoder):
    def __init__(self, weight):
        super().__init__()
        self.linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.linear.weight.data = weight

    def forward(self, z):
        return ModelOutput(reconstruction=self.linear(z))


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


# ---------------------------------------------------------------- how it is differentiated


def test_a_first_sample_that_is_not_a_number_does_not_choose_the_mode():
    fif, x = model().train(), images(5)
    x[0] = math.nan
    assert fif({"data": x}).loss.isnan() and fif.surrogate_mode == "replay"


def test_batch_norm_in_the_decoder_alone_goes_with_a_jacobian_at_the_reconstruction():
    """The encoder runs twice."""
    config = FIFConfig(input_dim=(1, 8, 8), latent_dim=2, jacobian_at="reconstruction")
    fif = FIF(config, decoder=build_networks("fif_convnet", (1, 8, 8), 2)[1]).train()
    fif({"data": torch.rand(5, 1, 8, 8)}).loss.backward()
    (moved, *_) = [m for m in fif.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert moved.num_batches_tracked == 1


def test_a_network_that_always_takes_the_statistics_of_the_batch_is_refused():
    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 2)

        def forward(self, x):
            norm = torch.batch_norm(x, *[None] * 4, True, 0.1, 1e-5, False)
            return ModelOutput(embedding=self.layer(norm))

    fif = FIF(FIFConfig(input_dim=(4,), latent_dim=2), Encoder()).train()
    with pytest.raises(ConfigError, match=r"^FIF of one item in evaluation mode: Expected "):
        fif({"data": torch.rand(5, 4)})


OF_DECODER = {"gradient_to": "decoder", "trace_space": "data"}


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"hutchinson_samples": 2}, None),
        ({"hutchinson_samples": 2, "mode": "backward"}, None),
        ({"mode": "mixed"}, None),
        ({"hutchinson_samples": 2, "mode": "mixed"}, "wrong running statistics"),
        ({"hutchinson_samples": 2, "mode": "mixed", **OF_DECODER}, None),
        ({"mode": "central_difference"}, "wrong running statistics"),
        ({"mode": "forward"}, "wrong gradients"),
        ({"jacobian_at": "reconstruction"}, "wrong running statistics"),
        ({"jacobian_at": "detached_reconstruction", "mode": "backward"}, "running statistics"),
    ],
)
def test_a_step_moves_running_statistics_once_or_is_refused(options, refused):
    config = FIFConfig(input_dim=(1, 8, 8), latent_dim=2, **options)
    networks = build_networks("fif_convnet", (1, 8, 8), 2)
    if refused:
        with pytest.raises(ConfigError, match=refused):
            FIF(config, *networks)
        return
    fif = FIF(config, *networks).train()
    fif(DatasetOutput(data=torch.rand(4, 1, 8, 8)))
    norms = [m for m in fif.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and {int(norm.num_batches_tracked) for norm in norms} == {1}


@pytest.mark.parametrize("meet", [lambda z: z.softmax(0), lambda z: z / z.std()])
def test_a_part_of_the_surrogate_needs_samples_that_do_not_meet(meet):
    class AcrossSamples(LinearEncoder):
        def forward(self, x):
            return ModelOutput(embedding=meet(super().forward(x.flatten(1)).embedding))

    config = FIFConfig(input_dim=SHAPE, latent_dim=3, surrogate_fraction=0.5)
    fif = FIF(config, encoder=AcrossSamples(torch.randn(3, 16))).train()
    with pytest.raises(ConfigError, match=r"surrogate_fraction or .*: the samples .* meet"):
        fif(DatasetOutput(data=images()))


class Distances(LinearEncoder):
    """Between three points: an operation that PyTorch differentiates once, and in reverse alone."""

    def forward(self, x):
        points = super().forward(x.flatten(1)).embedding.view(-1, 3, 2)
        return ModelOutput(embedding=torch.stack([nn.functional.pdist(p) for p in points]))


@pytest.mark.skipif(torch.__version__ >= "2.14", reason="PyTorch differentiates pdist twice, now")
@pytest.mark.filterwarnings("ignore::pythae_fif.models.fif.SlowerModeWarning")
def test_the_last_resort_is_offered_by_name():
    config = FIFConfig(input_dim=SHAPE, latent_dim=3)
    with pytest.raises(ConfigError, match=r"pdist.* not implemented.*mode='central_difference'$"):
        FIF(config, encoder=Distances(torch.randn(6, 16))).train()(DatasetOutput(data=images()))
    config.mode = "central_difference"
    fif = FIF(config, encoder=Distances(torch.randn(6, 16))).train()
    fif(DatasetOutput(data=images())).loss.backward()
    assert all(p.grad.isfinite().all() for p in fif.parameters())


@pytest.mark.parametrize("mode", ["backward", "mixed", "forward", "central_difference"])
def test_a_decoder_is_trained_beside_a_frozen_encoder_in_any_mode(mode):
    networks = (
        LinearEncoder(torch.randn(2, 5)).requires_grad_(False),
        LinearDecoder(torch.randn(5, 2)),
    )
    fif = FIF(FIFConfig(input_dim=(5,), latent_dim=2, mode=mode), *networks).train()
    fif(DatasetOutput(data=torch.rand(6, 5))).loss.backward()
    assert all(p.grad is not None for p in fif.decoder.parameters())


@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_to": "decoder"}, {"trace_space": "data"}, {"jacobian_at": "reconstruction"}],
)
def test_the_output_in_training_says_how_far_it_is_from_rest(options):
    vectors = 16 if options.get("trace_space") == "data" else 3  # K of an exact trace
    fif = model(noise=0.0, hutchinson_samples=vectors, **options).train()
    out = fif(DatasetOutput(data=images()))
    assert not out.code_square.requires_grad and not out.code_trace.requires_grad
    torch.testing.assert_close(out.code_square, out.z.detach().square().sum(1).mean() / 3)
    at = out.recon_x if options.get("jacobian_at") == "reconstruction" else images()
    with torch.no_grad():
        f = encoder_jacobian(lambda x: fif.encoder(x).embedding, at)
        g = decoder_jacobian(lambda z: fif.decoder(z).reconstruction, out.z)
    trace = (f.flatten(2) @ g.flatten(1, -2)).diagonal(0, 1, 2).sum(1).mean()
    torch.testing.assert_close(out.code_trace, trace / 3, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fraction", [0.25, 0.3, 1.0])
def test_gradient_of_a_fraction_is_unbiased_over_the_order_of_the_batch(fraction):
    """Mean over all cyclic orders of the batch, with the Hutchinson vectors of every one."""
    x = images(8).double()
    total = {}
    for part in (fraction, 1.0):
        fif = model(surrogate_fraction=part, hutchinson_samples=3, noise=0.0).double().train()
        for shift in range(8):  # K = d: orthogonal vectors give the trace exactly
            (fif(DatasetOutput(data=x.roll(shift, 0))).loss / 8).backward()
        total[part] = torch.cat([p.grad.flatten() for p in fif.parameters()])
    torch.testing.assert_close(total[fraction], total[1.0])


def test_a_fraction_below_one_is_never_the_whole_of_a_small_batch():
    losses = []
    for fraction in (0.9, 8 / 9):
        fif = model(surrogate_fraction=fraction).train()
        torch.manual_seed(1)
        losses.append(fif(DatasetOutput(data=images(9))).loss)
    assert losses[0] == losses[1]


@pytest.mark.parametrize("fraction", [1.0, 0.5])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_whole_step_in_bfloat16(batch_norm, fraction):
    config = FIFConfig(input_dim=(1, 28, 28), latent_dim=3, noise=0.0, surrogate_fraction=fraction)
    torch.manual_seed(0)
    networks = Encoder_Conv_AE_MNIST(config), Decoder_Conv_AE_MNIST(config)
    fif = FIF(config, *networks if batch_norm else ()).train()
    x, losses = DatasetOutput(data=torch.rand(4, 1, 28, 28)), []
    for low in (True, False):
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            losses.append(fif(x).loss)
    losses[0].backward()
    assert all(p.grad.isfinite().all() for p in fif.parameters())
    assert losses[0].dtype == torch.float32 and fif.surrogate_mode == "replay"
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=0.02)


def test_compiled_model_has_the_same_gradient():
    x = images(6).double()
    grads = []
    for wrap in (lambda m: m, lambda m: torch.compile(m, backend="aot_eager")):
        fif = model(noise=0.0).double().train()
        torch.manual_seed(5)
        wrap(fif)(DatasetOutput(data=x)).loss.backward()
        grads.append(torch.cat([p.grad.flatten() for p in fif.parameters()]))
    torch.testing.assert_close(*grads)


def test_compiled_networks_have_the_same_gradient():
    """A compiled network hides its operations, so that it is differentiated backward."""
    x = images(6).double()
    grads = []
    for compiled in (False, True):
        fif = model(noise=0.0).double().train()
        if compiled:
            fif.encoder.compile(backend="aot_eager_decomp_partition")
            fif.decoder.compile(backend="aot_eager_decomp_partition")
        torch.manual_seed(5)
        fif(DatasetOutput(data=x)).loss.backward()
        grads.append(torch.cat([p.grad.flatten() for p in fif.parameters()]))
    torch.testing.assert_close(*grads)


class SkipDecoder(LinearDecoder):
    """A linear map of z + block(z)."""

    def __init__(self, block):
        super().__init__(torch.randn(16, 3))
        self.block = block

    def forward(self, z):
        image = super().forward(z + self.block(z)).reconstruction
        return ModelOutput(reconstruction=image.reshape(-1, *SHAPE))


def test_a_scripted_block_beside_a_skip_connection_is_not_left_out():
    """Its operations are hidden, while those of the skip connection are not."""
    x, grads, likelihoods = images(6).double(), [], []
    for script in (lambda block: block, torch.jit.script):
        torch.manual_seed(0)
        decoder = SkipDecoder(script(nn.Sequential(nn.Linear(3, 3), nn.Tanh())))
        fif = FIF(FIFConfig(input_dim=SHAPE, latent_dim=3, noise=0.0), decoder=decoder)
        fif = fif.double().train()
        torch.manual_seed(5)
        fif(DatasetOutput(data=x)).loss.backward()
        grads.append(torch.cat([p.grad.flatten() for p in fif.parameters()]))
        likelihoods.append(fif.log_prob(x))
    assert fif.surrogate_mode == "backward"
    torch.testing.assert_close(*grads)
    torch.testing.assert_close(*likelihoods)


class Swish(torch.autograd.Function):
    """With its own derivative, as those that save memory."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return grad * s * (1 + x * (1 - s))


def scaled_in_training(layer, x):
    if not layer.training:
        return x
    with torch.no_grad():
        scale = x.square().mean(1, keepdim=True).sqrt()
    return x / scale


class Block(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(self, x)


@pytest.mark.parametrize(
    "function, mode",
    [
        (lambda f, x: Swish.apply(x), "backward"),
        (lambda f, x: x + Swish.apply(x), "backward"),
        (lambda f, x: x + (Swish.apply if f.training else nn.functional.silu)(x), "backward"),
        (scaled_in_training, "replay"),
    ],
    ids=["function", "skip", "skip in training", "no_grad in training"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::pythae_fif.models.fif.SlowerModeWarning")
def test_what_autograd_alone_knows_of_a_block_is_heeded(function, mode):
    x, grads = images(6).double(), []
    for asked in ("replay", "backward"):
        torch.manual_seed(0)
        block = nn.Sequential(nn.Linear(3, 3), Block(function))
        config = FIFConfig(input_dim=SHAPE, latent_dim=3, noise=0.0, mode=asked)
        fif = FIF(config, decoder=SkipDecoder(block)).double().train()
        torch.manual_seed(5)
        fif(DatasetOutput(data=x)).loss.backward()
        assert fif.surrogate_mode == (mode if asked == "replay" else asked)
        grads.append(torch.cat([p.grad.flatten() for p in fif.parameters()]))
    torch.testing.assert_close(*grads)


class FourierEncoder(Encoder_AE_MLP):
    def __init__(self, config):
        super().__init__(config)
        self.filter = nn.Parameter(torch.randn(9, dtype=torch.complex64))

    def forward(self, x):
        spectrum = torch.fft.rfft(x.flatten(1)) * self.filter
        return super().forward(torch.fft.irfft(spectrum, n=16).view_as(x).tanh())


def test_complex_numbers_keep_their_imaginary_part(tmp_path):
    """In products of bfloat16, in the optimizer, and in the folder of a model."""
    x, grads = images(6), []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        config = FIFConfig(input_dim=SHAPE, latent_dim=3, noise=0.0, surrogate_precision=precision)
        fif = FIF(config, FourierEncoder(config)).train()
        torch.manual_seed(5)
        output = fif(DatasetOutput(data=x))
        grads += torch.autograd.grad(output.nll_loss, fif.encoder.filter)
        assert fif.surrogate_mode == "replay"
    assert (grads[1] - grads[0]).norm() < 0.05 * grads[0].norm()
    training = FIFTrainerConfig(num_epochs=1, no_cuda=True)
    data = ImageDataset((255 * x).to(torch.uint8))
    FIFTrainer(fif, data, training_config=training, run_dir=tmp_path).train()
    loaded = FIF.load_from_folder(str(tmp_path / "model"), trust=True).eval()
    assert torch.equal(loaded.embed(x), fif.eval().embed(x))


class RoutingEncoder(Encoder_AE_MLP):
    """Adds of each image the row that is the brightest."""

    def forward(self, x):
        rows = x.view(-1, 4, 4)
        brightest = rows.detach().sum(2).argmax(1)
        picked = rows[torch.arange(len(rows)), brightest]
        return super().forward((rows + picked[:, None]).view_as(x))


def test_indices_of_all_samples_are_not_given_to_a_part(monkeypatch):
    """On a GPU they end the process."""
    getitem, sizes = torch.Tensor.__getitem__, []

    def watched(tensor, key):
        if isinstance(key, tuple) and isinstance(key[0], torch.Tensor):
            sizes.append((tensor.shape[-3], len(key[0])))
        return getitem(tensor, key)

    config = FIFConfig(input_dim=SHAPE, latent_dim=3, surrogate_fraction=0.5)
    fif = FIF(config, RoutingEncoder(config)).train()
    monkeypatch.setattr(torch.Tensor, "__getitem__", watched)
    fif(DatasetOutput(data=images(6))).loss.backward()
    assert fif.surrogate_mode == "replay"
    assert sizes and all(rows >= indices for rows, indices in sizes)


class DrawingEncoder(Encoder_AE_MLP):
    def forward(self, x):
        out = super().forward(x)
        if self.training:
            out.embedding = nn.functional.rrelu(out.embedding, training=True)
        return out


def test_an_operation_of_training_mode_alone_is_differentiated_backward():
    config = FIFConfig(input_dim=SHAPE, latent_dim=3)
    fif = FIF(config, encoder=DrawingEncoder(config)).train()
    with pytest.warns(SlowerModeWarning, match="operation .*rrelu draws random numbers"):
        fif(DatasetOutput(data=images())).loss.backward()
    assert fif.surrogate_mode == "backward"
    assert all(p.grad.isfinite().all() for p in fif.parameters())
    config.surrogate_fraction = 0.5
    with pytest.raises(ConfigError, match=r"surrogate_fraction .*rrelu draws random numbers"):
        FIF(config, encoder=DrawingEncoder(config)).train()(DatasetOutput(data=images()))


@pytest.mark.parametrize("mode", ["mixed", "forward", "central_difference"])
def test_other_modes_are_refused_under_autocast(mode):
    fif = model(mode=mode).train()
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(ConfigError, match=f"mode '{mode}': .* autocast.*; use mode='backward'$"),
    ):
        fif(DatasetOutput(data=images()))


# ---------------------------------------------------------------- losses


def test_training_loss_is_the_sum_of_its_terms():
    out = model(beta=7.0).train()(DatasetOutput(data=images()))
    assert out.loss.item() == pytest.approx((out.nll_loss + 7.0 * out.recon_loss).item(), rel=1e-5)
    assert out.recon_x.shape == (40, *SHAPE) and out.z.shape == (40, 3)


@pytest.mark.parametrize("grad", [True, False])
def test_evaluation_loss_is_meaningful_lazy_and_deterministic(grad):
    fif = model(beta=7.0).eval()
    with torch.set_grad_enabled(grad):
        out = fif(DatasetOutput(data=images()))
        assert "loss" not in out  # nothing computed for a sampler that reads z
        assert out.loss.item() == pytest.approx(exact_loss(fif, images()).item(), rel=1e-5)
        assert out["loss"] is out.loss and out["nll_loss"] is out.nll_loss
        again = fif(DatasetOutput(data=images()), epoch=3, dataset_size=40)
        assert again.loss.item() == out.loss.item()
        late = fif(DatasetOutput(data=images()))
        assert late.recon_loss.requires_grad == grad and not out.loss.requires_grad
    fif.train()
    assert late.loss.item() == out.loss.item() and all(m.training for m in fif.modules())
    with pytest.raises(AttributeError):
        _ = out.nothing


def exact_loss(fif, x):
    """The loss whose gradient the surrogate estimates, from dense Jacobians."""
    with torch.enable_grad():
        z = fif.embed(x)
        if fif.model_config.jacobian_at == "data" and fif.model_config.gradient_to == "encoder":
            volume = -log_volume(encoder_jacobian(fif._encode, x))  # eq. 46
        else:
            volume = log_volume(decoder_jacobian(fif._decode, z))  # eq. 11
    recon = (fif.reconstruct(x) - x).square().flatten(1).sum(1)
    return (fif.beta() * recon - fif.latent_distribution(z).log_prob(z) + volume).mean().detach()


@pytest.mark.parametrize("gradient_to", ["encoder", "decoder"])
@pytest.mark.parametrize("jacobian_at", ["data", "reconstruction"])
def test_evaluation_loss_is_the_exact_one_of_the_training(jacobian_at, gradient_to):
    fif = model(jacobian_at=jacobian_at, gradient_to=gradient_to, mode="backward").eval()
    out = fif(DatasetOutput(data=images()))
    assert out.loss.item() == pytest.approx(exact_loss(fif, images()).item(), rel=1e-5)
    off = jacobian_at == "data" and gradient_to == "encoder"
    likelihood = -fif.log_prob(images()).mean().item()
    assert (out.nll_loss.item() == pytest.approx(likelihood, rel=1e-5)) != off


def test_a_diverged_model_has_a_loss_that_is_not_a_number():
    fif = model().train()
    next(fif.encoder.parameters()).data.fill_(math.nan)
    assert math.isnan(fif(DatasetOutput(data=images())).loss.item())


def test_dropout_has_no_central_difference():
    config = FIFConfig(input_dim=(1, 8, 8), latent_dim=2, mode="central_difference")
    fif = FIF(config)
    fif.encoder.layers.append(nn.Dropout(0.1))
    with pytest.raises(ConfigError, match="two masks; use mode='backward'"):
        FIF(config, fif.encoder, fif.decoder)


@pytest.mark.parametrize("count, batch", [(10, 20), (3, 20), (7, 1), (64, 25), (200, 20)])
def test_evaluation_nll_is_that_of_a_number_of_points_of_the_set(count, batch):
    """The same in every pass, though one was left half-way; a batch with none costs nothing."""
    fif = model(eval_nll_samples=count).eval()
    counted = []
    original = fif._nll
    fif._nll = lambda x, z, c: counted.append(original(x, z, c)) or counted[-1]
    _ = fif(DatasetOutput(data=images(100)[:batch]), dataset_size=100).loss
    passes = []
    fif.train().eval()
    for _ in range(2):
        counted.clear()
        batches = images(100).split(batch)
        outs = [fif(DatasetOutput(data=x), dataset_size=100) for x in batches]
        mean = torch.stack([out.nll_loss for out in outs]).mean()
        assert torch.allclose(mean, torch.cat(counted).mean(), rtol=1e-5)
        passes.append(torch.cat(counted))
        _ = fif(DatasetOutput(data=images(7))).z  # as a sampler does, whose data are no set
    assert len(passes[0]) == min(count, 100) and torch.equal(*passes)


# ---------------------------------------------------------------- densities


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize(
    ("cls", "config"),
    [(FIF, FIFConfig), (RectangularFlow, RectangularFlowConfig)],
    ids=["FIF", "RectangularFlow"],
)
def test_log_prob_of_a_linear_model_is_the_closed_form(cls, config, latent):
    torch.manual_seed(0)
    weight = torch.randn(5, 2, dtype=torch.float64)
    config = config(input_dim=(5,), latent_dim=2, latent_distribution=latent, student_t_df=3)
    fif = cls(config, LinearEncoder(torch.linalg.pinv(weight)), LinearDecoder(weight))
    z = torch.randn(7, 2, dtype=torch.float64)
    prior = {
        "normal": scipy.stats.multivariate_normal(np.zeros(2)).logpdf,
        "student_t": lambda z: scipy.stats.t(3).logpdf(z).sum(1),
        "multivariate_student_t": scipy.stats.multivariate_t(np.zeros(2), df=3).logpdf,
    }[latent]
    expected = torch.from_numpy(prior(z.numpy())) - 0.5 * torch.logdet(weight.T @ weight)
    x = z @ weight.T
    assert torch.allclose(fif.log_prob(x), expected)
    assert torch.allclose(fif.singular_values(x)[0], torch.linalg.svdvals(weight))
    assert torch.allclose(fif.log_volume(x), torch.linalg.svdvals(weight).log().sum())
    if latent == "normal":  # the degenerate Gaussian's density on its own plane
        basis = torch.linalg.qr(weight).Q
        plane = torch.distributions.MultivariateNormal(
            torch.zeros(2, dtype=torch.float64), basis.T @ weight @ weight.T @ basis
        )
        assert torch.allclose(fif.log_prob(x), plane.log_prob(x @ basis))


@pytest.mark.parametrize("latent", LATENTS)
def test_samples_come_from_the_latent_distribution(latent):
    identity = torch.eye(2)
    config = FIFConfig(input_dim=(2,), latent_dim=2, latent_distribution=latent, student_t_df=5)
    fif = FIF(config, LinearEncoder(identity), LinearDecoder(identity)).train()
    torch.manual_seed(0)
    samples = fif.sample(100_000)
    variance = 1.0 if latent == "normal" else 5 / 3
    assert torch.allclose(samples.var(0), torch.full((2,), variance), rtol=0.05)
    lengths = samples.square().sum(1).numpy()
    if latent == "multivariate_student_t":  # |z|^2 / d is F-distributed
        assert scipy.stats.kstest(lengths / 2, scipy.stats.f(2, 5).cdf).pvalue > 0.01
    assert torch.allclose(fif.sample(10, temperature=0.0), torch.zeros(10, 2))
    assert fif.training


# ---------------------------------------------------------------- Pythae's interface


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hutchinson_samples": 2, "mode": "backward"},
        {"gradient_to": "decoder"},
        {"jacobian_at": "reconstruction"},
        {"trace_space": "data"},
        {"latent_distribution": "student_t", "beta_final": 20.0, "beta_epochs": 2},
    ],
    ids=str,
)
def test_training_pipeline(tmp_path, options):
    fif, x = model(**options), images(60)
    before = copy.deepcopy(fif).eval()
    pipeline = TrainingPipeline(
        model=fif, training_config=trainer_config(tmp_path, num_epochs=20, learning_rate=1e-3)
    )
    pipeline(train_data=x, eval_data=x)
    loaded = AutoModel.load_from_folder(f"{pipeline.trainer.training_dir}/final_model").eval()
    data = DatasetOutput(data=x)
    assert loaded(data).loss < before(data).loss
    assert isinstance(loaded, FIF)


@pytest.mark.parametrize(
    "sampler",
    [
        NormalSamplerConfig(),
        GaussianMixtureSamplerConfig(n_components=2),
        MAFSamplerConfig(),
        IAFSamplerConfig(),
    ],
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


@pytest.mark.parametrize(
    "arch, shape",
    [
        ("convnet", (1, 8, 8)),
        ("convnet", (1, 28, 28)),
        ("resnet", (3, 32, 32)),
        ("fif_convnet", (1, 28, 28)),
    ],
)
def test_gradient_of_replay_on_every_network(arch, shape):
    """In float64, in training mode with BatchNorm, against the authors' formulation."""
    torch.manual_seed(0)
    encoder, decoder = (net.double().train() for net in build_networks(arch, shape, 4))
    x, eps = torch.rand(2, *shape).double(), sample_hutchinson(2, 4, 1, dtype=torch.float64)
    grads = []
    for mode in ("replay", "backward"):
        statistics = [b.clone() for b in encoder.buffers()]
        out = surrogate(
            lambda x: encoder(x).embedding,
            lambda z: decoder(z).reconstruction,
            x, eps, mode=mode,
        )  # fmt: skip
        encoder.zero_grad()
        (out.surrogate.sum() + out.x_hat.square().sum()).backward()
        grads.append(torch.cat([p.grad.flatten() for p in encoder.parameters()]))
        for buffer, before in zip(encoder.buffers(), statistics, strict=True):
            buffer.data.copy_(before)
    assert (grads[0] - grads[1]).norm() < 1e-11 * grads[1].norm()
