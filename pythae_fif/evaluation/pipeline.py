"""Scores of a trained Pythae model and a sampler of it, as a pipeline in Pythae's style."""

__all__ = ["REFERENCE", "EvaluationOutput", "EvaluationPipeline"]

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pythae.models import BaseAE
from pythae.pipelines import GenerationPipeline
from pythae.samplers import BaseSampler, BaseSamplerConfig
from pythae.trainers import BaseTrainerConfig
from torch import Tensor
from torch.utils.data import Dataset

from pythae_fif.data.dataset import shared
from pythae_fif.data.locations import cache_home
from pythae_fif.device import fork_rng
from pythae_fif.errors import ConfigError, DataError, first_line
from pythae_fif.evaluation.extractor import Extractor
from pythae_fif.evaluation.extractors import build_extractor
from pythae_fif.evaluation.images import unit_images
from pythae_fif.evaluation.reference import Reference, tensor_hash
from pythae_fif.evaluation.scores import MeanStd, Neighbours, Scores
from pythae_fif.evaluation.scoring import score_samples
from pythae_fif.files import write_json
from pythae_fif.sampling.models import reconstruction_mse
from pythae_fif.sampling.samplers import draw, fit, needs_fit

Data = np.ndarray | Tensor | Dataset[Any]

REFERENCE = "eval"
"""Name of the one reference of an evaluation, in `EvaluationOutput.scores`."""


