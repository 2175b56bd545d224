"""Traced steps give the numbers of eager ones, and no graph outlives what it was traced for."""

import random
import threading
import warnings

import numpy as np
import pytest
import torch
from pythae.models import AE, AEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from support.networks import coupling
from support.trainings import Killed, assert_same_weights, build_model, build_trainer, kill_at
from torch import nn

from pythae_fif import FIF, FIFConfig
from pythae_fif.errors import DataError, SlowerTrainingWarning
from pythae_fif.nn import build_networks
from pythae_fif.nn.base import HeadedEncoder, LayeredDecoder
from pythae_fif.training import TracedStep
from pythae_fif.training.graph import trace

IMAGE = (1, 8, 8)
D = 6
EAGER_STEPS = 2

DOUBLE_BACKWARD = pytest.mark.filterwarnings("ignore:FIF falls back to double backward")


def small_networks(dropout=0.0):
    encoder = HeadedEncoder(
        nn.Sequential(nn.Linear(D, 8), nn.SiLU(), nn.Dropout(dropout)), nn.Linear(8, 2)
    )
    return encoder, LayeredDecoder(
        nn.Linear(2, 8), nn.Dropout(dropout), nn.LeakyReLU(0.2), nn.Linear(8, D)
    )


def plain_networks():
    encoder = HeadedEncoder(nn.Sequential(nn.Linear(D, 8), nn.SiLU()), nn.Linear(8, 2))
    return encoder, LayeredDecoder(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, D))


def batch_norm_networks():
    encoder = HeadedEncoder(nn.Sequential(nn.Linear(D, 8), nn.BatchNorm1d(8)), nn.Linear(8, 2))
    return encoder, LayeredDecoder(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, D))


NETWORKS = {
    "small": plain_networks,
    "tabular": lambda: build_networks("tabular", (D,), 2),
    "convnet": lambda: build_networks("convnet", IMAGE, 2),
    "resnet": lambda: build_networks("resnet_fc2", IMAGE, 2),
    "coupling": lambda: coupling(D, 2, data_blocks=2, latent_blocks=1),
    "default": lambda: (None, None),
    "dropout": lambda: small_networks(0.3),
    "batch norm": batch_norm_networks,
    "variational": lambda: build_networks("tabular", (D,), 2, variational=True),
}
"""The head for variances of the last encoder is not used by the loss."""


def build(name="small", **options):
    """A FIF in float64."""
    shape = IMAGE if name in ("convnet", "resnet", "default") else (D,)
    torch.manual_seed(0)
    config = FIFConfig(input_dim=shape, **{"latent_dim": 2, **options})
    return FIF(config, *NETWORKS[name]()).double().train()


def make_pair(build_model):
    """A model with its traced step, and an equal model as its own step."""
    first, second = build_model(), build_model()
    return [(first, TracedStep(first, min_steps=EAGER_STEPS)), (second, second)]


def draw_data(model):
    generator = torch.Generator().manual_seed(0)
    dtype = next(model.parameters()).dtype
    return torch.rand(10, *model.model_config.input_dim, generator=generator).to(dtype)


def train(model, step, x=None, steps=EAGER_STEPS + 3, **progress):
    """Takes steps of Adam, and returns the weights and buffers after them."""
    x = draw_data(model) if x is None else x
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    torch.manual_seed(1)
    for number in range(steps):
        optimizer.zero_grad()
        inputs = {"data": x, "labels": torch.arange(len(x)) % 3}
        step(inputs, epoch=number, **progress).loss.backward()
        optimizer.step()
    return [value.detach().clone() for value in model.state_dict().values()]


def assert_equal(states, expected):
    for state, expected_state in zip(states, expected, strict=True):
        assert torch.equal(state, expected_state)


def assert_traced_as_eager(pair, **options):
    (model, step), (eager_model, _) = pair
    assert_equal(train(model, step, **options), train(eager_model, eager_model, **options))
    assert step.uses_graph


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
    assert_traced_as_eager(make_pair(lambda: build(name, **options)))


def test_four_hundred_steps_in_float32():
    assert_traced_as_eager(make_pair(lambda: build().float()), steps=400)


def test_a_surrogate_by_forward_mode():
    pair = make_pair(lambda: build("coupling"))
    for model, _ in pair:
        model.surrogate_mode = "published"
    assert_traced_as_eager(pair)


def test_an_autoencoder_of_pythae():
    def build_ae():
        torch.manual_seed(0)
        return AE(AEConfig(input_dim=IMAGE, latent_dim=2)).train()

    assert_traced_as_eager(make_pair(build_ae))


