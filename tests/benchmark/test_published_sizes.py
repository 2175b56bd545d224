"""Runs of the paper's tables take their first steps at published sizes and learning rates."""

import numpy as np
import pytest
import torch
from support.image_files import smooth

from pythae_fif.benchmark.config import load_experiment
from pythae_fif.benchmark.image_run import trainer_of
from pythae_fif.benchmark.models import configs_dir, names_in
from pythae_fif.benchmark.plan import expand
from pythae_fif.data import Splits

SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32), "celeba": (3, 64, 64)}
TABLES = [(dataset, None, arch) for dataset in SHAPES for arch in ("convnet", "resnet")]
MODELS = [name for name in names_in("models") if name not in ("fif_conditional", "fif_plus")]
"""All but those that need labels, which faces do not have, or many images, to whiten codes."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "dataset", "table", "arch"),
    [(model, *table) for table in TABLES for model in MODELS]
    + [(model, "celeba", 2, "fif_convnet") for model in ("fif", "dnf", "trumpet")],
)
def test_first_steps_are_finite(model, dataset, table, arch, tmp_path):
    images = {"train": smooth(12, SHAPES[dataset]), "val": smooth(10, SHAPES[dataset])}
    images = {split: (255 * x).to(torch.uint8).numpy() for split, x in images.items()}
    splits = Splits(dataset, **images, test=images["val"], labels=None, source="smooth noise")
    flags = {"models": [model], "arch": arch, "seeds": [0], "extractor": "pixels"}
    file = configs_dir() / f"experiments/table{table}.yaml" if table else None
    spec, *_ = expand(load_experiment(dataset, flags, file), splits)
    short = {"batch_size": 4, "epochs": 2, "wall_clock": None}
    spec = spec.model_copy(update={"settings": spec.settings.model_copy(update=short)})
    result = trainer_of(spec, splits, {}, tmp_path).train()
    assert np.isfinite(result.best_eval_loss)
