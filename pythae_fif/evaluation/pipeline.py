"""Scores of a trained Pythae model and a sampler of it, as a pipeline in Pythae's style."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
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
from pythae_fif.sampling.samplers import draw_samples
from pythae_fif.training import quiet_pythae

Data = np.ndarray | Tensor


@dataclass(eq=False, repr=False, kw_only=True)
class EvaluationPipeline:
    """Scores samples of any Pythae model and sampler against evaluation images.

    A call seeds all random numbers, and leaves the model in evaluation mode, as Pythae's own do.

    Args:
        model: A trained model, of images.
        sampler: A sampler of it or the configuration of one; None samples from a normal.
        extractor: An extractor or its name: a key of `EXTRACTORS` or `module:function`.
        num_samples: Number of samples.
        batch_size: Samples at once.
        seed: Of fit, sampling, shuffle and subsets.

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

    def __call__(self, train_data: Data | None, eval_data: Data) -> Scores:
        """Fits the sampler where it is not fitted yet, samples, and scores.

        Args:
            train_data: Training images (N, C, H, W), uint8 or in [0, 1], to which the sampler is
                fitted, and from which memorisation is told; None leaves that out.
            eval_data: Images that samples are compared with. The sampler never sees them.

        Returns:
            The scores, whose one split is called "eval".

        Raises:
            ConfigError: The sampler must be fitted and there is no `train_data`.
            DataError, NonFiniteError: Data or samples that are no such images.
        """
        sampler: Any = self.sampler
        both = {"eval": eval_data, "train": train_data}
        found = {name: torch.as_tensor(of) for name, of in both.items() if of is not None}
        sets = {name: of.detach().cpu() for name, of in found.items()}
        shape = self.model.model_config.input_dim  # None of some models of Pythae
        for name, of in sets.items():
            given, needed = tuple(of.shape[1:]), tuple(shape or of.shape[1:])
            if given != needed:
                raise DataError(f"{name}_data: samples of {given}, needs {needed}")
        if isinstance(self.extractor, str):
            needed = tuple(sets["eval"].shape[1:])
            self.extractor = load_extractor(self.extractor, needed, device=sampler.device)
        extractor = self.extractor
        set_seed(self.seed)
        if not sampler.is_fitted and type(sampler).fit is not BaseSampler.fit:
            if train_data is None:
                raise ConfigError(f"{type(sampler).__name__} must be fitted: pass train_data")
            images = unit_images(sets["train"])
            if images.max() != 1:
                raise DataError("Pythae fits a sampler only to images whose largest value is 1")
            self.model.eval()
            with quiet_pythae():
                sampler.fit(train_data=images)
        known = {name: Features.from_images(of, extractor) for name, of in sets.items()}
        set_seed(self.seed)
        samples = torch.cat([*draw_samples(sampler, self.num_samples, self.batch_size)])
        samples = samples[torch.randperm(len(samples))[: self.num_samples]]
        references, training = {"eval": known["eval"]}, known.get("train")
        return score_samples(samples, extractor, references, seed=self.seed, training=training)
