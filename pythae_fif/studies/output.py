"""What a study leaves behind: figures with captions, and CSV files of their numbers."""

__all__ = ["data_name", "write_csv", "write_figure"]

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pythae_fif.files import write_whole


def data_name(dataset: str, latent_dim: int, own: int | None) -> str:
    """A data set in the names of files, with the latent dimension where that is not its own.

    Example:
        >>> data_name("mnist", 16, 16), data_name("mnist", 5, 16), data_name("csv-mine", 2, None)
        ('mnist', 'mnist-d5', 'csv-mine-d2')
    """
    return dataset if latent_dim == own else f"{dataset}-d{latent_dim}"


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Writes rows below a header of their keys; floats with six significant digits.

    Args:
        path: The file; its folder is made.
        rows: All with the keys of the first.

    Returns:
        The path.
    """
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                key: f"{value:.6g}" if isinstance(value, float) else value
                for key, value in row.items()
            }
        )
    return _write(path, text.getvalue().encode())


def write_figure(path: Path, figure: Any, title: str, caption: str, command: str) -> list[Path]:
    """Writes a Matplotlib figure as PNG, and its caption in Markdown beside it.

    Args:
        path: The PNG; its folder is made.
        figure: A `matplotlib.figure.Figure`.
        title: The heading of the caption.
        caption: One paragraph: what the paper shows, what this shows, where they differ and why.
        command: What makes the figure anew.

    Returns:
        The two paths.
    """
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=130, metadata={"Software": None})
    text = f"# {title}\n\n![{title}]({path.name})\n\n{' '.join(caption.split())}\n"
    if command:
        text += f"\nMade by `{command}`.\n"
    return [_write(path, image.getvalue()), _write(path.with_suffix(".md"), text.encode())]


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.write(content))
    return path
