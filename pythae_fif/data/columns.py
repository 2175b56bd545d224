"""The columns of a user's table: their names, and the way back to original units."""

__all__ = ["Columns"]

import copy
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from pythae.models import BaseAE

from pythae_fif.errors import DataError
from pythae_fif.files import read_json, write_json
from pythae_fif.nn.affine import ScaledDecoder, ScaledEncoder

FILE = "columns.json"
FAR = 10_000
"""Standard deviations from 0 at which float32 keeps three digits of one."""


@dataclass(frozen=True)
class Columns:
    """How the D columns of a table were standardised: (value - mean) / std, by training rows.

    Attributes:
        names: Of the columns.
        mean, std: In original units.
    """

    names: list[str]
    mean: list[float]
    std: list[float]

    def save(self, folder: str | Path) -> None:
        """Writes `columns.json` into a model's folder."""
        write_json(Path(folder) / FILE, asdict(self))

    @classmethod
    def load(cls, folder: str | Path) -> "Columns":
        """Reads it.

        Raises:
            DataError: The folder has none.
        """
        path = Path(folder) / FILE
        try:
            return cls(**read_json(path))
        except (OSError, TypeError, ValueError) as error:
            raise DataError(f"{path}: is not there, or not the columns of a table") from error

    def restored(self, rows: np.ndarray) -> np.ndarray:
        """Standardised rows (..., D) in original units, float64."""
        return rows.astype(np.float64) * self.std + self.mean

    def original_units(self, model: BaseAE) -> BaseAE:
        """A copy of a model of standardised rows (N, D), which takes and gives original units.

        The standardisation is then a part of encoder and decoder, so that samples,
        reconstructions and an injective flow's `log_prob` are those of the original columns. Its
        networks are saved as pickles: FIF and its like are loaded with ``trust=True``. DNF and
        Trumpet, which build their own, are not loaded so: save the model itself.

        Raises:
            DataError: A model that keeps standardised rows of its own, such as VAMP.

        Warns:
            RuntimeWarning: A column lies so far from 0 that float32 keeps few of its digits.

        Example:
            >>> from pythae_fif import FIF, FIFConfig
            >>> from pythae_fif.nn import build_networks
            >>> nets = build_networks("tabular", (3,), 2)
            >>> model = FIF(FIFConfig(input_dim=(3,), latent_dim=2), *nets)
            >>> columns = Columns(["a", "b", "c"], [0.0, 0.0, 50.0], [1.0, 1.0, 1.0])
            >>> bool(columns.original_units(model).sample(4)[:, 2].min() > 40)
            True
        """
        if hasattr(model, "pseudo_inputs"):
            raise DataError(
                f"{type(model).__name__} keeps standardised rows, its pseudo-inputs: sample it as "
                "it is, and give the samples to `restored`"
            )
        columns = zip(self.names, self.mean, self.std, strict=True)
        far = [name for name, mean, std in columns if abs(mean) > FAR * std]
        if far and next(model.parameters()).dtype != torch.float64:
            warnings.warn(
                f"columns {', '.join(far)} lie more than {FAR:,} standard deviations from 0, where "
                "float32 keeps few digits: give model.double() and rows in float64",
                RuntimeWarning,
                stacklevel=2,
            )
        changed = copy.deepcopy(model).eval()
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (self.mean, self.std))
        # A conditional model's encoder takes the condition behind x: its columns have no units.
        c = getattr(model, "condition_dim", 0)
        joined = torch.cat([mean, mean.new_zeros(c)]), torch.cat([std, std.new_ones(c)])
        changed.encoder = ScaledEncoder(changed.encoder, *joined)
        changed.decoder = ScaledDecoder(changed.decoder, mean, std)
        config = changed.model_config
        config.uses_default_encoder = config.uses_default_decoder = False
        if getattr(config, "whiten", False):
            config.whiten = False  # the maps are inside the networks
        return changed
