"""Scores of a trained Pythae model and a sampler of it, as a pipeline in Pythae's style."""

__all__ = ["REFERENCE", "EvaluationOutput", "EvaluationPipeline"]

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pythae.models import BaseAE
from pythae.pipelines import GenerationPipeline
from pythae.samplers import BaseSampler, BaseSamplerConfig
from pythae.trainers import BaseTrainerConfig
from pythae.trainers.trainer_utils import set_seed
from torch import Tensor
from torch.utils.data import Dataset

from pythae_fif.data.locations import cache_home
from pythae_fif.device import random_state, set_random_state
from pythae_fif.errors import ConfigError, DataError, first_line
from pythae_fif.evaluation.cache import tensor_hash
from pythae_fif.evaluation.extractors import Extractor, load_extractor
from pythae_fif.evaluation.features import Features
from pythae_fif.evaluation.images import unit_images
from pythae_fif.evaluation.scores import Scores
from pythae_fif.evaluation.scoring import score_samples
from pythae_fif.files import write_json
from pythae_fif.sampling.models import reconstruction_mse
from pythae_fif.sampling.samplers import draw, fit, needs_fit

Data = np.ndarray | Tensor | Dataset[Any]

REFERENCE = "eval"
"""Name of the one split of an evaluation, in `EvaluationOutput.scores`."""


@dataclass(frozen=True)
class EvaluationOutput:
    """What an `EvaluationPipeline` found, with all that the numbers depend on.

    Attributes:
        model: Class of the model.
        sampler: Class of the sampler.
        scores: All scores of the samples; their one split is called `REFERENCE`.
        num_references: Number of evaluation images.
        reference_hash: Identifies the evaluation images.
        reconstruction_mse: Mean squared error per pixel of the evaluation images.
    """

    model: str
    sampler: str
    scores: Scores
    num_references: int
    reference_hash: str
    reconstruction_mse: float

    @property
    def distance_name(self) -> str:
        """What `frechet` is called with this extractor: FID of `inception` alone."""
        return self.scores.distance_name

    @property
    def frechet(self) -> float:
        """Frechet distance of samples to evaluation images."""
        return self.scores.frechet[REFERENCE]

    def __str__(self) -> str:
        return f"{self.scores}\n{'reconstruction':20}{self.reconstruction_mse:>20.4g}"

    def to_dict(self) -> dict[str, Any]:
        """All numbers as plain values."""
        return vars(self) | {"scores": self.scores.to_dict()}

    def save_json(self, dir_path: str | Path, filename: str = "evaluation") -> Path:
        """Writes `<filename>.json` into a folder, whole and renamed into place.

        Returns:
            The file.
        """
        path = Path(dir_path) / f"{filename}.json"
        write_json(path, self.to_dict())
        return path


