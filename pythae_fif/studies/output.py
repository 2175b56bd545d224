"""What a study leaves behind: figures with captions, and CSV files of their numbers."""

__all__ = ["Drawing", "columns", "data_name", "write_study"]

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pythae_fif.files import write_text
from pythae_fif.pictures import write_figure
from pythae_fif.reports.grid import markdown_line, write_rows
from pythae_fif.studies import StudyOptions

DPI = 130


class Drawing(NamedTuple):
    """A figure with its caption.

    Attributes:
        name: Of its files.
        figure: A Matplotlib figure.
        title: The heading of the caption.
        caption: One paragraph: what it shows, the numbers, where it differs from the paper.
    """

    name: str
    figure: Any
    title: str
    caption: str


def data_name(dataset: str, latent_dim: int, usual: int | None) -> str:
    """A data set in the names of files, with the latent dimension where that is not its usual one.

    Example:
        >>> data_name("mnist", 16, 16), data_name("mnist", 5, 16), data_name("csv-mine", 2, None)
        ('mnist', 'mnist-d5', 'csv-mine-d2')
    """
    return dataset if latent_dim == usual else f"{dataset}-d{latent_dim}"


def columns(row: object) -> dict[str, object]:
    """The fields of a dataclass as the columns of a table.

    A field with several values has a column for each, named by its place or key.

    Example:
        >>> from types import SimpleNamespace
        >>> columns(SimpleNamespace(seed=0, eigenvalue=(2.5, 0.5), loss={0.1: -3.0}))
        {'seed': 0, 'eigenvalue_0': 2.5, 'eigenvalue_1': 0.5, 'loss_0.1': -3.0}
    """
    found: dict[str, object] = {}
    for name, value in vars(row).items():
        several = dict(enumerate(value)) if isinstance(value, tuple) else value
        if isinstance(several, dict):
            found |= {f"{name}_{key:g}": single for key, single in several.items()}
        else:
            found[name] = value
    return found


def write_study(
    options: StudyOptions,
    drawings: Iterable[Drawing],
    tables: Mapping[str, Sequence[object]],
) -> list[Path]:
    """Writes each figure as PNG with its caption in Markdown beside it, and each table as CSV.

    Args:
        options: Of the study, with its folder and its command.
        drawings: The figures.
        tables: Name of a file -> its rows: dataclasses, or dictionaries that have the keys of the
            first; floats are written with six significant digits.

    Returns:
        The files.

    Raises:
        StoreError: The folder of results does not take them.
    """
    paths = []
    for drawing in drawings:
        picture = options.results / "figures" / f"{drawing.name}.png"
        write_figure(picture, drawing.figure, DPI)
        title, caption = (
            markdown_line(text, cell=False) for text in (drawing.title, drawing.caption)
        )
        lines = [f"# {title}", f"![{title}]({picture.name})", caption]
        lines += [f"Made by `{options.command}`."] if options.command else []
        write_text(picture.with_suffix(".md"), "\n\n".join(lines) + "\n")
        paths += [picture, picture.with_suffix(".md")]
    for name, rows in tables.items():
        values = [row if isinstance(row, dict) else columns(row) for row in rows]
        paths.append(write_rows(options.results / "tables" / f"{name}.csv", values, ".6g"))
    return paths
