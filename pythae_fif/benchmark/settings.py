"""How one run of the benchmark trains and is scored: the values of its profile."""

__all__ = ["RunSettings"]

from dataclasses import dataclass
from typing import Any

PLAN_ALONE = ("note", "configurations", "extractor", "runs_per_gpu")
"""Those that define no result, or that a run has already under another name."""
TRAINER: dict[str, Any] = {"precision": "float32", "compile": False, "cudnn_benchmark": False}
"""Those of :class:`~pythae_fif.training.FIFTrainerConfig`, with its defaults."""
OPTIONAL: dict[str, Any] = {
    "epochs": None, "wall_clock": None, "weight_decay": None, "fit_steps": None,
    "runs_per_gpu": None, "crop": None, **TRAINER,
}  # fmt: skip
"""Absent at these values: they came later, and runs of before are still the same."""


@dataclass(frozen=True)
class RunSettings:
    """A profile's values for one model, with the same names.

    Attributes:
        wall_clock: In seconds; None for a number of epochs.
        Others: As of :class:`~pythae_fif.benchmark.config.Profile`.
    """

    note: str
    batch_size: int
    learning_rate: float
    num_samples: int
    epochs: int | None = None
    wall_clock: float | None = None
    weight_decay: float | None = None
    plateau_patience: int = 10
    plateau_factor: float | None = 0.5
    fit_steps: int | None = None
    train_size: int | None = None
    val_size: int | None = None
    test_size: int | None = None
    crop: int | None = None
    configurations: int | None = None
    extractor: str | None = None
    precision: str = "float32"
    compile: bool = False
    cudnn_benchmark: bool = False
    runs_per_gpu: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the optional ones that are not used."""
        # Not by `asdict`, whose copies would cost a plan of 10,000 runs a second.
        return {k: v for k, v in vars(self).items() if k not in OPTIONAL or v != OPTIONAL[k]}

    def of_trainer(self) -> dict[str, Any]:
        """Those of :class:`~pythae_fif.training.FIFTrainerConfig` that are not its defaults."""
        given = {key: value for key, value in self.to_dict().items() if key in TRAINER}
        return {"channels_last": True, **given} if self.precision == "bfloat16" else given

    def defining(self) -> dict[str, Any]:
        """Those that define the result of a run, and so its id."""
        return {key: value for key, value in self.to_dict().items() if key not in PLAN_ALONE}
