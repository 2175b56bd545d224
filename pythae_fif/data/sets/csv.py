"""A user's table."""

from pythae_fif.data.source import DataRequest, DataSource
from pythae_fif.data.splits import FilesAndReader, Splits
from pythae_fif.data.tables import load_table
from pythae_fif.names import TABLE_OPTIONS


def find_table(request: DataRequest) -> FilesAndReader:
    """Returns a user's table and its reader."""
    options = request.options.model_dump(include={*TABLE_OPTIONS})

    def read() -> Splits:
        return load_table(request.path, **options)

    return [request.path], read


DATASET = DataSource(
    find_table, needs_path=True, is_table=True, takes_columns=True, is_cached=False
)
