"""A user's .npz file of images."""

from pythae_fif.data.images import read_labelled_npz
from pythae_fif.data.source import DataRequest, DataSource
from pythae_fif.data.splits import FilesAndReader, Splits, describe_sizes, split_train_val_test


def find_npz_file(request: DataRequest) -> FilesAndReader:
    """Returns a user's .npz file and its reader, see :func:`read_labelled_npz`."""

    def read() -> Splits:
        images, array_labels = read_labelled_npz(request.path)
        arrays = split_train_val_test(images)

        labels = None
        notes: tuple[str, ...] = ()
        if len(array_labels) == len(images):
            labels = split_train_val_test(array_labels)
        elif array_labels:
            notes = (f"no labels: only {', '.join(array_labels)} has some",)

        return Splits(
            "npz",
            **arrays,
            labels=labels,
            source=f"npz {request.path.name}, {describe_sizes(arrays)}",
            notes=notes,
        )

    return [request.path], read


DATASET = DataSource(find_npz_file, needs_path=True)
