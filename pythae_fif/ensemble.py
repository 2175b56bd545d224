"""Trains many small FIFs of one architecture together, by `torch.vmap` over their weights."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from pythae.models.base.base_utils import ModelOutput
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from pythae_fif.device import default_device
from pythae_fif.errors import ConfigError
from pythae_fif.models import FIF, FIFConfig
from pythae_fif.training.traced_step import TracedStep
from pythae_fif.volume_change import fif_loss, log_volume, sample_hutchinson
from pythae_fif.volume_change.exact import decoder_jacobian

MEMBERS_PER_CHUNK = 50  # how many members are evaluated together
UNSUPPORTED_FIELDS = (
    "beta_final", "surrogate_fraction", "condition_dim", "fitted_prior",
)  # fmt: skip
"""Fields of `FIFConfig` that an ensemble would ignore."""

Weights = dict[str, Tensor]
"""A member's weights by their names in its model, or all members' weights stacked, (M, ...)."""


class Ensemble:
    """M FIFs of one architecture, trained in one process.

    The networks must not have buffers, such as BatchNorm's. Members may differ in their weights,
    `beta` and `noise`. They move to the GPU, if there is one, and results come back to the device
    of the data. Up to rounding, a member ends where its model would end if it were trained by
    itself with the same draws: a permutation in every epoch, noise and Hutchinson vectors in every
    step.

    Args:
        models: The members. Training starts from the weights that they have when the ensemble is
            built.
        seeds: A seed for each member's random draws.

    Attributes:
        models: The members. After training they have the trained weights.

    Raises:
        ConfigError: If the models cannot be stacked.

    Example:
        >>> from pythae_fif import FIFConfig, nn
        >>> config = FIFConfig(input_dim=(3,), latent_dim=2)
        >>> nets = [(nn.ResidualEncoder(3, 2), nn.ResidualDecoder(3, 2)) for _ in range(5)]
        >>> ensemble = Ensemble([FIF(config, *pair) for pair in nets], seeds=range(5))
        >>> ensemble.train(torch.randn(50, 3), epochs=1, batch_size=25)
        >>> ensemble.log_prob(torch.randn(7, 3)).shape
        torch.Size([5, 7])
    """

    def __init__(self, models: Sequence[FIF], seeds: Sequence[int]) -> None:
        _check_models(models)
        self.models = [model.to(default_device()) for model in models]
        stacked_weights, stacked_buffers = torch.func.stack_module_state(self.models)
        if len(stacked_weights) < len([*models[0].named_parameters(remove_duplicate=False)]):
            raise ConfigError("an ensemble needs networks that do not share weights")
        if stacked_buffers:
            names = ", ".join(stacked_buffers)
            raise ConfigError(f"an ensemble needs networks without buffers, but these have {names}")

        self._weights = {name: weight.detach() for name, weight in stacked_weights.items()}
        self._template = copy.deepcopy(models[0]).train()  # its networks run with other weights
        self._template.surrogate_mode = "replay"  # `vmap` takes no other
        self._template.requires_grad_(False)
        self._example_weight = next(iter(self._weights.values()))  # for its dtype and device
        device = self._example_weight.device
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        betas: list[Any] = [model.model_config.beta for model in models]
        self._betas = torch.tensor(betas, dtype=torch.float64).to(self._example_weight)

    def train(
        self,
        data: Tensor,
        *,
        epochs: int,
        batch_size: int,
        learning_rate: float = 1e-3,
        one_cycle: bool = False,
        on_epoch: Callable[[int], None] = lambda epoch: None,
    ) -> None:
        """Trains all members with Adam.

        Args:
            data: Training data, (N, D). The last rows of an epoch are left out if they do not fill
                a batch.
            epochs: Number of epochs.
            batch_size: Rows in a batch of each member.
            learning_rate: Adam's learning rate.
            one_cycle: Whether the learning rate rises to `learning_rate` and falls again
                (appendix E.2). By default it is constant.
            on_epoch: Called after every epoch with its number, which counts from 1.
        """
        data = data.to(self._example_weight)
        batch_size = min(batch_size, len(data))
        points_per_epoch = len(data) // batch_size * batch_size
        steps = epochs * points_per_epoch // batch_size

        members = _Members(self._template, self._weights, self._betas)
        step = TracedStep(members, total_steps=steps)
        optimizer = torch.optim.Adam(members.weights, lr=learning_rate, fused=True)
        scheduler = OneCycleLR(optimizer, learning_rate, total_steps=steps) if one_cycle else None

        for epoch in range(1, epochs + 1):
            permutations = self._draw_permutations(len(data))
            for indices in permutations[:, :points_per_epoch].split(batch_size, 1):
                x, eps = self._draw_batch(data[indices])
                optimizer.zero_grad()
                step({"data": x, "eps": eps}).loss.backward()
                optimizer.step()
                if scheduler:
                    scheduler.step()
            on_epoch(epoch)

        for member, model in enumerate(self.models):
            for name, parameter in model.named_parameters():
                parameter.data.copy_(self._weights[name][member])

    def _draw_permutations(self, size: int) -> Tensor:
        """A permutation of the rows for each member, (M, size)."""
        device = self._example_weight.device
        permutations = [
            torch.randperm(size, generator=generator, device=device)
            for generator in self._generators
        ]
        return torch.stack(permutations)

    def _draw_batch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Adds each member's noise to a batch, in place, and draws its Hutchinson vectors.

        Returns:
            The noisy batch, (M, B, D), and the vectors, (K, M, B, d).
        """
        config = self._template.model_config
        batch_size = x.shape[1]
        options: dict[str, Any] = {"device": x.device, "dtype": x.dtype}

        vectors = []
        for member_x, model, generator in zip(x, self.models, self._generators, strict=True):
            noise = model.model_config.noise
            if noise:
                member_x += noise * torch.randn(member_x.shape, generator=generator, **options)
            eps = sample_hutchinson(
                batch_size,
                config.latent_dim,
                config.hutchinson_samples,
                kind=config.hutchinson_kind,
                generator=generator,
                **options,
            )
            vectors.append(eps)
        return x, torch.stack(vectors, 1)

    def _encode(self, weights: Weights, x: Tensor) -> Tensor:
        return _apply_network(self._template.encoder, "encoder", weights, x)["embedding"]

    def _decode(self, weights: Weights, z: Tensor) -> Tensor:
        return _apply_network(self._template.decoder, "decoder", weights, z)["reconstruction"]

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Encodes data (N, D) or (M, N, D) with every member, to codes (M, N, d)."""
        return self._vmap_members(self._encode, x)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Decodes codes (N, d) or (M, N, d) with every member, to data (M, N, D)."""
        return self._vmap_members(self._decode, z)

    def reconstruction_error(self, x: Tensor) -> Tensor:
        """Computes `|g(f(x)) - x|^2`, (M, N), for data (N, D) or (M, N, D)."""
        return (self.decode(self.encode(x)) - x).square().sum(-1)

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        """Computes the exact log-likelihood on each member's manifold (eq. 2).

        Args:
            x: Data, (N, D) or (M, N, D).

        Returns:
            Log-likelihoods in nats, (M, N); NaN for a member with a Jacobian that is not finite.
        """
        z = self.encode(x)
        jacobian = self._vmap_members(
            lambda weights, z: decoder_jacobian(partial(self._decode, weights), z), z
        )
        finite = jacobian.isfinite().flatten(2).all(2)
        volume = z.new_full(finite.shape, torch.nan)
        volume[finite] = log_volume(jacobian[finite])
        return self.models[0].latent_distribution(z).log_prob(z) - volume

    def _vmap_members(self, function: Callable[..., Tensor], points: Tensor) -> Tensor:
        """Applies function(weights, points) for each member's weights, to (M, N, ...).

        The points are shared by all members, (N, ...), or each member has its own, (M, N, ...).
        """
        members = len(self.models)
        member_points = points.to(self._example_weight).expand(members, *points.shape[-2:])
        vectorized = torch.vmap(function, chunk_size=MEMBERS_PER_CHUNK)
        return vectorized(self._weights, member_points).to(points.device)


