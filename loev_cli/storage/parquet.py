"""Parquet files that anybody may have made: sizes are checked before columns are read.

A column of one value repeated is a few bytes on disk, whatever its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loev_cli.errors import needs_extra
from loev_cli.storage.bounded import DATA_ERRORS

with needs_extra("reading or writing .parquet", "parquet"):
    import pyarrow as pa
    import pyarrow.parquet as pq

# What damaged files, and tables that are not what they should be, raise.
PARQUET_ERRORS = (*DATA_ERRORS, OSError, pa.ArrowException)
MAX_EXPANSION = 100
ALWAYS_ALLOWED_N_BYTES = 256 << 20
_VALUE_N_BYTES = 8


def read_table(path: Path, names: Sequence[str] | None = None) -> pa.Table:
    """Columns of a file; all without ``names``. Raises one of PARQUET_ERRORS.

    Not ``pq.read_table``: it takes `key=value` folders in the path for columns, imports pandas, and
    now and then aborts a process that ends soon after (its threads are still reading ahead).
    """
    with path.open("rb") as stream, pq.ParquetFile(stream) as file:
        check_size(path, file)
        return file.read(columns=None if names is None else list(names), use_threads=False)


def names_of(path: Path) -> list[str]:
    """The columns of a file. Raises as :func:`read_table`."""
    with path.open("rb") as stream, pq.ParquetFile(stream) as file:
        return list(file.schema_arrow.names)


def check_size(path: Path, file: Any) -> None:
    """Raises ValueError where a ``ParquetFile`` claims far more values than its size suggests."""
    metadata = file.metadata
    n_claimed = metadata.num_rows * sum(map(_record_n_bytes, file.schema_arrow.types))
    unpacked = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    n_allowed = max(ALWAYS_ALLOWED_N_BYTES, MAX_EXPANSION * path.stat().st_size)
    if max(n_claimed, unpacked) > n_allowed:
        raise ValueError(f"it claims {metadata.num_rows} rows, far more than the file has")


def _record_n_bytes(kind: Any) -> int:
    """Bytes of one value, at least: of lists of no fixed size and of text it is not known."""
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size) * _record_n_bytes(kind.value_type)
    return _VALUE_N_BYTES
