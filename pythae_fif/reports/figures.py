"""Figures 1, 10 and 11 of the paper for an experiment, and distributions of a table's columns."""

import io
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from pythae_fif.benchmark.pictures import SAMPLES_PER_CLASS
from pythae_fif.benchmark.results import Result
from pythae_fif.columns import category_texts, value_text
from pythae_fif.data import Splits
from pythae_fif.errors import format_error
from pythae_fif.pictures import DPI, figure_bytes, new_figure
from pythae_fif.reports.frame import first_scores
from pythae_fif.runs.store import Store
from pythae_fif.sampling.catalog import find_sampler

logger = logging.getLogger(__name__)

MAX_IMAGES = 16  # images in a row; packed runs keep as many of a sheet
MAX_MODELS = 4  # models in the first figure
FIGURE_WIDTH = 1000  # pixels
LABEL_WIDTH = 170  # pixels, of the names to the left of the images
IMAGE_SIZE = 48  # pixels, about: images are enlarged by a whole number
GAP = 2  # pixels between images
MAX_WEBP_SIDE = 16_383  # pixels
MAX_COLUMNS = 12  # histograms of a table's columns
MAX_LISTED_COLUMNS = 20  # other columns that a caption names
HISTOGRAMS_PER_ROW = 4
MAX_TICKS = 4  # values of a category that an axis names
DRAWN_PARAMETERS = {"beta", "hutchinson_samples"}  # the x-axis and the lines of figure 10


class Figure(NamedTuple):
    """A figure of an experiment.

    Attributes:
        name: End of its file's name.
        shows: What it shows, as its caption.
        content: Content of its file.
    """

    name: str
    shows: str
    content: bytes


def draw_figures(
    frame: pd.DataFrame,
    table: pd.DataFrame,
    results: Sequence[Result],
    store: Store,
    splits: Splits,
) -> Iterator[Figure]:
    """Draws samples, and the effect of beta, if several values of it were run.

    Args:
        frame: One row per run and sampler, from :func:`~pythae_fif.reports.frame.score_frame`.
        table: One row per model and sampler, from :func:`~pythae_fif.reports.frame.chosen_frame`.
        results: Results of the runs.
        store: The store with the pictures of the runs.
        splits: The data, for test images or rows.
    """
    runs = {result.job.training.run_id: result for result in results}
    if splits.columns is None:
        yield from _sample_figures(table, runs, store, splits.test)
    else:
        yield from _marginal_figures(table, runs, store, splits)

    distance = first_scores(results).distance_name
    content = _draw_beta(frame, distance)
    if content is not None:
        caption = (
            f"{distance} of FIF to validation data against the reconstruction weight β, means over "
            "the seeds, for every sampler and number K of random vectors (figure 10)"
        )
        yield Figure("beta.png", caption, content)


def _sample_figures(
    table: pd.DataFrame, runs: Mapping[str, Result], store: Store, test: np.ndarray
) -> Iterator[Figure]:
    """Draws samples of the best models, and of all models if there are more."""
    all_rows = list(_sample_rows(table, runs, store, test.shape[2:]))
    test_row = {"test images": _image_row(test[:MAX_IMAGES].transpose(0, 2, 3, 1))}

    best_models = list(_best_rows(table)["model"])
    best_rows = [row for row in all_rows if row[0] in best_models]
    best_rows.sort(key=lambda row: best_models.index(row[0]))

    def draw(rows: Sequence[tuple[str, str, np.ndarray]]) -> bytes:
        return _stack_rows(test_row | {label: pixels for _, label, pixels in rows})

    if best_rows:
        caption = "Test images, and unselected samples of FIF and the models of lowest distance"
        yield Figure("best.webp", caption, draw(best_rows))
    if len(all_rows) > len(best_rows):
        caption = "Unselected samples of every model's chosen configuration"
        yield Figure("samples.webp", caption, draw(all_rows))


def _best_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Returns FIF and the models of lowest validation distance, each with its best sampler."""
    learned = table[table["learned"]].sort_values("frechet_val", kind="stable")
    return (
        learned.drop_duplicates("model")
        .sort_values("model", key=lambda model: model != "fif", kind="stable")
        .head(MAX_MODELS)
    )


def _sample_rows(
    table: pd.DataFrame, runs: Mapping[str, Result], store: Store, size: Sequence[int]
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Reads the samples of every model and sampler, of the first seed, model by model.

    Yields:
        Name of the model; label of model and sampler; samples side by side (h, w, 3).
    """
    by_model = pd.concat([rows for _, rows in table.groupby("model", sort=False)])
    for row in by_model.itertuples():
        result = runs[row.run_ids.split()[0]]
        by_class = result.job.training.labels_hash is not None
        parse = partial(_read_sheet, size=size, by_class=by_class)
        images = _read_samples(store, result, row.sampler, "png", parse)
        if images is not None:
            yield row.model, _row_label(row), _image_row(images)


