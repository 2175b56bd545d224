"""Traced steps give the numbers of eager ones, and no graph outlives what it was traced for."""

import copy
import pickle

import pytest
import torch
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig
from support.networks import coupling
from support.trainings import Killed, assert_same_weights, build_model, build_trainer, kill_at
from torch import nn

from pythae_fif import FIF, FIFConfig
from pythae_fif.models import traced
from pythae_fif.models.fif import SlowerSurrogateWarning
from pythae_fif.nn import build_networks
from pythae_fif.nn.base import HeadedEncoder, LayeredDecoder

IMAGE = (1, 8, 8)
D = 6
EAGER_STEPS = 2

DOUBLE_BACKWARD = pytest.mark.filterwarnings("ignore:FIF falls back to double backward")


@pytest.fixture(autouse=True)
def early_trace(monkeypatch):
    monkeypatch.setattr(traced, "MIN_STEPS_TO_TRACE", EAGER_STEPS)


def small_networks():
    encoder = HeadedEncoder(nn.Sequential(nn.Linear(D, 8), nn.SiLU()), nn.Linear(8, 2))
    return encoder, LayeredDecoder(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, D))


def dropout_networks():
    encoder = HeadedEncoder(
        nn.Sequential(nn.Linear(D, 9), nn.SiLU(), nn.Dropout(0.3)), nn.Linear(9, 2)
    )
    return encoder, LayeredDecoder(nn.Linear(2, 9), nn.Dropout(0.3), nn.SiLU(), nn.Linear(9, D))


def variational_networks():
    """An encoder with a head that the loss does not use."""
    return build_networks("tabular", (D,), 2, variational=True)


NETWORKS = {
    "small": small_networks,
    "tabular": lambda: build_networks("tabular", (D,), 2),
    "convnet": lambda: build_networks("convnet", IMAGE, 2),
    "resnet": lambda: build_networks("resnet_fc2", IMAGE, 2),
    "coupling": lambda: coupling(D, 2, data_blocks=2, latent_blocks=1),
    "default": lambda: (None, None),
    "dropout": dropout_networks,
    "variational": variational_networks,
}


def build(name="small", **options):
    """A FIF in float64 and a batch of data."""
    shape = IMAGE if name in ("convnet", "resnet", "default") else (D,)
    torch.manual_seed(0)
    config = FIFConfig(input_dim=shape, **{"latent_dim": 2, **options})
    model = FIF(config, *NETWORKS[name]()).double().train()
    return model, torch.rand(10, *shape, dtype=torch.float64)


