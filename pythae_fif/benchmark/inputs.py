"""What a run starts from: images, the feature extractor, and the references of the scores."""

__all__ = [
    "data_options",
    "labelled",
    "load_extractor",
    "load_splits",
    "reference_of",
]

from pythae_fif.benchmark.settings import Settings
from pythae_fif.data import Splits
from pythae_fif.data.dataset import as_tensor
from pythae_fif.data.load import load
from pythae_fif.data.locations import cache_home
from pythae_fif.data.names import DataOptions
from pythae_fif.data.source import OnCount
from pythae_fif.evaluation import Extractor, Features, LabelledImages
from pythae_fif.evaluation import load_extractor as extractor_of
from pythae_fif.runs.kind import Environment


def load_splits(
    dataset: str,
    image_size: int | None,
    sizes: Settings,
    environment: Environment,
    progress: OnCount | None = None,
) -> Splits:
    """The images of an experiment, cut to the sizes of its profile; its runs find them by hash."""
    return load(
        dataset,
        data_options(environment),
        train_size=sizes.train_size,
        val_size=sizes.val_size,
        test_size=sizes.test_size,
        image_size=image_size,
        crop=sizes.crop,
        progress=progress,
    )


def data_options(given: object) -> DataOptions:
    """Where data are and how they are read, of what has attributes of these names."""
    return DataOptions(
        **{name: getattr(given, name) for name in DataOptions.model_fields if hasattr(given, name)}
    )


def labelled(splits: Splits) -> LabelledImages | None:
    """What `classifier` is trained on; None without labels."""
    return LabelledImages.of(splits)


def load_extractor(
    name: str, splits: Splits, environment: Environment, device: str = "cpu"
) -> Extractor:
    """The extractor of an experiment; a classifier is shipped, or trained once and cached."""
    return extractor_of(
        environment.own_extractor or name,
        splits.input_dim,
        labelled(splits),
        device=device,
        weights=environment.extractor_weights,
        offline=environment.offline,
        cache_dir=cache_home(),
    )


def reference_of(splits: Splits, split: str, extractor: Extractor) -> Features:
    """What the images of a split are to the extractor, computed once a machine."""
    return Features.of(
        as_tensor(splits[split]),
        extractor,
        cache_dir=cache_home(),
        images_hash=f"{splits.content_hash} {split}",
    )