@dataclass(frozen=True)
class EvaluationOutput:
    """What an `EvaluationPipeline` found, with all that the numbers depend on.

    Attributes:
        model: Class of the model.
        sampler: Class of the sampler.
        scores: All scores of the samples; their one reference is called `REFERENCE`.
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

    @property
    def kernel(self) -> MeanStd:
        """Kernel distance (KID) over subsets."""
        return self.scores.kernel[REFERENCE]

    @property
    def neighbours(self) -> Neighbours:
        """Precision, recall, density and coverage."""
        return self.scores.neighbours[REFERENCE]

    def to_dict(self) -> dict[str, Any]:
        """All numbers as plain values, the scores not nested by reference."""
        values: dict[str, Any] = _not_nested(dataclasses.asdict(self))
        scores: dict[str, Any] = values.pop("scores")
        return values | scores

    def save_json(self, dir_path: str | Path, filename: str = "evaluation") -> Path:
        """Writes `<filename>.json` into a folder, whole and renamed into place.

        Returns:
            The file.
        """
        path = Path(dir_path) / f"{filename}.json"
        write_json(path, self.to_dict())
        return path


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
        round_to_uint8: Whether samples and evaluation images are rounded as in an image file.
        seed: Seed of sampling, shuffle and subsets.
        memorisation: Whether to compare samples with `train_data` too, whose features take as long
            as those of so many samples, once.
        weights: Of the extractor; see `build_extractor`.
        cache_dir: Folder of the references; None takes the package's cache.

    Raises:
        ConfigError: unknown extractor, missing packages or weights, a sampler of another model, or
            a model whose `input_dim` is no image's.

    Example::

        pipeline = EvaluationPipeline(model, NormalSampler(model), extractor="inception")
        output = pipeline(train_data, eval_data)
        output.save_json("my_model")
    """

    def __init__(
        self,
        model: BaseAE,
        sampler: BaseSampler | BaseSamplerConfig | None = None,
        *,
        extractor: str | Extractor = "inception",
        num_samples: int = 10_000,
        batch_size: int = 500,
        round_to_uint8: bool = True,
        seed: int = 0,
        memorisation: bool = True,
        weights: str | Path | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        if not isinstance(getattr(model, "_orig_mod", model), BaseAE):  # that of torch.compile
            raise ConfigError(f"model is a {type(model).__name__}: pass a model of Pythae's")
        if num_samples < 1 or batch_size < 1:
            raise ConfigError(
                f"num_samples and batch_size must be at least 1, not {num_samples}, {batch_size}"
            )
        if not 0 <= seed < 2**32:
            raise ConfigError(f"seed must be from 0 to 2**32 - 1, not {seed}")
        if not isinstance(sampler, BaseSampler | BaseSamplerConfig | None):
            name = getattr(sampler, "__name__", "NormalSampler")
            raise ConfigError(f"sampler={sampler!r}: pass {name}(model), or a configuration of it")
        if not isinstance(sampler, BaseSampler):
            sampler = GenerationPipeline(model, sampler).sampler
        elif sampler.model is not model:
            raise ConfigError("the sampler must be one of the model that is evaluated")
        self.model = model
        self.sampler = sampler
        # Each call fits it anew from this, so that no fit goes on from the last.
        self._unfitted = None
        if needs_fit(sampler):
            with contextlib.suppress(TypeError, RuntimeError):  # one of the user's with a lock
                self._unfitted = self._copied(vars(sampler))
        if isinstance(extractor, str):
            if extractor == "classifier":
                raise ConfigError(
                    "extractor 'classifier' is trained on labels: pass "
                    "extractor=train_classifier(LabelledImages(images, labels)), not its name"
                )
            shape = model.model_config.input_dim
            if shape is None or len(shape) != 3:
                given = shape and tuple(shape)
                raise ConfigError(
                    f"{type(model).__name__} has input_dim={given}: scores of images need (C, H, W)"
                )
            self.extractor = build_extractor(
                extractor, tuple(shape), device=sampler.device, weights=weights
            )
        elif weights is not None:
            raise ConfigError("weights go with the name of an extractor alone")
        else:
            self.extractor = extractor
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.round_to_uint8 = round_to_uint8
        self.seed = seed
        self.memorisation = memorisation
        self.cache_dir = cache_dir

    def __call__(
        self,
        train_data: Data | None,
        eval_data: Data,
        *,
        training_config: BaseTrainerConfig | None = None,
    ) -> EvaluationOutput:
        """Fits the sampler where it needs that, samples, and scores.

        A sampler that was not fitted when the pipeline was made is fitted in each call with
        `train_data`. So calls with nothing changed give equal scores.

        Args:
            train_data: Training images (N, C, H, W), uint8 or in [0, 1], or a data set of them, to
                which the sampler is fitted if it needs that, and from which memorisation is told.
            eval_data: Images in the same form that samples are compared with. The sampler never
                sees them.
            training_config: How Pythae trains samplers that are networks.

        Raises:
            ConfigError: the sampler must be fitted and there is no `train_data`.
            DataError: data or samples that are no such images.
            NonFiniteError: NaN or infinite pixels, of samples and reconstructions too.
            StoreError: the cache folder cannot be used.

        Warns:
            SampleCountWarning: fewer than 2,048 samples or evaluation images.
        """
        images = _as_images(eval_data, "eval_data")
        anew = self._unfitted is not None
        fits = train_data is not None and (anew or needs_fit(self.sampler))
        if needs_fit(self.sampler) and train_data is None:
            name = type(self.sampler).__name__
            raise ConfigError(f"{name} must be fitted: pass train_data, or fit it before")
        train = None
        if train_data is not None and (fits or self.memorisation):
            train = _as_images(train_data, "train_data")
        reference = self._reference(images)
        training = None if train is None or not self.memorisation else self._reference(train)
        if fits and train is not None:
            with _seeded(self.seed):
                if anew:
                    vars(self.sampler).update(self._copied(self._unfitted))
                fit(self.sampler, unit_images(train), training_config)
        with _seeded(self.seed):
            scores = score_samples(
                self._samples(),
                self.extractor,
                {REFERENCE: reference},
                round_to_uint8=self.round_to_uint8,
                seed=self.seed,
                training=training,
            )
        with _seeded(self.seed):
            mse = reconstruction_mse(self.model, images)
        return EvaluationOutput(
            model=type(self.model).__name__,
            sampler=type(self.sampler).__name__,
            scores=scores,
            num_references=len(images),
            reference_hash=tensor_hash(images),
            reconstruction_mse=mse,
        )

    def _copied(self, of_sampler: Any) -> Any:
        """A copy of what a sampler holds, all but the model."""
        parts = [*self.model.modules(), *self.model.parameters(), *self.model.buffers()]
        return copy.deepcopy(of_sampler, {id(part): part for part in parts})

    def _reference(self, images: Tensor) -> Reference:
        return Reference.of(
            images,
            self.extractor,
            cache_dir=cache_home() if self.cache_dir is None else self.cache_dir,
            round_to_uint8=self.round_to_uint8,
        )

    def _samples(self) -> Iterator[Tensor]:
        """The samples (B, C, H, W) batch by batch."""
        left = self.num_samples
        for batch in draw(self.sampler, self.num_samples, self.batch_size):
            if len(batch) > left:  # any of the whole batch that the sampler needs
                batch = batch[torch.randperm(len(batch), device=batch.device)[:left]]
            left -= len(batch)
            yield batch


def _not_nested(value: Any) -> Any:
    """Plain values with, in place of a dictionary by reference, what it holds of the only one."""
    if not isinstance(value, dict):
        return value
    if value.keys() == {REFERENCE}:
        return value[REFERENCE]
    return {key: _not_nested(held) for key, held in value.items()}


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds torch and NumPy within the block; their states are as before in the end."""
    numpy_state = np.random.get_state()
    with fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)


def _as_images(data: Data, name: str) -> Tensor:
    """Images (N, C, H, W) from an array, a tensor or a data set of images or of Pythae's items."""
    try:
        if isinstance(data, np.ndarray):
            images = shared(data)
        elif isinstance(data, Tensor):
            images = data.detach()
        elif not hasattr(data, "__getitem__"):
            remedy = "pass its .dataset" if hasattr(data, "dataset") else "pass images (N, C, H, W)"
            raise DataError(f"{name} is a {type(data).__name__}: {remedy}")
        elif not len(data):  # type: ignore[arg-type]
            raise DataError(f"{name} holds no images")
        else:
            items = (data[index] for index in range(len(data)))  # type: ignore[arg-type]
            images = torch.stack([_image(item, name) for item in items])
    except (TypeError, RuntimeError) as error:  # an array of objects, or images of two sizes
        raise DataError(f"{name}: {first_line(error)}") from error
    if images.ndim != 4 or len(images) == 0:
        raise DataError(f"{name} must be images (N, C, H, W), N >= 1, not {tuple(images.shape)}")
    return images.cpu()


def _image(item: Any, name: str) -> Tensor:
    """The image of one item: Pythae's `data`, the first of a tuple, or the item itself."""
    if isinstance(item, dict):
        item = item["data"]
    elif isinstance(item, tuple | list):
        item = item[0]
    if not isinstance(item, Tensor | np.ndarray):
        raise DataError(
            f"{name} holds images of type {type(item).__name__}: tensors are needed, of a data set "
            "of torchvision with transform=ToTensor()"
        )
    return torch.as_tensor(item)
