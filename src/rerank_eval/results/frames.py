"""The one way in which parquet files of results, and of other people, become frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

_FEW = 2**24
_ROWS_PER_BYTE = 10  # a pair's score alone takes bytes; only runs of one value come near


def read_frame(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a parquet file's columns, and nothing else of it.

    What a writer adds in the schema's metadata (pandas: its index, its types) is left out: it is free text that pandas
    believes, so a hostile or torn file could end in any exception at all, and an index of somebody else's would hide
    the column `query_id`.

    Args:
        path: A parquet file.
        columns: Those to read; None for all.

    Returns:
        One row per row of the file, with a plain index.

    Raises:
        OSError: It is not there or cannot be read.
        ValueError: It is no parquet file, lacks a column, or holds what no frame can.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError("not a file")  # a pipe would be waited for
    try:
        rows, size = pq.read_metadata(path).num_rows, path.stat().st_size
        if rows > _FEW and rows > _ROWS_PER_BYTE * size:
            raise ValueError(f"{rows:,} rows in {size:,} bytes: made to fill the memory")
        table = pq.read_table(path, columns=None if columns is None else list(columns))
        missing = set(columns or ()) - set(table.column_names)
        if missing:
            raise ValueError(f"no column {', '.join(sorted(missing))}")
        frame: pd.DataFrame = table.replace_schema_metadata(None).to_pandas()
        return frame
    except (KeyError, TypeError, pa.ArrowException) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
