"""What a run on a table writes: samples in original units, and pictures of them."""

__all__ = ["write_rows_sheet"]

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pythae_fif.data import Splits
from pythae_fif.files import write_text
from pythae_fif.pictures import new_figure, write_figure

MOST_COLUMNS = 8
"""Columns that are drawn; all are written."""
POINTS = 1000


def write_rows_sheet(run_dir: Path, splits: Splits, name: str, rows: Tensor) -> None:
    """Writes rows of a table and a picture of them, in the table's original units.

    `<name>.csv` has all rows below the names of the columns, `<name>.png` their marginals and pairs
    of columns over the test rows.

    Args:
        run_dir: The run's folder.
        splits: The table.
        name: Of the two files.
        rows: Standardised, (n, D).

    Raises:
        StoreError: The folder does not take them.
    """
    assert splits.columns is not None
    columns, names = splits.columns, splits.columns.names
    restored, text = columns.restored(rows.numpy()), io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([names, *restored.tolist()])
    write_text(run_dir / f"{name}.csv", text.getvalue())
    test = columns.restored(splits.test)
    write_figure(run_dir / f"{name}.png", _pairs(names, test, restored, name))


def _pairs(names: list[str], test: np.ndarray, rows: np.ndarray, label: str) -> Any:
    """Histograms on the diagonal, clouds below it, within the range of the test rows."""
    count = min(len(names), MOST_COLUMNS)
    low, high = test.min(axis=0), test.max(axis=0)
    figure = new_figure(1.6 * count + 1, 1.6 * count + 1)
    axes: Any = figure.subplots(count, count, squeeze=False)
    dots: dict[str, Any] = {"s": 3, "linewidths": 0, "alpha": 0.5, "rasterized": True}
    test, rows = test[:POINTS], rows[:POINTS]
    for i, j in np.ndindex(count, count):
        axis = axes[i, j]
        axis.tick_params(labelsize=6)
        axis.set_axis_on() if j <= i else axis.set_axis_off()
        for of, colour, name in ((test, "0.6", "test rows"), (rows, "tab:red", label)):
            if j < i:
                axis.scatter(of[:, j], of[:, i], color=colour, **dots)
                axis.set(xlim=(low[j], high[j]), ylim=(low[i], high[i]))
            elif j == i:
                bins = np.linspace(low[i], high[i], 30)
                axis.hist(of[:, i], bins, density=True, histtype="step", color=colour, label=name)
        axis.set_xlabel(names[j] if i == count - 1 else "", fontsize=8)
        axis.set_ylabel(names[i] if j == 0 else "", fontsize=8)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper right", fontsize=9)
    return figure