def test_a_conditional_model():
    def build_conditional():
        torch.manual_seed(0)
        config = FIFConfig(input_dim=(D,), latent_dim=2, condition_dim=3)
        return FIF(config, *build_networks("tabular", (D,), 2, condition_dim=3)).double().train()

    pair = make_pair(build_conditional)
    assert_traced_as_eager(pair)
    model, step = pair[0]
    with pytest.raises(DataError, match="label 3 is not one of the class indices 0 to 2"):
        step({"data": draw_data(model), "labels": torch.arange(10) % 4})


def test_a_schedule_is_an_input():
    pair = make_pair(lambda: build(beta_final=30.0))
    assert_traced_as_eager(pair, share_done=0.0)
    assert_traced_as_eager(pair, share_done=0.51)


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


def set_layer(**options):
    """Changes a setting of each layer that has it."""

    def change(model):
        for module in model.modules():
            for name, value in options.items():
                if hasattr(module, name):
                    setattr(module, name, value)

    return change


def replace_forward(model):
    model.encoder.embedding.forward = lambda x: 2 * x[:, :2]


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
    "dropout": set_layer(p=0.9),
    "slope": set_layer(negative_slope=0.9),
    "forward": replace_forward,
}


@DOUBLE_BACKWARD
@pytest.mark.filterwarnings("ignore:FIF trains without a graph, .*has hooks")
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_steps_is_followed(change):
    name = "dropout" if change in ("dropout", "slope") else "small"
    pair = make_pair(lambda: build(name))
    assert_traced_as_eager(pair)

    states = []
    for model, step in pair:
        torch.manual_seed(2)
        CHANGES[change](model)
        states.append(train(model, step, steps=1) + train(model, step))
    assert_equal(*states)


def test_unfrozen_weights_are_trained_again():
    (model, step), _ = make_pair(build)
    model.encoder.requires_grad_(False)
    train(model, step)
    assert step.uses_graph
    model.encoder.requires_grad_(True)
    model.zero_grad()
    step({"data": draw_data(model)}).loss.backward()
    assert all(weight.grad is not None for weight in model.parameters())


@DOUBLE_BACKWARD
def test_dropout_draws_in_every_step_and_stops_in_evaluation_mode():
    (model, step), _ = make_pair(lambda: build("dropout", noise=0.0))
    train(model, step)
    inputs = {"data": draw_data(model)}
    outputs = [step(inputs).recon_x for _ in range(2)]
    assert not torch.equal(*outputs)

    for network in (model.encoder, model.decoder):
        network.eval()
    outputs = [step(inputs).recon_x for _ in range(2 + EAGER_STEPS)]
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_batches_of_other_shapes():
    pair = make_pair(build)
    x = draw_data(pair[0][0])
    assert_traced_as_eager(pair)
    for other in (x[:7], x, x.float()):
        states = [train(model, step, other, 1) for model, step in pair]
        assert_equal(*states)


def test_without_gradients_or_in_bfloat16_steps_are_eager():
    pair = make_pair(build)
    assert_traced_as_eager(pair)
    inputs = {"data": draw_data(pair[0][0])}
    for context in (torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16)):
        losses = []
        for _, step in pair:
            torch.manual_seed(3)
            with context:
                losses.append(step(inputs).loss)
        assert torch.equal(*losses)
        assert losses[0].requires_grad == losses[1].requires_grad
        assert not pair[0][1].uses_graph


def penalty(output):
    return output.loss + output.z.square().mean() + output.recon_x.std() + 2 * output.nll_loss


def test_threads_that_share_a_step_take_turns():
    model = build()
    step = TracedStep(model, min_steps=2)
    inputs = {"data": draw_data(model)}
    errors = []

    def train_in_thread():
        try:
            for _ in range(6):
                step(inputs).loss.backward()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=train_in_thread) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert step.uses_graph


@DOUBLE_BACKWARD
@pytest.mark.parametrize("name", ["small", "dropout", "batch norm"])
@pytest.mark.parametrize("loss", [penalty, lambda out: 3 * out.loss, lambda out: out.recon_loss])
def test_gradients_of_all_outputs(loss, name):
    gradients, states = [], []
    for model, step in make_pair(lambda: build(name)):
        train(model, step)
        torch.manual_seed(3)
        output = loss(step({"data": draw_data(model)}))
        gradients.append(torch.autograd.grad(output, [*model.parameters()]))
        states.append([*model.buffers()])
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    assert_equal(*states)


