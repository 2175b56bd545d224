"""The numbers printed in the paper: `benchmark_configs/published/table<number>.csv`."""

__all__ = ["SOURCE", "published", "title_of"]

import functools

import pandas

from pythae_fif.benchmark.models import configs_dir

SOURCE = "Sorrenson et al., ICLR 2024"


@functools.cache
def published(number: int) -> pandas.DataFrame:
    """The printed cells of one of the paper's tables of results, a row each.

    Args:
        number: 1, 2, 5, 6, 7 or 8 (table 3 is part of 8).

    Returns:
        `row`, the heading; coordinates, such as dataset, arch, model, sampler and metric, empty
        where the table has none; `text`, as printed; `value`, without what follows its ±.

    Example:
        >>> cells = published(8).query("model == 'rae_gp' and dataset == 'celeba'")
        >>> list(cells.text)
        ['86.1', '2.4', '201.9', '3.1', '52.5', '1.9', '59.0', '1.8']
    """
    path = configs_dir() / "published" / f"table{number}.csv"
    cells = pandas.read_csv(path, dtype=str, keep_default_na=False, comment="#")
    return cells.assign(value=cells.text.str.split(" ").str[0].astype(float))


def title_of(number: int) -> str:
    """What one of these tables shows, in our words."""
    path = configs_dir() / "published" / f"table{number}.csv"
    return path.read_text("utf-8").partition("\n")[0].removeprefix("# ")