def train(model, x, steps=EAGER_STEPS + 3, **kwargs):
    """Takes steps of Adam, and returns the weights after them."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    torch.manual_seed(1)
    for step in range(steps):
        optimizer.zero_grad()
        inputs = {"data": x, "labels": torch.arange(len(x)) % 3}
        model(inputs, epoch=step, **kwargs).loss.backward()
        optimizer.step()
    return [weight.detach().clone() for weight in model.parameters()]


def is_traced(model):
    return model.surrogate_mode.startswith("traced ")


def assert_equal(weights, expected):
    assert all(map(torch.equal, weights, expected))


@DOUBLE_BACKWARD
@pytest.mark.parametrize(
    "name, options",
    [
        *((name, {}) for name in NETWORKS),
        ("small", {"surrogate_fraction": 0.25}),
        ("convnet", {"hutchinson_samples": 2, "hutchinson_kind": "rademacher"}),
        ("small", {"jacobian_at": "reconstruction", "latent_distribution": "student_t"}),
        ("small", {"beta": "auto"}),
    ],
)
def test_a_traced_training_is_the_eager_one(name, options):
    model, x = build(name, **options)
    weights = train(model, x)
    assert is_traced(model)
    eager_model, _ = build(name, trace=False, **options)
    assert_equal(weights, train(eager_model, x))
    assert not is_traced(eager_model)


def test_four_hundred_steps_in_float32():
    weights = []
    for trace in (None, False):
        model, x = build(trace=trace)
        weights.append(train(model.float(), x, 400))
    assert_equal(*weights)


def test_a_surrogate_by_forward_mode():
    weights = []
    for trace in (None, False):
        model, x = build("coupling", trace=trace)
        model.surrogate_mode = "published"
        weights.append(train(model, x))
        assert is_traced(model) == (trace is None)
    assert_equal(*weights)


def test_a_conditional_model():
    weights = []
    for trace in (None, False):
        torch.manual_seed(0)
        config = FIFConfig(input_dim=(D,), latent_dim=2, condition_dim=3, trace=trace)
        model = FIF(config, *build_networks("tabular", (D,), 2, condition_dim=3)).double().train()
        weights.append(train(model, torch.rand(10, D, dtype=torch.float64)))
        assert is_traced(model) == (trace is None)
    assert_equal(*weights)


def replace_layer(model):
    model.encoder.features[0] = nn.Linear(D, 8).double()


def append_layer(model):
    model.decoder.layers.append(nn.Tanh())


def set_new_decoder(model):
    model.set_decoder(NETWORKS["small"]()[1].double())


def scale_weights(model):
    model.load_state_dict({name: 0.9 * w for name, w in model.state_dict().items()})


def assign_weights(model):
    state = {name: 0.9 * w for name, w in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def add_hook(model):
    model.encoder.features.register_forward_hook(lambda module, inputs, output: 0.5 * output)


def fit_gaussian(model):
    model.fit_prior(torch.randn(50, D, dtype=torch.float64), "gaussian")


def set_config(**options):
    def change(model):
        for name, value in options.items():
            setattr(model.model_config, name, value)

    return change


def set_mode(mode):
    def change(model):
        model.surrogate_mode = mode

    return change


CHANGES = {
    "frozen encoder": lambda model: model.encoder.requires_grad_(False),
    "frozen layer": lambda model: model.decoder.layers[0].requires_grad_(False),
    "float32": lambda model: model.float(),
    "replaced layer": replace_layer,
    "appended layer": append_layer,
    "new decoder": set_new_decoder,
    "loaded weights": scale_weights,
    "assigned weights": assign_weights,
    "hook": add_hook,
    "fitted prior": fit_gaussian,
    "beta": set_config(beta=3.0),
    "noise": set_config(noise=0.5),
    "distribution": set_config(latent_distribution="student_t"),
    "degrees of freedom": set_config(student_t_df=3.0, latent_distribution="student_t"),
    "Jacobian": set_config(jacobian_at="reconstruction"),
    "samples": set_config(hutchinson_samples=2),
    "fraction": set_config(surrogate_fraction=0.4),
    "mode": set_mode("double backward"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_between_steps_is_followed(change):
    weights = []
    for trace in (None, False):
        model, x = build(trace=trace)
        train(model, x)
        assert is_traced(model) == (trace is None)
        torch.manual_seed(2)
        change(model)
        x = x.to(next(model.parameters()).dtype)
        weights.append(train(model, x, 1) + train(model, x))
    assert_equal(*weights)


def test_unfrozen_weights_are_trained_again():
    model, x = build()
    model.encoder.requires_grad_(False)
    train(model, x)
    assert is_traced(model)
    model.encoder.requires_grad_(True)
    model.zero_grad()
    model({"data": x}).loss.backward()
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("options", [{"nll_weight": 0.3}, {"share_done": 0.5}], ids=str)
def test_weights_of_the_loss_are_inputs(options):
    weights = []
    for trace in (None, False):
        model, x = build(trace=trace, beta_final=30.0)
        train(model, x, share_done=0.0)
        weights.append(train(model, x, **{"share_done": 0.0, **options}))
    assert_equal(*weights)


@DOUBLE_BACKWARD
def test_dropout_draws_in_every_step_and_stops_in_evaluation_mode():
    model, x = build("dropout", noise=0.0)
    train(model, x)
    outputs = [model({"data": x}).recon_x for _ in range(2)]
    assert is_traced(model) and not torch.equal(*outputs)

    for network in (model.encoder, model.decoder):
        network.eval()
    outputs = [model({"data": x}).recon_x for _ in range(2 + EAGER_STEPS)]
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_batches_of_other_shapes():
    weights = []
    for trace in (None, False):
        model, x = build(trace=trace)
        train(model, x)
        weights.append(train(model, x[:7], 1) + train(model, x, 1) + train(model, x.float(), 1))
    assert_equal(*weights)


@pytest.mark.parametrize("make", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_has_its_own_graph(make):
    model, x = build()
    train(model, x)
    twin = make(model)
    weights = train(model, x)
    assert_equal(train(twin, x), weights)
    assert is_traced(twin)

    train(twin, x)
    assert_equal(weights, model.parameters())


def test_without_gradients_or_in_bfloat16_steps_are_eager():
    model, x = build()
    train(model, x)
    eager_model, _ = build(trace=False)
    train(eager_model, x)
    for context in (torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16)):
        losses = []
        for fif in (model, eager_model):
            torch.manual_seed(3)
            with context:
                losses.append(fif({"data": x}).loss)
        assert torch.equal(*losses)
        assert losses[0].requires_grad == losses[1].requires_grad


def penalty(out):
    return out.loss + out.z.square().mean() + out.recon_x.std() + 2 * out.nll_loss


@DOUBLE_BACKWARD
@pytest.mark.parametrize("name", ["small", "dropout"])
@pytest.mark.parametrize("loss", [penalty, lambda out: 3 * out.loss, lambda out: out.recon_loss])
def test_gradients_of_all_outputs(loss, name):
    gradients = []
    for trace in (None, False):
        model, x = build(name, trace=trace)
        train(model, x)
        torch.manual_seed(3)
        weights = [*model.parameters()]
        gradients.append(torch.autograd.grad(loss(model({"data": x})), weights))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_second_passes_and_second_derivatives():
    results = []
    for trace in (None, False):
        model, x = build(trace=trace)
        train(model, x)
        weights = [*model.parameters()]
        torch.manual_seed(3)
        loss = model({"data": x}).loss
        gradients = torch.autograd.grad(loss, weights, retain_graph=True)
        second_pass = torch.autograd.grad(loss, weights, create_graph=True)
        norm = sum(gradient.square().sum() for gradient in second_pass)
        results.append((gradients, second_pass, torch.autograd.grad(norm, weights)))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


class UserEncoder(BaseEncoder):
    """A user's network, which counts its calls."""

    def __init__(self, changes_after=1e9):
        super().__init__()
        self.layer = nn.Linear(D, 2)
        self.calls = 0
        self.changes_after = changes_after

    def forward(self, x):
        self.calls += 1
        z = self.layer(x)
        return ModelOutput(embedding=z if self.calls < self.changes_after else z.tanh())


