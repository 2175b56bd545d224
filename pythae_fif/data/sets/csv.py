"""A user's table of numbers."""

from pythae_fif.data.source import DataRequest, DataSource
from pythae_fif.data.splits import FilesAndReader, Splits
from pythae_fif.data.tables import load_table


def find_table(request: DataRequest) -> FilesAndReader:
    """Returns a user's table and its reader."""
    options = request.options

    def read() -> Splits:
        return load_table(
            request.path, columns=options.columns, drop=options.drop, label=options.label
        )

    return [request.path], read


DATASET = DataSource(
    find_table, needs_path=True, is_table=True, takes_columns=True, is_cached=False
)