def test_second_passes_and_second_derivatives():
    results = []
    for model, step in make_pair(build):
        train(model, step)
        weights = [*model.parameters()]
        torch.manual_seed(3)
        loss = step({"data": draw_data(model)}).loss
        gradients = torch.autograd.grad(loss, weights, retain_graph=True)
        second_pass = torch.autograd.grad(loss, weights, create_graph=True)
        norm = sum(gradient.square().sum() for gradient in second_pass)
        results.append((gradients, second_pass, torch.autograd.grad(norm, weights)))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------ a user's own networks


class UserEncoder(BaseEncoder):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers or [nn.Linear(D, 2)])
        self.settings = {"scale": 1.0}

    def forward(self, x):
        return ModelOutput(embedding=self.layers(x) * self.settings["scale"] * SCALE)


class UserDecoder(BaseDecoder):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers or [nn.Linear(2, D)])

    def forward(self, z):
        return ModelOutput(reconstruction=self.layers(z))


SCALE = 1.0


def build_own(*layers):
    """A FIF in a user's own classes, with layers behind its decoder's first one."""
    torch.manual_seed(0)
    decoder = UserDecoder(nn.Linear(2, D), *layers)
    return FIF(FIFConfig(input_dim=(D,), latent_dim=2), UserEncoder(), decoder).train()


OWN_LAYERS = {
    "none": lambda: nn.Identity(),
    "own generator": lambda: Layer(
        lambda layer, x: x + torch.randn(x.shape, generator=layer.generator)
    ),
    "closure": lambda: Layer(make_scaling(2.0)),
}


def make_scaling(scale):
    return lambda layer, x: scale * x


@pytest.mark.parametrize("name", OWN_LAYERS)
def test_own_networks_are_traced(name):
    assert_traced_as_eager(make_pair(lambda: build_own(OWN_LAYERS[name]())))


@pytest.mark.parametrize("place", ["attribute", "global"])
def test_a_setting_of_an_own_network_that_changes_is_followed(place, monkeypatch):
    pair = make_pair(build_own)
    assert_traced_as_eager(pair)
    if place == "global":
        monkeypatch.setitem(globals(), "SCALE", 3.0)
    for model, _ in pair:
        model.encoder.settings["scale"] = 3.0
    assert_equal(*(train(model, step, steps=1) for model, step in pair))


