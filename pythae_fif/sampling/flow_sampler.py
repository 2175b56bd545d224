"""Samplers in Pythae's style that fit a flow of this package to the codes of an autoencoder."""

from typing import Any, Literal

import torch
from pythae.models import BaseAE
from pythae.pipelines.generation import GenerationPipeline
from pythae.samplers import BaseSampler, BaseSamplerConfig
from torch import Tensor
from typing_extensions import Self

from pythae_fif.device import random_state, set_random_state
from pythae_fif.errors import ConfigError
from pythae_fif.models.fitted_priors import fit_new_prior
from pythae_fif.models.priors import Prior
from pythae_fif.sampling.fits import CodeSampler
from pythae_fif.sampling.samplers import BATCH_SIZE, Array, draw_samples, embed
from pythae_fif.validation import AtLeastOne, config_dataclass


@config_dataclass
class FlowSamplerConfig(BaseSamplerConfig):
    """Configuration of a :class:`FlowSampler`.

    Parameters:
        kind (str): `flow` for a neural spline flow, or `flow_matching` for a flow that is trained
            by flow matching. Default: flow.
        steps (int): Steps of Adam, with 100 codes each. None ends the training when a held-out
            tenth of the codes stops improving. Default: None.
        seed (int): Random seed of the fit, and of the codes of a model that draws them. Default: 0.
    """

    kind: Literal["flow", "flow_matching"] = "flow"
    steps: AtLeastOne | None = None
    seed: int = 0


class FlowSampler(BaseSampler):
    """Samples from a flow that is fitted to the codes of an autoencoder.

    It serves any model of Pythae whose codes are vectors. :class:`FlowGenerationPipeline` takes its
    configuration.

    Args:
        model: A trained model. Like every sampler of Pythae, this one moves it to the GPU if there
            is one.
        sampler_config: The configuration; None for the defaults.

    Attributes:
        prior: The fitted flow, which also has the density of codes; None before :meth:`fit`.

    Raises:
        ConfigError: The model is conditional, as Pythae's samplers do not take labels.

    Example:
        >>> from pythae.models import AE, AEConfig
        >>> model = AE(AEConfig(input_dim=(1, 8, 8), latent_dim=2))
        >>> sampler = FlowSampler(model, FlowSamplerConfig(steps=10))
        >>> sampler.fit(torch.rand(50, 1, 8, 8)).sample(3).shape
        torch.Size([3, 1, 8, 8])
    """

    def __init__(self, model: BaseAE, sampler_config: FlowSamplerConfig | None = None) -> None:
        if getattr(model, "condition_dim", 0):
            raise ConfigError(
                "FlowSampler does not take labels: pass model.conditioned_on(label), the model of "
                "one label"
            )
        super().__init__(model, sampler_config or FlowSamplerConfig())
        self.prior: Prior | None = None

    def fit(self, train_data: Array, eval_data: Any = None, training_config: Any = None) -> Self:
        """Fits the flow to the codes of training data.

        The global random states do not change.

        Args:
            train_data: Training data (N, ...): uint8 images, or floating-point numbers as the model
                takes them.
            eval_data: Ignored; Pythae's pipeline passes it.
            training_config: Ignored; Pythae's pipeline passes it.

        Returns:
            The sampler.

        Raises:
            ConfigError: The codes of the model are not vectors.
            NonFiniteError: A code is NaN or infinite.
        """
        config = self.sampler_config
        state = random_state()
        try:
            codes = embed(self.model, train_data, seed=config.seed)
        finally:
            set_random_state(state)
        if codes.ndim != 2:
            raise ConfigError(
                "FlowSampler needs a model whose codes are vectors: "
                f"{type(self.model).__name__} has codes of shape {tuple(codes.shape[1:])}"
            )

        self.prior = fit_new_prior(config.kind, codes, seed=config.seed, steps=config.steps)
        self.is_fitted = True
        return self

    def sample(
        self,
        num_samples: int = 1,
        batch_size: int = BATCH_SIZE,
        output_dir: str | None = None,
        return_gen: bool = True,
        save_sampler_config: bool = False,
    ) -> Tensor | None:
        """Draws samples.

        Args:
            num_samples: Number of samples n.
            batch_size: Samples drawn at once.
            output_dir: Folder to save the samples to as PNG images; None to save none.
            return_gen: Whether the samples are returned.
            save_sampler_config: Whether the configuration is saved to ``output_dir``, too.

        Returns:
            Samples (n, ...) on the model's device, or None without ``return_gen``.

        Raises:
            ConfigError: The sampler is not fitted.
        """
        if self.prior is None:
            raise ConfigError("FlowSampler is not fitted: call fit(train_data) first")

        sampler = CodeSampler(self.model, self.prior)
        samples = torch.cat(list(draw_samples(sampler, num_samples, batch_size)))
        if output_dir is not None:
            for number, image in enumerate(samples):
                self.save_img(image, output_dir, f"{number:08d}.png")
        if save_sampler_config:
            self.save(output_dir)
        return samples if return_gen else None


class FlowGenerationPipeline(GenerationPipeline):
    """Pythae's ``GenerationPipeline``, which takes a :class:`FlowSamplerConfig` as well.

    Pythae's own pipeline knows only Pythae's samplers.

    Args:
        model: A trained model.
        sampler_config: The configuration of a sampler, ours or Pythae's; None for Pythae's
            ``NormalSampler``.
    """

    def __init__(self, model: BaseAE, sampler_config: BaseSamplerConfig | None = None) -> None:
        is_flow = isinstance(sampler_config, FlowSamplerConfig)
        super().__init__(model, None if is_flow else sampler_config)
        if is_flow:
            self.sampler = FlowSampler(model, sampler_config)