class UserDecoder(BaseDecoder):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers or [nn.Linear(2, D)])

    def forward(self, z):
        return ModelOutput(reconstruction=self.layers(z))


def build_own(encoder, trace=True, decoder=None):
    config = FIFConfig(input_dim=(D,), latent_dim=2, trace=trace)
    return FIF(config, encoder, decoder or UserDecoder()).train(), torch.rand(10, D)


def test_own_networks_are_traced_on_request():
    model, x = build_own(UserEncoder(), trace=None)
    train(model, x)
    assert not is_traced(model)
    model, x = build_own(UserEncoder())
    train(model, x)
    calls = model.encoder.calls
    assert is_traced(model)
    train(model, x, 1)
    assert model.encoder.calls == calls


def test_a_network_that_changes_while_it_is_traced():
    trials = UserEncoder()
    train(build_own(trials, trace=False)[0], torch.rand(10, D), EAGER_STEPS + 1)
    model, x = build_own(UserEncoder(changes_after=trials.calls + 2))  # traced before the change
    with pytest.warns(SlowerSurrogateWarning, match="not always the same operations"):
        train(model, x)
    train(model, x)
    assert not is_traced(model)


@pytest.mark.parametrize(
    "is_large", [lambda x: x.detach().sum().item() > 1e9, lambda x: x.detach().numpy().sum() > 1e9]
)
def test_a_network_that_branches_on_values_is_not_traced(is_large):
    class Branching(nn.Module):
        def forward(self, x):
            return x if is_large(x) else 2 * x

    model, x = build_own(UserEncoder(), decoder=UserDecoder(nn.Linear(2, D), Branching()))
    with pytest.warns(SlowerSurrogateWarning, match="without a graph"):
        train(model, x)
    assert not is_traced(model)


def test_networks_that_write_into_buffers_run_eagerly():
    decoder = UserDecoder(nn.Linear(2, D), nn.BatchNorm1d(D))
    model, x = build_own(UserEncoder(), decoder=decoder)
    train(model, x)
    assert not is_traced(model) and decoder.layers[1].num_batches_tracked == EAGER_STEPS + 3


def test_pythaes_trainer(tmp_path):
    models = []
    for trace in (None, False):
        model, x = build("convnet", trace=trace)
        config = BaseTrainerConfig(
            output_dir=str(tmp_path / str(trace)), num_epochs=3, no_cuda=True,
            per_device_train_batch_size=4,
        )  # fmt: skip
        TrainingPipeline(model, config)(train_data=x.float())
        models.append(model)
    assert is_traced(models[0])
    assert_same_weights(*models)


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path):
    """The resumed trainings trace later than the uninterrupted one."""

    def build_mlp_trainer(folder, **options):
        model = build_model("FIF", networks="mlp")
        return build_trainer("FIF", tmp_path / folder, model=model, epochs=4, **options)

    uninterrupted = build_mlp_trainer("uninterrupted")
    uninterrupted.train()
    assert is_traced(uninterrupted.model)

    for epoch in (1, 3):
        with pytest.raises(Killed):
            build_mlp_trainer("killed", on_epoch=kill_at(epoch)).train()
    resumed = build_mlp_trainer("killed")
    resumed.train()
    assert_same_weights(resumed.model, uninterrupted.model)


def test_transposes_are_merged_except_as_outputs():
    a, b = torch.randn(3, 4), torch.randn(3, 4)
    graph = traced.trace(lambda a, b: (a.t() @ b, a.t().t() @ b.t(), a.t(), a.t()), a, b)
    count = len(graph.__self__.graph.find_nodes(op="call_function", target=torch.t))

    product, gram, first, second = graph(a, b)
    assert count == 3  # one of b, and two of a because two are returned
    torch.testing.assert_close(product, a.T @ b)
    torch.testing.assert_close(gram, a @ b.T)
    assert first is not second
    assert torch.equal(first, a.T)
    assert torch.equal(second, a.T)
