"""A user's folder of image files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pythae_fif.data.images import SUFFIXES, decode_files, find_images
from pythae_fif.data.source import DataRequest, DataSource
from pythae_fif.data.splits import (
    SPLIT_NAMES,
    FilesAndReader,
    Splits,
    describe_sizes,
    split_train_val_test,
)
from pythae_fif.errors import DataError


def find_folder(request: DataRequest) -> FilesAndReader:
    """Finds the images in a folder; returns the files and their reader.

    Subfolders train, test and val are the splits; val may be missing. In each of them, or in the
    folder if it has no such subfolders, further subfolders are classes if every image is in one.

    Raises:
        DataError: The folder has no images, or only one of the subfolders train and test.
    """
    path = request.path
    folders = sorted(part.name for part in path.glob("*") if part.is_dir())
    split_folders = {name.lower(): name for name in folders if name.lower() in SPLIT_NAMES}
    if split_folders and not {"train", "test"} <= split_folders.keys():
        raise DataError(
            f"folder: {path} has {[*split_folders]}, needs train and test, or none of them"
        )

    names = []
    for subfolder in split_folders.values() or [""]:
        # A split may be a link to a folder, which find_images would not follow from above.
        names += [Path(subfolder, name).as_posix() for name in find_images(path / subfolder)]
    names.sort()
    if not names:
        raise DataError(f"folder: {path} is not a folder with images ({', '.join(SUFFIXES)}) in it")

    def read() -> Splits:
        names_by_split = _split_names(names, split_folders)
        # All files are decoded at once, so that an error lists all that are broken.
        all_names: Any = np.concatenate([*names_by_split.values()])
        decoded = decode_files(
            path,
            all_names,
            request.image_size,
            request.progress,
            skip_broken=request.options.skip_broken,
        )
        split_of_file = np.repeat([*names_by_split], [*map(len, names_by_split.values())])
        split_of_image = split_of_file[decoded.indices]
        arrays: Any = {}
        for split in names_by_split:
            is_in_split = split_of_image == split
            arrays[split] = decoded.images[is_in_split]
            names_by_split[split] = all_names[decoded.indices][is_in_split]

        if _all_grey(arrays):
            arrays = {split: images[:, :1] for split, images in arrays.items()}

        labels, class_names, label_notes = _labels_by_subfolder(
            names_by_split, class_level=1 if split_folders else 0
        )
        notes = [*decoded.notes, *label_notes]
        unread = [
            name
            for name in folders
            if name not in split_folders.values() and not name.startswith(".")
        ]
        if split_folders and unread:
            notes.append(f"not read: {', '.join(unread)}")

        side = request.image_size
        return Splits(
            "folder",
            **arrays,
            labels=labels,
            example_ids=names_by_split,
            class_names=class_names,
            source=f"folder {path.name}, {side}x{side}, {describe_sizes(arrays)}",
            notes=tuple(notes),
        )

    files = [path / name for name in names]
    return [file for file in files if file.exists()], read  # not links to files that are gone


def _split_names(names: Sequence[str], split_folders: Mapping[str, str]) -> dict[str, Any]:
    """Assigns images to the splits, by their subfolder if there are subfolders for splits."""
    if not split_folders:
        return split_train_val_test({"data": np.array(names)})

    # Shuffled, so that a profile that cuts to the first images keeps all classes.
    shuffled = np.array(names)[np.random.RandomState(0).permutation(len(names))]
    subfolders = np.array([name.split("/", 1)[0] for name in shuffled])
    parts = {split: shuffled[subfolders == folder] for split, folder in split_folders.items()}
    return split_train_val_test(parts)


def _all_grey(arrays: Mapping[str, np.ndarray]) -> bool:
    """Returns True if the three channels of every image are equal."""
    return all((image == image[:1]).all() for images in arrays.values() for image in images)


def _labels_by_subfolder(
    names_by_split: Mapping[str, Sequence[str]], class_level: int
) -> tuple[dict[str, np.ndarray] | None, tuple[str, ...] | None, list[str]]:
    """Returns the classes that are the subfolders at a level of the names.

    Returns:
        The labels and the names of the classes, which are None without classes; and notes that say
        why there are none.
    """
    classes_by_split = {}
    for split, names in names_by_split.items():
        folders = [name.split("/")[class_level:-1] for name in names]
        classes_by_split[split] = [parts[0] if parts else "" for parts in folders]

    classes = sorted(set().union(*classes_by_split.values()))
    if len(classes) < 2:
        return None, None, []
    if "" in classes or {*classes} != {*classes_by_split["train"]}:
        return None, None, ["no labels: not every image is in a subfolder that has training images"]

    labels = {
        split: np.searchsorted(classes, image_classes)
        for split, image_classes in classes_by_split.items()
    }
    return labels, tuple(classes), []


DATASET = DataSource(find_folder, needs_path=True, takes_image_size=True)
