"""What a user passes as data is trained on as expected, or refused in one line."""

import numpy as np
import pandas as pd
import pytest
import torch
from pythae.data.datasets import BaseDataset
from support.trainings import Images, build_model
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig, FIFTrainingPipeline
from pythae_fif.data import ImageDataset
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.training import quiet_pythae
from pythae_fif.training.datasets import as_dataset

IMAGES = Images().images  # uint8 (40, 1, 4, 4)
FLOATS = IMAGES / 255
ROWS = FLOATS.flatten(1)
LABELS = torch.arange(40) % 3


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (IMAGES, ImageDataset(IMAGES)),
        (IMAGES.numpy(), ImageDataset(IMAGES)),
        (TensorDataset(IMAGES), ImageDataset(IMAGES)),
        (TensorDataset(IMAGES, LABELS), ImageDataset(IMAGES, LABELS)),
        (FLOATS, BaseDataset(FLOATS, torch.ones(40))),
        (FLOATS.double().numpy(), BaseDataset(FLOATS, torch.ones(40))),
        (TensorDataset(FLOATS, LABELS), BaseDataset(FLOATS, LABELS)),
        (ROWS, ImageDataset(ROWS)),
        (ROWS.half().numpy(), ImageDataset(ROWS.half().float())),
        (TensorDataset(ROWS.double(), LABELS), ImageDataset(ROWS, LABELS)),
    ],
)
def test_tensors_become_a_data_set(data, expected):
    dataset = as_dataset(data, "training")
    assert type(dataset) is type(expected)
    assert len(dataset) == 40
    for index in (0, 7, 39):
        item = dataset[index]
        assert torch.equal(item.data, expected[index].data)
        assert torch.equal(item.labels, expected[index].labels)


def test_a_part_of_a_tensor_data_set_is_its_rows():
    indices = [5, 3, 8]
    part = Subset(TensorDataset(ROWS, LABELS), indices)
    nested_part = Subset(Subset(TensorDataset(ROWS, LABELS), [8, 3, 1, 5]), [3, 1, 0])
    for subset in (part, nested_part):
        dataset = as_dataset(subset, "training")
        assert torch.equal(dataset.images, ROWS[indices])
        assert torch.equal(dataset.labels, LABELS[indices].float())


@pytest.mark.parametrize("dataset", [Images(), BaseDataset(FLOATS, LABELS), Subset(Images(), [1])])
def test_data_sets_stay_as_they_are(dataset):
    assert as_dataset(dataset, "training") is dataset


class Stream(IterableDataset):
    def __iter__(self):
        return iter(FLOATS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataLoader(Images()), "is a DataLoader: pass its `dataset`, and set the batch size"),
        (
            IMAGES[:, 0],
            r"is torch.uint8 of shape \(40, 4, 4\): use uint8 images \(N, C, H, W\), or",
        ),
        (LABELS, r"is torch.int64 of shape \(40,\): use uint8 images"),
        (FLOATS.new_tensor([0.5]), r"is torch.float32 of shape \(1,\)"),
        (torch.full((9, 1, 4, 4), torch.nan), "some values are NaN or infinite"),
        (np.array(["a"]), "is an array of <U1: use uint8 or floats"),
        (TensorDataset(FLOATS, LABELS, LABELS), "has 3 tensors: use TensorDataset"),
        (ConcatDataset([TensorDataset(FLOATS)]), "is a ConcatDataset with items of type tuple: pa"),
        ([FLOATS[0]], "is a list with items of type Tensor: pass a tensor"),
        (pd.DataFrame(ROWS.numpy(), columns=[*"abcdefghijklmnop"]), "is a DataFrame: pass a tens"),
        ({"data": FLOATS}, "is a dict: pass a tensor"),
        (Stream(), "is a Stream: pass a tensor"),
        ("images", "is a str with items of type str"),
    ],
)
def test_other_data_are_refused_in_a_line(data, message, tmp_path):
    for split, arguments in (("training", (data, None)), ("evaluation", (Images(), data))):
        with pytest.raises(DataError, match=f"the {split} set.* {message}") as caught:
            FIFTrainer(build_model("AE"), *arguments, run_dir=tmp_path / "none")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "none").exists()


def test_labels_of_a_tensor_data_set_are_conditions(tmp_path):
    def train(data, folder):
        model = FIF(FIFConfig(input_dim=(16,), latent_dim=2, condition_dim=3))
        config = FIFTrainerConfig(num_epochs=1, no_cuda=True)
        return FIFTrainer(model, data, data, config, run_dir=tmp_path / folder).train()

    assert train(TensorDataset(ROWS, LABELS), "labelled").epochs == 1
    for data in (ROWS, FLOATS):
        with pytest.raises(ConfigError, match="has no labels"):
            train(data, "none")


@pytest.mark.parametrize("data", [FLOATS, FLOATS.numpy(), Images()], ids=["tensor", "array", "set"])
def test_the_pipeline_takes_the_same_data_as_before(data, tmp_path):
    config = FIFTrainerConfig(output_dir=str(tmp_path), num_epochs=1, no_cuda=True)
    pipeline = FIFTrainingPipeline(build_model("AE"), config)
    with quiet_pythae():
        pipeline(train_data=data, eval_data=data)
    assert type(pipeline.trainer) is FIFTrainer