class _Members(nn.Module):
    """The training step of all members.

    Args:
        template: A model of the members' networks and configuration.
        weights: The members' weights, stacked; they are trained in place.
        betas: The members' weights of the reconstruction error, (M,).
    """

    betas: Tensor

    def __init__(self, template: FIF, weights: Weights, betas: Tensor) -> None:
        super().__init__()
        self.template = template
        self.names = list(weights)
        self.weights = nn.ParameterList(nn.Parameter(weight) for weight in weights.values())
        self.register_buffer("betas", betas)

    def forward(self, inputs: Mapping[str, Tensor]) -> ModelOutput:
        """Returns the sum of the members' losses.

        Its gradients are those of each member's loss, because members do not share weights.

        Args:
            inputs: The members' noisy batches "data", (M, B, D), and their Hutchinson vectors
                "eps", (K, M, B, d).
        """
        weights = dict(zip(self.names, self.weights, strict=True))
        losses = torch.vmap(self._loss, (0, 0, 1, 0))(
            weights, inputs["data"], inputs["eps"], self.betas
        )
        return ModelOutput(loss=losses.sum())

    def _loss(self, weights: Weights, x: Tensor, eps: Tensor, beta: Tensor) -> Tensor:
        """Computes the loss of one member, with the terms of a subclass of FIF."""
        template = self.template
        loss = fif_loss(
            lambda x: _apply_network(template.encoder, "encoder", weights, x)["embedding"],
            lambda z: _apply_network(template.decoder, "decoder", weights, z)["reconstruction"],
            template.latent_distribution(x).log_prob,
            x,
            eps,
            beta,
            surrogate=template.surrogate(x),
            reduce=torch.mean,
        )
        return template.total_loss(x, loss)


