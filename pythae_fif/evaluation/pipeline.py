"""A pipeline in Pythae's style that scores a trained model and a sampler."""

from dataclasses import dataclass, field
from typing import Any

import torch
from pythae.models import BaseAE
from pythae.pipelines import GenerationPipeline
from pythae.samplers import BaseSampler, BaseSamplerConfig
from pythae.trainers.trainer_utils import set_seed
from torch import Tensor

from pythae_fif.errors import ConfigError, DataError
from pythae_fif.evaluation.extractors import Extractor, Features, load_extractor, unit_images
from pythae_fif.evaluation.scores import Scores
from pythae_fif.evaluation.scoring import score_samples
from pythae_fif.sampling.samplers import Array, draw_samples
from pythae_fif.training import quiet_pythae


@dataclass(eq=False, repr=False, kw_only=True)
class EvaluationPipeline:
    """Scores the samples of a Pythae model and sampler against evaluation images.

    A call seeds all random numbers, and leaves the model in evaluation mode, as Pythae's pipelines
    do.

    Args:
        model: A trained model of images.
        sampler: A sampler of the model, or the configuration of one; None samples codes from the
            standard normal.
        extractor: An extractor or its name: a key of `EXTRACTORS` or `module:function`.
        num_samples: Number of samples.
        batch_size: Number of samples that are drawn at once.
        seed: Seed of the sampler's fit, the samples, their shuffle and the subsets of KID.

    Example::

        pipeline = EvaluationPipeline(model, NormalSampler(model), extractor="inception")
        scores = pipeline(train_data, eval_data)
        print(scores)
        scores.save_json("my_model")
    """

    model: BaseAE = field(kw_only=False)
    sampler: BaseSampler | BaseSamplerConfig | None = field(default=None, kw_only=False)
    extractor: str | Extractor = "inception"
    num_samples: int = 10_000
    batch_size: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.sampler, BaseSampler):
            self.sampler = GenerationPipeline(self.model, self.sampler).sampler

    def __call__(self, train_data: Array | None, eval_data: Array) -> Scores:
        """Fits the sampler unless it is fitted, draws samples, and scores them.

        Args:
            train_data: Training images (N, C, H, W), uint8 or in [0, 1]. The sampler is fitted to
                them, and memorisation is measured against them; None leaves memorisation out.
            eval_data: Evaluation images, which the sampler does not see.

        Returns:
            The scores, with a single split "eval".

        Raises:
            ConfigError: The sampler must be fitted and there is no `train_data`.
            DataError: Images have the wrong shape or range.
            NonFiniteError: Images or samples have NaN or infinite pixels.
        """
        sampler: Any = self.sampler
        eval_images = self._as_images("eval_data", eval_data)
        train_images = None if train_data is None else self._as_images("train_data", train_data)

        if isinstance(self.extractor, str):
            self.extractor = load_extractor(
                self.extractor, eval_images.shape[1:], device=sampler.device
            )
        extractor = self.extractor

        set_seed(self.seed)
        if not sampler.is_fitted and type(sampler).fit is not BaseSampler.fit:
            self._fit_sampler(sampler, train_images)
        references = {"eval": Features.from_images(eval_images, extractor)}
        training = None if train_images is None else Features.from_images(train_images, extractor)

        set_seed(self.seed)
        samples = torch.cat([*draw_samples(sampler, self.num_samples, self.batch_size)])
        samples = samples[torch.randperm(len(samples))[: self.num_samples]]
        return score_samples(samples, extractor, references, seed=self.seed, training=training)

    def _as_images(self, name: str, data: Array) -> Tensor:
        """Converts data to a tensor on the CPU, and checks its shape."""
        images = torch.as_tensor(data).detach().cpu()
        shape = tuple(images.shape[1:])
        # Some models of Pythae have no `input_dim`.
        expected_shape = tuple(self.model.model_config.input_dim or shape)
        if shape != expected_shape:
            raise DataError(f"{name}: images have shape {shape}, the model's is {expected_shape}")

        return images

    def _fit_sampler(self, sampler: Any, train_images: Tensor | None) -> None:
        """Fits the sampler to the training images."""
        if train_images is None:
            raise ConfigError(f"{type(sampler).__name__} must be fitted: pass train_data")
        images = unit_images(train_images)
        if images.max() != 1:
            raise DataError("Pythae fits a sampler only to images with largest value 1")

        self.model.eval()
        with quiet_pythae():
            sampler.fit(train_data=images)