def _row_label(row: Any) -> str:
    """Returns the label of a row's model and sampler."""
    return f"{row.label}, {find_sampler(row.sampler).label}"


def _read_samples(
    store: Store, result: Result, sampler: str, suffix: str, parse: Callable[[io.BytesIO], Any]
) -> Any:
    """Reads a file of samples; None if it is missing, or if it is damaged, with a warning.

    Args:
        store: The store.
        result: The result of the run.
        sampler: Name of the sampler.
        suffix: Suffix of the file.
        parse: Reads its content.
    """
    training = result.job.training
    name = f"samples-{result.scores[sampler].result.scoring.name}.{suffix}"
    try:
        content = store.read_file(training.run_path, name)
        return None if content is None else parse(io.BytesIO(content))
    except Exception as error:  # a damaged file raises anything
        logger.warning(
            "%s is left out of the figures (%s): the command of its run makes it again",
            store.folder(training) / name,
            format_error(error),
        )
        return None


def _marginal_figures(
    table: pd.DataFrame, runs: Mapping[str, Result], store: Store, splits: Splits
) -> Iterator[Figure]:
    """Draws histograms of a table's columns, of test rows and of samples of the best models."""
    columns = splits.columns
    assert columns is not None  # the data are a table
    values = {name: [*map(value_text, columns.categories[name])] for name in columns.categories}
    names = columns.names[:MAX_COLUMNS]
    types = {name: str if name in values else float for name in names}
    parse = partial(pd.read_csv, usecols=names, dtype=types, keep_default_na=False, na_values=[""])

    frames = {"test rows": columns.to_frame(splits.test)}
    for row in _best_rows(table).itertuples():
        result = runs[row.run_ids.split()[0]]
        frame = _read_samples(store, result, row.sampler, "csv", parse)
        if frame is not None:
            frames[_row_label(row)] = frame
    if len(frames) == 1:
        return

    rows = math.ceil(len(names) / HISTOGRAMS_PER_ROW)
    figure = new_figure(8, 0.6 + 1.6 * rows)
    for number, name in enumerate(names, start=1):
        axis: Any = figure.add_subplot(rows, HISTOGRAMS_PER_ROW, number)
        _draw_marginals(axis, {label: frame[name] for label, frame in frames.items()}, values)
    figure.legend(
        *axis.get_legend_handles_labels(),
        loc="outside upper left",
        ncols=3,
        fontsize=8,
        reverse=True,
    )

    caption = (
        f"Distributions of {len(names)} of {len(columns.names)} columns, in test rows and in "
        "samples of FIF and the models of lowest distance, each with its best sampler, by "
        "validation. Each axis shows the central 99 % of the test rows, or all values of a category"
    )
    left_out = columns.names[MAX_COLUMNS:]
    if left_out:
        more = ", ..." if len(left_out) > MAX_LISTED_COLUMNS else ""
        caption += f". Not shown: {', '.join(left_out[:MAX_LISTED_COLUMNS])}{more}"
    yield Figure("marginals.png", caption, figure_bytes(figure))


def _draw_marginals(
    axis: Any, columns: Mapping[str, pd.Series], values: Mapping[str, Sequence[str]]
) -> None:
    """Draws histograms of one column of several tables.

    Args:
        axis: The axis of the column.
        columns: Label of a table -> its column; the first has the test rows.
        values: Category -> the texts of its values.
    """
    test = next(iter(columns.values()))
    name = str(test.name)
    if name in values:
        places = {text: place for place, text in enumerate(values[name])}
        numbers = [category_texts(column).map(places) for column in columns.values()]
        bins = len(places)
        limits = (-0.5, len(places) - 0.5)
    else:
        numbers = [column.astype(float) for column in columns.values()]
        bins = 30
        limits = tuple(numbers[0].quantile([0.005, 0.995]))

    complete = [column.dropna() for column in numbers]
    axis.hist(
        complete,
        bins=bins,
        range=limits,
        weights=[np.full(len(column), 1 / max(1, len(column))) for column in complete],
        histtype="step",
        color=["black", "C0", "C1", "C2", "C3"][: len(complete)],
        label=list(columns),
    )
    axis.set_title(name[:24], size=8, parse_math=False)
    axis.tick_params(labelsize=7, left=False, labelleft=False)
    if name in values and len(values[name]) <= MAX_TICKS:
        texts = [text[:8] or "missing" for text in values[name]]
        axis.set_xticks(range(len(texts)), texts, parse_math=False)