class Layer(nn.Module):
    """A layer that applies a function, which may use the layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.counts = [0]
        self.array = np.zeros(1)
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x):
        return self.function(self, x)


def count_calls(layer, x):
    layer.counts[0] += 1
    return x if layer.counts[0] % 2 else 2 * x


EAGER_LAYERS = {
    "value": lambda layer, x: x if x.detach().sum().item() > 1e9 else 2 * x,
    "array": lambda layer, x: x if x.detach().numpy().sum() > 1e9 else 2 * x,
    "counter": count_calls,
    "NumPy": lambda layer, x: x + 1e-4 * float(np.random.rand()),
    "Python": lambda layer, x: x + 1e-4 * random.random(),
}


@DOUBLE_BACKWARD
@pytest.mark.parametrize("name", EAGER_LAYERS)
def test_a_network_that_is_no_graph_trains_eagerly_and_says_so_once(name):
    states = []
    for model, step in make_pair(lambda: build_own(Layer(EAGER_LAYERS[name]))):
        random.seed(0)
        np.random.seed(0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            states.append(train(model, step, steps=EAGER_STEPS + 6))
        messages = [str(w.message) for w in caught if "without a graph" in str(w.message)]
        assert len(messages) == (step is not model)
    assert_equal(*states)


def test_a_layer_draws_the_same_numbers_of_its_generator():
    def add_noise(layer, x):
        return x + torch.rand(1, generator=layer.generator)

    pair = make_pair(lambda: build_own(Layer(add_noise)))
    assert_equal(*(train(model, step) for model, step in pair))
    generators = [model.decoder.layers[1].generator for model, _ in pair]
    assert torch.equal(*(generator.get_state() for generator in generators))


def test_a_network_compiled_by_torch_jit_trains_eagerly():
    pair = make_pair(lambda: build_own(torch.jit.script(nn.SiLU())))
    with pytest.warns(SlowerTrainingWarning, match=r"compiled by torch\.jit"):
        assert_equal(*(train(model, step) for model, step in pair))


def test_a_change_that_is_not_seen_is_found_by_a_comparison():
    """An array that changes in place."""
    (model, step), _ = make_pair(lambda: build_own(Layer(lambda layer, x: x + layer.array[0])))
    train(model, step)
    assert step.uses_graph
    model.decoder.layers[1].array[0] = 1.0
    with pytest.warns(SlowerTrainingWarning, match="since step 1 of its graph may be wrong"):
        train(model, step, steps=9)
    assert not step.uses_graph


class WeightedFIF(FIF):
    """A FIF that reads a further entry of a batch."""

    def forward(self, inputs, **progress):
        output = super().forward(inputs, **progress)
        output["loss"] = output.loss * inputs["weight"].mean()
        return output


def test_further_entries_of_a_batch_are_inputs():
    pair = make_pair(build)
    x = draw_data(pair[0][0])
    losses = []
    for model, step in pair:
        model.__class__ = WeightedFIF
        torch.manual_seed(0)
        weights = torch.arange(1.0, EAGER_STEPS + 4)
        losses.append([float(step({"data": x, "weight": w[None]}).loss.detach()) for w in weights])
    assert pair[0][1].uses_graph
    assert losses[0] == losses[1]


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.scale * x


def test_a_weight_of_one_element_that_is_replaced_by_an_equal_one_is_trained():
    (model, step), _ = make_pair(lambda: build_own(Scaled()))
    train(model, step)
    layer = model.decoder.layers[1]
    layer.scale = nn.Parameter(layer.scale.detach().clone())
    step({"data": draw_data(model)}).loss.backward()
    assert layer.scale.grad is not None


def test_arguments_that_are_no_plain_values_leave_a_step_eager():
    (model, step), _ = make_pair(build)
    train(model, step, callbacks=[])
    assert not step.uses_graph


@pytest.mark.parametrize(
    "total_steps, first_graph",
    [(None, 7), (10, None), (11, 5), (100, 5)],  # a graph pays with more than 5 further steps
)
def test_a_graph_is_traced_when_it_pays(total_steps, first_graph):
    """Steps count from the second one: in the first one the model chooses its surrogate."""
    model = build()
    step = TracedStep(model, min_steps=5, total_steps=total_steps)
    used_graph = []
    for _ in range(8):
        step({"data": draw_data(model)})
        used_graph.append(step.uses_graph)
    assert used_graph == [number >= (first_graph or 9) for number in range(1, 9)]


def test_rare_shapes_of_a_long_training_are_not_traced():
    """The last batch of an epoch is smaller: its steps are too few for a graph."""
    model = build()
    step = TracedStep(model, min_steps=10, total_steps=40)
    x = draw_data(model)
    for epoch in range(8):
        for _ in range(4):
            step({"data": x})
        assert step.uses_graph == (epoch > 0)
        step({"data": x[:3]})
        assert not step.uses_graph


def test_a_model_that_changes_is_not_traced_early_again():
    model = build()
    step = TracedStep(model, min_steps=5, total_steps=100)
    for number in range(20):
        model.note = number // 5
        step({"data": draw_data(model)})
        assert step.uses_graph == (number == 4)  # the last step before the first change


# ------------------------------------------------------------------ trainers


@pytest.fixture
def early_trace(monkeypatch):
    monkeypatch.setitem(TracedStep.__init__.__kwdefaults__, "min_steps", 2)


@pytest.mark.parametrize("trace", [None, False])
def test_the_trainer_traces_fifs(trace, tmp_path, early_trace):
    model = build_model("FIF", networks="mlp")
    result = build_trainer("FIF", tmp_path, model=model, epochs=6, trace=trace).train()
    assert result.surrogate == ("replay" if trace is False else "traced replay")
    assert model.surrogate_mode == "replay"


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path, early_trace):
    """The resumed trainings trace later than the uninterrupted one."""

    def build_mlp_trainer(folder, **options):
        model = build_model("FIF", networks="mlp")
        return build_trainer("FIF", tmp_path / folder, model=model, epochs=4, **options)

    uninterrupted = build_mlp_trainer("uninterrupted")
    assert uninterrupted.train().surrogate == "traced replay"

    for epoch in (1, 3):
        with pytest.raises(Killed):
            build_mlp_trainer("killed", on_epoch=kill_at(epoch)).train()
    resumed = build_mlp_trainer("killed")
    resumed.train()
    assert_same_weights(resumed.model, uninterrupted.model)


def test_transposes_are_merged_except_as_outputs():
    a, b = torch.randn(3, 4), torch.randn(3, 4)
    graph = trace(lambda a, b: (a.t() @ b, a.t().t() @ b.t(), a.t(), a.t()), a, b)
    count = len(graph.__self__.graph.find_nodes(op="call_function", target=torch.t))

    product, gram, first, second = graph(a, b)
    assert count == 3  # one of b, and two of a because two are returned
    torch.testing.assert_close(product, a.T @ b)
    torch.testing.assert_close(gram, a @ b.T)
    assert first is not second
    assert torch.equal(first, a.T)
    assert torch.equal(second, a.T)
