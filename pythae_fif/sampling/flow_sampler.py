"""Samplers in Pythae's style that fit a flow of this package to the codes of an autoencoder."""

from typing import Any, ClassVar

import torch
from pythae.models import BaseAE
from pythae.pipelines.generation import GenerationPipeline
from pythae.samplers import BaseSampler, BaseSamplerConfig
from torch import Tensor
from typing_extensions import Self

from pythae_fif.device import random_state, set_random_state
from pythae_fif.errors import ConfigError
from pythae_fif.models.fitted_priors import fit_new_prior
from pythae_fif.models.priors import Prior, PriorKind
from pythae_fif.sampling.fits import CodeSampler
from pythae_fif.sampling.samplers import BATCH_SIZE, Array, draw_samples, embed
from pythae_fif.validation import AtLeastOne, config_dataclass


@config_dataclass
class FlowSamplerConfig(BaseSamplerConfig):
    """Configuration of a :class:`FlowSampler`.

    Parameters:
        steps (int): Steps of Adam, with 100 codes each. None ends the training when a held-out
            tenth of the codes stops improving. Default: None.
        seed (int): Random seed of the fit, and of the codes of a model that draws them. Default: 0.
    """

    steps: AtLeastOne | None = None
    seed: int = 0


@config_dataclass
class FlowMatchingSamplerConfig(FlowSamplerConfig):
    """Configuration of a :class:`FlowMatchingSampler`.

    Parameters:
        steps (int): See :class:`FlowSamplerConfig`.
        seed (int): See :class:`FlowSamplerConfig`.
    """


class FlowSampler(BaseSampler):
    """Samples from a neural spline flow that is fitted to the codes of an autoencoder.

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

    config_class: ClassVar[type[FlowSamplerConfig]] = FlowSamplerConfig
    prior_kind: ClassVar[PriorKind] = "flow"
    prior: Prior | None

    def __init__(self, model: BaseAE, sampler_config: FlowSamplerConfig | None = None) -> None:
        if getattr(model, "condition_dim", 0):
            raise ConfigError(
                f"{type(self).__name__} does not take labels: pass model.conditioned_on(label), "
                "the model of one label"
            )
        super().__init__(model, sampler_config or self.config_class())
        self.prior = None

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
        seed = self.sampler_config.seed
        state = random_state()
        try:
            codes = embed(self.model, train_data, seed=seed)
        finally:
            set_random_state(state)
        if codes.ndim != 2:
            raise ConfigError(
                f"{type(self).__name__} needs a model whose codes are vectors: "
                f"{type(self.model).__name__} has codes of shape {tuple(codes.shape[1:])}"
            )

        self.prior = fit_new_prior(
            self.prior_kind, codes, seed=seed, steps=self.sampler_config.steps
        )
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
            raise ConfigError(f"{type(self).__name__} is not fitted: call fit(train_data) first")

        sampler = CodeSampler(self.model, self.prior)
        samples = torch.cat(list(draw_samples(sampler, num_samples, batch_size)))
        if output_dir is not None:
            for number, image in enumerate(samples):
                self.save_img(image, output_dir, f"{number:08d}.png")
        if save_sampler_config:
            self.save(output_dir)
        return samples if return_gen else None


class FlowMatchingSampler(FlowSampler):
    """Samples from a flow that is trained by flow matching on the codes of an autoencoder.

    See :class:`FlowSampler`.

    Args:
        model: A trained model.
        sampler_config: The configuration; None for the defaults.
    """

    config_class = FlowMatchingSamplerConfig
    prior_kind = "flow_matching"


class FlowGenerationPipeline(GenerationPipeline):
    """Pythae's ``GenerationPipeline``, which takes configurations of these two samplers as well.

    Pythae's own pipeline knows only Pythae's samplers.

    Args:
        model: A trained model.
        sampler_config: The configuration of a sampler, ours or Pythae's; None for Pythae's
            ``NormalSampler``.
    """

    def __init__(self, model: BaseAE, sampler_config: BaseSamplerConfig | None = None) -> None:
        flow_classes: dict[type, type[FlowSampler]] = {
            sampler_class.config_class: sampler_class
            for sampler_class in (FlowSampler, FlowMatchingSampler)
        }
        flow_class = flow_classes.get(type(sampler_config))
        if flow_class is None:
            super().__init__(model, sampler_config)
        else:
            super().__init__(model)
            self.sampler = flow_class(model, sampler_config)