def _apply_network(network: nn.Module, name: str, weights: Weights, x: Tensor) -> Any:
    """Returns a network's output with other weights; its name is 'encoder' or 'decoder'."""
    prefix = f"{name}."
    network_weights = {
        key.removeprefix(prefix): weight
        for key, weight in weights.items()
        if key.startswith(prefix)
    }
    return torch.func.functional_call(network, network_weights, (x,))


def _check_models(models: Sequence[FIF]) -> None:
    """Raises ConfigError unless the models can be trained as one ensemble."""
    first = models[0]
    defaults = FIFConfig()
    for model in models:
        config = model.model_config
        if config.beta == "auto":
            raise ConfigError("models of an ensemble need a number for beta, not 'auto'")
        for field in UNSUPPORTED_FIELDS:
            value = getattr(config, field)
            if value != getattr(defaults, field):
                raise ConfigError(
                    f"an ensemble does not support {field}={value}: leave it at its default"
                )

        for field, first_value in vars(first.model_config).items():
            value = getattr(config, field)
            if field not in ("beta", "noise") and value != first_value:
                raise ConfigError(
                    f"models of an ensemble may differ only in beta and noise, not in {field}: "
                    f"{first_value} and {value}"
                )
        _check_networks(model, first)


def _check_networks(model: FIF, first: FIF) -> None:
    """Raises ConfigError unless a model has the networks of the first one, and trains all of them.

    The networks run as the first model's, with the weights of each.
    """
    if repr(model) != repr(first):
        raise ConfigError("models of an ensemble need networks of the same layers and settings")
    if not all(weight.requires_grad for weight in model.parameters()):
        raise ConfigError("an ensemble trains all weights: it does not support frozen ones")
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise ConfigError("an ensemble does not support dropout")