@dataclass(eq=False, repr=False, kw_only=True)
class EvaluationPipeline:
    """Scores samples of any Pythae model and sampler against evaluation images.

    The extractor is built here, so that missing weights are known before anything is trained.
    Samples are drawn in batches, without gradients, and each batch is gone once it is scored. As
    Pythae's samplers do, a call leaves the model in evaluation mode.

    Args:
        model: A trained model, of images.
        sampler: A sampler of it or the configuration of one; None samples from a normal.
        extractor: An extractor or its name: a key of `EXTRACTORS` but `classifier` and `columns`,
            `FILE.pt` or `module:function`.
        num_samples: Number of samples.
        batch_size: Samples at once.
        seed: Seed of sampling, shuffle and subsets.
        memorisation: Whether to compare samples with `train_data` too, whose features take as long
            as those of so many samples, once.
        weights: Of the extractor; see :func:`~pythae_fif.evaluation.load_extractor`.
        cache_dir: Folder of the references; None takes the package's cache.

    Raises:
        ConfigError: Unknown extractor, missing packages or weights, a sampler of another model, or
            a model whose `input_dim` is no image's.

    Example::

        pipeline = EvaluationPipeline(model, NormalSampler(model), extractor="inception")
        output = pipeline(train_data, eval_data)
        print(output)
        output.save_json("my_model")
    """

    model: BaseAE = field(kw_only=False)
    sampler: BaseSampler | BaseSamplerConfig | None = field(default=None, kw_only=False)
    extractor: str | Extractor = "inception"
    num_samples: int = 10_000
    batch_size: int = 500
    seed: int = 0
    memorisation: bool = True
    weights: str | Path | None = None
    cache_dir: str | Path | None = None

    def __post_init__(self) -> None:
        model, sampler = self.model, self.sampler
        if self.num_samples < 1 or self.batch_size < 1 or not 0 <= self.seed < 2**32:
            raise ConfigError(
                f"num_samples={self.num_samples}, batch_size={self.batch_size}, seed={self.seed}: "
                "at least 1, at least 1, and from 0 to 2**32 - 1"
            )
        if not isinstance(sampler, BaseSampler):
            self.sampler = sampler = GenerationPipeline(model, sampler).sampler
        elif sampler.model is not model:
            raise ConfigError("the sampler must be one of the model that is evaluated")
        name, shape = self.extractor, model.model_config.input_dim
        if isinstance(name, str):
            if name == "classifier" or shape is None:
                raise ConfigError(
                    f"extractor {name!r} of a model with input_dim={shape}: pass a built one, such "
                    "as train_classifier(LabelledImages(images, labels))"
                )
            self.extractor = load_extractor(
                name, shape, device=sampler.device, weights=self.weights
            )
        self.cache_dir = cache_home() if self.cache_dir is None else self.cache_dir

    def __call__(
        self,
        train_data: Data | None,
        eval_data: Data,
        *,
        training_config: BaseTrainerConfig | None = None,
    ) -> EvaluationOutput:
        """Fits the sampler where it needs that, samples, and scores.

        A sampler that needs a fit is fitted as a copy, in each call. So calls with nothing changed
        give equal scores, and the sampler that was given stays as it was.

        Args:
            train_data: Training images (N, C, H, W), uint8 or in [0, 1], or a data set of them, to
                which the sampler is fitted if it needs that, and from which memorisation is told.
            eval_data: Images in the same form that samples are compared with. The sampler never
                sees them.
            training_config: How Pythae trains samplers that are networks.

        Raises:
            ConfigError: The sampler must be fitted and there is no `train_data`.
            DataError: Data or samples that are no such images.
            NonFiniteError: NaN or infinite pixels, of samples and reconstructions too.
            StoreError: The cache folder cannot be used.

        Warns:
            SampleCountWarning: Fewer than 2,048 samples or evaluation images.
        """
        sampler, extractor, train = self.sampler, self.extractor, None
        assert isinstance(extractor, Extractor)  # since it was built
        images = _as_images(eval_data, "eval_data")
        if train_data is not None and (self.memorisation or needs_fit(sampler)):
            train = _as_images(train_data, "train_data")
        if needs_fit(sampler):
            if train is None:
                name = type(sampler).__name__
                raise ConfigError(f"{name} must be fitted: pass train_data, or fit it before")
            # a copy of all but the model
            parts = (self.model, *self.model.modules(), *self.model.parameters())
            sampler = copy.deepcopy(sampler, {id(part): part for part in parts})
            with _seeded(self.seed):
                fit(sampler, unit_images(train), training_config)
        features_of = partial(Features.of, extractor=extractor, cache_dir=self.cache_dir)
        reference = features_of(images)
        training = features_of(train) if self.memorisation and train is not None else None
        with _seeded(self.seed):
            drawn, references = self._samples(sampler), {REFERENCE: reference}
            scores = score_samples(drawn, extractor, references, seed=self.seed, training=training)
        with _seeded(self.seed):
            mse = reconstruction_mse(self.model, images)
        return EvaluationOutput(
            model=type(self.model).__name__,
            sampler=type(sampler).__name__,
            scores=scores,
            num_references=len(images),
            reference_hash=tensor_hash(images),
            reconstruction_mse=mse,
        )

    def _samples(self, sampler: BaseSampler) -> Iterator[Tensor]:
        """The samples (B, C, H, W) batch by batch."""
        left = self.num_samples
        for batch in draw(sampler, self.num_samples, self.batch_size):
            if len(batch) > left:  # any of the whole batch that the sampler needs
                batch = batch[torch.randperm(len(batch), device=batch.device)[:left]]
            left -= len(batch)
            yield batch


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds all random numbers within the block; their states are as before in the end."""
    state = random_state()
    set_seed(seed)
    try:
        yield
    finally:
        set_random_state(state)


def _as_images(data: Data, name: str) -> Tensor:
    """Images (N, C, H, W) from an array, a tensor or a data set of images or of Pythae's items."""
    try:
        if isinstance(data, np.ndarray):
            data = torch.as_tensor(data)
        if not isinstance(data, Tensor):
            data = torch.stack([_image(data[index]) for index in range(len(data))])  # type: ignore[arg-type]
    except (TypeError, RuntimeError, ValueError) as error:
        raise DataError(f"{name} are no images (N, C, H, W): {first_line(error)}") from error
    return data.detach().cpu()


def _image(item: Any) -> Tensor:
    """The image of one item: Pythae's `data`, the first of a tuple, or the item itself."""
    if isinstance(item, dict):
        item = item["data"]
    elif isinstance(item, tuple | list):
        item = item[0]
    return torch.as_tensor(item)
