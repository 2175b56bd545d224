"""Flows from images to codes and back, and the models that are made of them: DNF and Trumpet."""

import math
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from pythae.data.datasets import BaseDataset
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn

from pythae_fif.baselines.glow import ActNorm, Chain, InjectiveConv, Squeeze, flow_steps
from pythae_fif.errors import ConfigError
from pythae_fif.models.config import BetaConfig, InjectiveFlowConfig, NonNegative, Positive
from pythae_fif.models.injective_flow import InjectiveFlow
from pythae_fif.models.outputs import as_data
from pythae_fif.models.priors import StandardNormal
from pythae_fif.nn.base import evaluation_mode
from pythae_fif.nn.coupling import FlowDecoder, FlowEncoder, affine_couplings
from pythae_fif.validation import AtLeastOne, config_dataclass
from pythae_fif.volume_change import squared_error

MIN_SIDE = 4  # maps of this height or width are not squeezed further


def _squeezed_sizes(input_dim: tuple[int, ...]) -> list[tuple[int, int]]:
    """Heights and widths of the maps after each squeeze of an image (C, H, W)."""
    sizes = [(input_dim[1] // 2, input_dim[2] // 2)]
    while all(side % 2 == 0 and side > MIN_SIDE for side in sizes[-1]):
        height, width = sizes[-1]
        sizes.append((height // 2, width // 2))
    return sizes


class LatentFlow(nn.Module):
    """A density of codes (B, d), made of ActNorm and zuko's affine couplings."""

    def __init__(self, config: "FlowConfig") -> None:
        super().__init__()
        self.norm = ActNorm(config.latent_dim)
        self.couplings = affine_couplings(
            config.latent_dim, config.latent_blocks, hidden=[config.latent_hidden_dim] * 2
        )

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Maps codes of the manifold, (B, d), to z (B, d) and the log-determinant (B,)."""
        z, norm_log_det = self.norm(u[..., None, None])
        z, couplings_log_det = self.couplings().call_and_ladj(z.flatten(1))
        return z, norm_log_det + couplings_log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Maps z (B, d) to codes of the manifold, (B, d)."""
        z = self.couplings().inv(z)
        return self.norm.inverse(z[..., None, None]).flatten(1)


class MultiscaleFlow(nn.Module):
    """The data flow of a DNF: Glow's flow, which half of the channels leave at each scale."""

    def __init__(self, config: "FlowConfig") -> None:
        super().__init__()
        self.scales: Any = nn.ModuleList()
        self.shapes = []  # shapes of the latents that leave at each scale
        channels = config.input_dim[0]
        sizes = _squeezed_sizes(config.input_dim)
        for size in sizes:
            channels *= 4
            steps = flow_steps(channels, config.steps, config.hidden_channels, kernel=3)
            self.scales.append(Chain([Squeeze(), *steps]))
            leaving = channels if size == sizes[-1] else channels // 2
            self.shapes.append((leaving, *size))
            channels -= leaving

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps data to latents (B, D), the coarsest scale first, and the log-determinant (B,)."""
        total_log_det = x.new_zeros(len(x))
        latents = []
        for scale, (leaving, _, _) in zip(self.scales, self.shapes, strict=True):
            x, log_det = scale(x)
            total_log_det = total_log_det + log_det
            x, scale_latents = x.split([x.shape[1] - leaving, leaving], 1)
            latents.append(scale_latents.flatten(1))
        return torch.cat(latents[::-1], 1), total_log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Maps the first d latents, (B, d), to data; the other latents are zero."""
        shapes = self.shapes[::-1]
        sizes = [math.prod(shape) for shape in shapes]
        latents = F.pad(z, (0, sum(sizes) - z.shape[1])).split(sizes, 1)
        x = z.new_empty(len(z), 0, *shapes[0][1:])
        for scale, entering, shape in zip(reversed(self.scales), latents, shapes, strict=True):
            x = scale.inverse(torch.cat([x, entering.unflatten(1, shape)], 1))
        return x


class TrumpetFlow(Chain):
    """The data flow of a Trumpet: steps of flow, and injective layers that halve the channels.

    Maps are squeezed to `MIN_SIDE` pixels or an odd side, with an injective layer after the steps
    of flow at each size. The last map's channels are halved further while at least d numbers
    remain, and a dense injective layer maps these to d. For images of 3 x 64 x 64 and d = 192 this
    is the network of Kothari et al.: six injective layers of factor 2, and no dense layer.
    """

    def __init__(self, config: "FlowConfig") -> None:
        def steps(channels: int, kernel: int) -> list[nn.Module]:
            return flow_steps(channels, config.steps, config.hidden_channels, kernel)

        latent_dim = config.latent_dim
        channels = config.input_dim[0]
        sizes = _squeezed_sizes(config.input_dim)

        layers: list[nn.Module] = []
        for size in sizes:
            channels *= 4
            layers += [Squeeze(), *steps(channels, kernel=3)]
            while channels % 2 == 0 and channels // 2 * math.prod(size) >= latent_dim:
                layers.append(InjectiveConv(channels, channels // 2))
                channels //= 2
                if size != sizes[-1]:
                    break
                layers += steps(channels, kernel=3)
        super().__init__(layers)

        self.shape = (channels, *sizes[-1])
        self.dense = Chain([])
        map_numel = math.prod(self.shape)
        if map_numel > latent_dim:
            self.dense = Chain([InjectiveConv(map_numel, latent_dim), *steps(latent_dim, kernel=1)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps data to latents (B, d) by each layer's left inverse.

        The second number has no meaning: injective layers have no log-determinant.
        """
        maps, _ = super().forward(x)
        z, log_det = self.dense(maps.flatten(1)[..., None, None])
        return z.flatten(1), log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Maps latents (B, d) to data."""
        return super().inverse(self.dense.inverse(z[..., None, None]).reshape(-1, *self.shape))


class CodeFlow(nn.Module):
    """A flow from data to codes: a data flow, and a flow of its first d latents u to codes z.

    The other latents, if there are any, are noise, which is zero on the manifold.
    """

    def __init__(self, data_flow: Any, config: "FlowConfig") -> None:
        super().__init__()
        self.latent_dim = config.latent_dim
        self.data_flow = data_flow
        self.latent_flow = LatentFlow(config)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps data to codes z (B, d), noise v (B, D - d) and the log-determinant (B,)."""
        latents, data_log_det = self.data_flow(x)
        u, v = latents.tensor_split([self.latent_dim], 1)
        z, latent_log_det = self.latent_flow(u)
        return z, v, data_log_det + latent_log_det

    def encode(self, x: Tensor) -> Tensor:
        """Encodes data (B, ...) to codes (B, d)."""
        return self.split(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Decodes codes (B, d) to data (B, ...); `encode` is its left inverse."""
        return self.data_flow.inverse(self.latent_flow.inverse(z))


@config_dataclass
class FlowConfig(InjectiveFlowConfig):
    """The settings that DNF and Trumpet share.

    Args:
        input_dim (tuple): Shape (C, H, W) of an image, with even H and W.
        steps (int): Number of Glow's steps of flow at each size of the maps. Default: 4.
        hidden_channels (int): Channels of the two hidden layers of every coupling's network.
            Default: 128.
        latent_blocks (int): Number of affine couplings in the density of the codes. Default: 8.
        latent_hidden_dim (int): Width of the two hidden layers of these couplings' networks.
            Default: 256.
    """

    steps: AtLeastOne = 4
    hidden_channels: AtLeastOne = 128
    latent_blocks: AtLeastOne = 8
    latent_hidden_dim: AtLeastOne = 256


class FlowModel(InjectiveFlow):
    """A model with the two directions of one flow as encoder and decoder.

    They are built from the configuration and cannot be passed to the model.

    Attributes:
        data_flow: Class of the part of the flow next to the data.
    """

    data_flow: ClassVar[type[MultiscaleFlow | TrumpetFlow]]

    @classmethod
    def _networks(
        cls, config: FlowConfig, encoder: BaseEncoder | None, decoder: BaseDecoder | None
    ) -> tuple[BaseEncoder, BaseDecoder]:
        if encoder is not None or decoder is not None:
            raise ConfigError(
                f"{cls.__name__} does not take an encoder or a decoder: they are the two "
                "directions of a flow that is built from the configuration"
            )

        shape = config.input_dim or ()
        if len(shape) != 3 or any(side % 2 for side in shape[1:]):
            raise ConfigError(f"{config.name} input_dim: use (C, H, W) with even H and W")
        flow = CodeFlow(cls.data_flow(config), config)
        return FlowEncoder(flow), FlowDecoder(flow)

    @property
    def flow(self) -> Any:
        """The :class:`CodeFlow` that encoder and decoder share."""
        return self.decoder.flow

    def _encode(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        # ActNorm sets its scales by its first batch in training mode. This must be a batch of the
        # training, which calls the flow itself, and not data that a user encodes.
        with evaluation_mode(self, gradient=torch.is_grad_enabled()):
            return super()._encode(x, condition)


@config_dataclass
class DNFConfig(FlowConfig, BetaConfig):
    """Denoising normalizing flow (DNF) config class.

    Args:
        beta (float): Weight of the squared reconstruction error. Default: 100.
        noise (float): Standard deviation of the noise that inflates the data, and of the D - d
            noise latents. Default: 0.01.

    For the other arguments see :class:`~pythae_fif.models.config.BetaConfig` and
    :class:`~pythae_fif.baselines.flows.FlowConfig`.
    """

    beta: NonNegative = 100.0
    noise: Positive = 0.01


class DNF(FlowModel):
    r"""Denoising normalizing flow (Horvat & Pfister, 'Denoising Normalizing Flow', NeurIPS 2021).

    The data are inflated, :math:`\tilde x = x + \sigma \epsilon` in all D dimensions. An invertible
    flow maps them to u (d) and noise v (D - d) with :math:`v \sim N(0, \sigma^2 I)`; a second flow
    maps u to z (d) with density p_Z. The loss of a data point is

    .. math::
        -\log \tilde p(\tilde x) + \beta \lVert g(f(\tilde x)) - x \rVert^2, \quad
        \log \tilde p(\tilde x) = \log p_Z(z) + \log N(v; 0, \sigma^2 I) + \log |\det J|

    with J the Jacobian of :math:`\tilde x \mapsto (z, v)` and g(z) the data at v = 0. The second
    term teaches the flow to move data that noise moved off the manifold back to it.

    This is not the authors' program (github.com/chrvt/denoising-normalizing-flow). Theirs has
    rational-quadratic splines in place of affine couplings, the mean over pixels of the squared
    error with a weight of 1,000, and a penalty on the latents. Here the network has Glow's
    multi-scale form, its noise latents are in units of :math:`\sigma`, and data are not
    dequantised.

    Example:
        >>> model = DNF(DNFConfig(input_dim=(1, 8, 8), latent_dim=4, hidden_channels=8))
        >>> model.sample(3).shape, model.log_prob(torch.rand(5, 1, 8, 8)).shape
        (torch.Size([3, 1, 8, 8]), torch.Size([5]))
    """

    config_class = DNFConfig
    data_flow = MultiscaleFlow

    def forward(self, inputs: BaseDataset, **kwargs: Any) -> ModelOutput:
        """Encodes, decodes and computes the loss.

        In evaluation mode beta has its final value, codes are computed from data without noise,
        and the likelihood is evaluated at data with noise from a fixed seed.

        Args:
            inputs (BaseDataset): ``inputs["data"]`` of shape (B, C, H, W).
            kwargs: ``share_done``, the finished share of the training from this package's
                trainers, for the schedule of beta.

        Returns:
            ModelOutput: ``loss``, ``recon_loss`` (squared error) and ``nll_loss`` (of the inflated
            data, in nats), means over the batch; ``recon_x`` (B, C, H, W) and ``z`` (B, d).
        """
        x = as_data(inputs["data"], self)
        config = self.model_config
        if self.training:
            beta = config.beta_at(kwargs.get("share_done"))
            log_prob, z = self._inflated_log_prob(self.add_noise(x))
        else:
            beta = config.beta_at(1.0)
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
            log_prob, _ = self._inflated_log_prob(x + config.noise * noise)
            z = self._encode(x)

        x_hat = self._decode(z)
        nll_loss = -log_prob.mean()
        recon_loss = squared_error(x_hat, x).mean()
        return ModelOutput(
            loss=nll_loss + beta * recon_loss,
            recon_loss=recon_loss,
            nll_loss=nll_loss,
            recon_x=x_hat,
            z=z,
        )

    def _inflated_log_prob(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the log-density of inflated data, (B,), and their codes z, (B, d)."""
        z, v, log_det = self.flow.split(x)
        code_log_prob = self.latent_distribution(z).log_prob(z)
        noise_log_prob = StandardNormal(v[0]).log_prob(v.to(z.dtype))  # bfloat16 under autocast
        return code_log_prob + noise_log_prob + log_det, z


@config_dataclass
class TrumpetConfig(FlowConfig):
    """Trumpet config class.

    Reconstruction and density are trained one after the other, so there is no weight between them.

    Args:
        manifold_epochs (int): Number of epochs in which the manifold is trained, before the
            density. Default: 10.
        manifold_share (float): Share of the training, in (0, 1), after which no further epoch
            trains the manifold. In a training of a single epoch the density is not trained.
            Default: 0.5.
        noise (float): Standard deviation of the noise added in training. Default: 0, as published.

    For the other arguments see :class:`~pythae_fif.baselines.flows.FlowConfig`.
    """

    noise: NonNegative = 0.0
    manifold_epochs: AtLeastOne = 10
    manifold_share: Annotated[float, Field(gt=0, lt=1)] = 0.5


class Trumpet(FlowModel):
    r"""Trumpet (Kothari et al., 'Trumpets: Injective Flows for Inference and Inverse Problems',
    UAI 2021).

    The decoder is :math:`g = g_\text{manifold} \circ h`, with invertible h in d dimensions and
    injective :math:`g_\text{manifold}` of growing dimension: steps of flow, and injective 1 x 1
    convolutions that double the channels. The encoder consists of each layer's left inverse.
    Training has two stages. The first trains the manifold by
    :math:`\lVert g_\text{manifold}(g_\text{manifold}^\dagger(x)) - x \rVert^2`. The second freezes
    the manifold and trains h by maximum likelihood of the codes
    :math:`g_\text{manifold}^\dagger(x)`, with an exact log-determinant. The volume change of the
    manifold does not depend on h, so this is maximum likelihood on the manifold.

    This is not the authors' program (github.com/swing-research/trumpets). Theirs has 8 x 3 steps of
    flow for h in place of fully connected affine couplings, U-Nets in its couplings, scales between
    0.01 and 1, regularised pseudo-inverses, and the codes' error in the loss of the manifold.

    Attributes:
        stage: 'manifold' or 'density', the part that is trained and that the loss is for. Training
            starts with the manifold. :class:`~pythae_fif.FIFTrainer` changes the stage; Pythae's
            trainers do not.

    Example:
        >>> model = Trumpet(TrumpetConfig(input_dim=(1, 8, 8), latent_dim=4, hidden_channels=8))
        >>> model.sample(3).shape, model.log_prob(torch.rand(5, 1, 8, 8)).shape
        (torch.Size([3, 1, 8, 8]), torch.Size([5]))
    """

    config_class = TrumpetConfig
    data_flow = TrumpetFlow
    stage: str = "manifold"

    def stage_at(self, epochs: float, share_done: float) -> str:
        """Returns the stage at a point of the training.

        Args:
            epochs: Number of passes over the data so far.
            share_done: Finished share of the training, from 0 to 1.
        """
        config = self.model_config
        is_early = epochs < config.manifold_epochs and share_done < config.manifold_share
        return "manifold" if is_early else "density"

    def get_extra_state(self) -> Tensor:
        """Returns the stage, which says by what loss a trainer selected the weights."""
        return torch.tensor(self.stage == "density")

    def set_extra_state(self, state: Tensor) -> None:
        """Sets the stage: True for 'density'."""
        self.stage = "density" if state else "manifold"

    def forward(self, inputs: BaseDataset, **kwargs: Any) -> ModelOutput:
        """Encodes and computes the loss of the stage: reconstruction, or likelihood of the codes.

        Args:
            inputs (BaseDataset): ``inputs["data"]`` of shape (B, C, H, W).
            kwargs: Ignored.

        Returns:
            ModelOutput: ``recon_loss`` (squared error) and ``nll_loss`` (codes of the manifold, in
            nats), means over the batch, ``recon_x`` (B, C, H, W) and ``z`` (B, d). ``loss`` is
            ``recon_loss`` in the first stage and ``nll_loss`` in the second. In training only the
            stage's outputs are computed.
        """
        x = as_data(inputs["data"], self)
        if self.training:
            x = self.add_noise(x)
        trains_density = self.stage == "density"
        with torch.set_grad_enabled(torch.is_grad_enabled() and not trains_density):
            u, _ = self.flow.data_flow(x)

        output = ModelOutput()
        if trains_density or not self.training:
            z, log_det = self.flow.latent_flow(u)
            log_prob = self.latent_distribution(z).log_prob(z) + log_det
            output["nll_loss"] = -log_prob.mean()
            output["z"] = z
        if not trains_density or not self.training:
            x_hat = self.flow.data_flow.inverse(u)
            output["recon_x"] = x_hat
            output["recon_loss"] = squared_error(x_hat, x).mean()
        output["loss"] = output["nll_loss" if trains_density else "recon_loss"]
        return output