def _read_sheet(file: io.BytesIO, size: Sequence[int], by_class: bool) -> np.ndarray:
    """Cuts a sheet of samples into images (n, h, w, 3), without the black ones at its end."""
    with Image.open(file) as image:
        sheet = np.asarray(image.convert("RGB"))

    height, width = size
    columns = sheet.shape[1] // width
    grid = sheet.reshape(-1, height, columns, width, 3).swapaxes(1, 2)  # (rows, columns, h, w, 3)
    if by_class:  # each row is a class: take one image of each in turn
        grid = grid.reshape(-1, SAMPLES_PER_CLASS, height, width, 3).swapaxes(0, 1)
    images = grid.reshape(-1, height, width, 3)

    # The sheet of a packed run is padded with black images.
    not_black = np.flatnonzero(images.any((1, 2, 3)))
    return images[: not_black.max(initial=0) + 1]


def _image_row(images: np.ndarray) -> np.ndarray:
    """Places the first images (n, h, w, 1 or 3) side by side, enlarged without smoothing."""
    height, width = images.shape[1:3]
    scale = max(1, round(IMAGE_SIZE / max(height, width)))
    fitting = (FIGURE_WIDTH - LABEL_WIDTH) // (scale * width + GAP)
    count = max(1, min(MAX_IMAGES, fitting))
    enlarged = images[:count].repeat(scale, axis=1).repeat(scale, axis=2)
    gaps = ((0, 0), (0, GAP), (0, GAP), (0, 0))
    return np.concatenate([*np.pad(enlarged, gaps, constant_values=255)], axis=1)


def _stack_rows(rows: Mapping[str, np.ndarray]) -> bytes:
    """Draws rows of images below each other, with their labels to the left, as a WebP file.

    Rows that exceed the largest height of the format are left out.
    """
    row_height = max(pixels.shape[0] for pixels in rows.values())
    width = LABEL_WIDTH + max(pixels.shape[1] for pixels in rows.values())
    drawn_rows = list(rows.items())[: MAX_WEBP_SIDE // row_height]

    canvas = np.full((len(drawn_rows), row_height, width, 3), 255, np.uint8)
    figure = new_figure(width / DPI, len(drawn_rows) * row_height / DPI)
    figure.set_dpi(DPI)
    for index, (label, pixels) in enumerate(drawn_rows):
        canvas[index, :, LABEL_WIDTH : LABEL_WIDTH + pixels.shape[1]] = pixels
        figure.text(
            x=(LABEL_WIDTH - 8) / width,
            y=1 - (index + 0.5) / len(drawn_rows),
            s=label,
            size=9,
            ha="right",
            va="center",
        )
    figure.figimage(canvas.reshape(-1, width, 3), zorder=-1)
    return figure_bytes(figure, ".webp")


def _draw_beta(frame: pd.DataFrame, distance: str) -> bytes | None:
    """Draws FIF's validation distance by beta; None if beta or anything else does not allow it.

    At least two values of beta are needed, and no other hyper-parameter but K may vary.
    """
    fif = frame[(frame["model"] == "fif") & frame["beta"].notna()]
    assignments = ", ".join(fif["configuration"].unique()).split(", ")
    varied = {assignment.split("=")[0] for assignment in assignments}
    if fif["beta"].nunique() < 2 or varied - DRAWN_PARAMETERS:
        return None

    figure = new_figure(8, 4)
    axis: Any = figure.subplots()
    samplers = list(fif["sampler"].unique())
    line_styles = {1: "o-", 2: "o--"}
    means = fif.groupby(["sampler", "vectors", "beta"])["frechet_val"].mean().unstack("beta")
    for (sampler, vectors), row in means.iterrows():
        line = row.dropna()
        axis.plot(
            line.index,
            line,
            line_styles.get(vectors, "o:"),
            markersize=4,
            color=f"C{samplers.index(sampler)}",
            label=f"{find_sampler(sampler).label}, K = {vectors}",
        )
    axis.set(yscale="log", xticks=means.columns)
    axis.yaxis.set_major_formatter("{x:.3g}")
    axis.yaxis.set_minor_formatter("{x:.3g}")
    axis.set(xlabel="reconstruction weight β", ylabel=f"{distance}, validation")
    figure.legend(loc="outside right upper", fontsize=8)
    return figure_bytes(figure)
