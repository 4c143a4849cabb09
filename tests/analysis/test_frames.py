"""Parquet files of others: a frame, or one kind of error."""

from __future__ import annotations

import base64
import json
import os
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rerank_eval.analysis.loading import load_runs
from rerank_eval.errors import DataError
from rerank_eval.results.frames import read_frame
from rerank_eval.results.runs import Run, find_run

GOOD = pd.DataFrame({"query_id": ["q1", "q2"], "ndcg_at_10": [0.5, 1.0], "n_relevant": [1, 2]})


def with_metadata(path: Path, told: object) -> Path:
    table = pa.Table.from_pandas(GOOD, preserve_index=False)
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(told)}), path)
    return path


def read(path: Path) -> list[Run]:
    return load_runs([("m", row) for row in find_run(str(path), path.parent)])


@pytest.mark.parametrize(
    "told",
    [
        {"columns": [{"name": "query_id"}], "index_columns": [], "column_indexes": []},
        {"columns": [], "index_columns": [], "column_indexes": [{"numpy_type": "unic\x7fde", "pandas_type": "x"}]},
        {"columns": [], "index_columns": ["query_id"], "column_indexes": []},
        [],
        None,
    ],
)
def test_what_pandas_would_believe_is_left_out(told: object, tmp_path: Path) -> None:
    path = with_metadata(tmp_path / "run.parquet", told)
    assert read_frame(path).equals(GOOD)
    assert read(path)


def test_every_altered_byte_of_arrow_s_own_schema_ends_in_a_frame_or_one_error(tmp_path: Path) -> None:
    path = tmp_path / "good.parquet"
    pq.write_table(pa.Table.from_pandas(GOOD, preserve_index=False).replace_schema_metadata(None), path)
    content = path.read_bytes()
    written = pq.read_metadata(path).metadata[b"ARROW:schema"]
    assert content.count(written) == 1
    schema = base64.b64decode(written)
    refused = 0
    for place in range(len(schema)):
        altered = bytearray(schema)
        altered[place] ^= 0xC0  # 64 bits become 128
        path.write_bytes(content.replace(written, base64.b64encode(bytes(altered))))
        try:
            read_frame(path)
        except (OSError, ValueError):
            refused += 1
            with suppress(DataError):
                read(path)
    assert refused > 50


def test_rows_made_to_fill_the_memory_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    frame = pd.DataFrame({"query_id": pd.Categorical.from_codes([0] * 20_000_000, ["q"])})
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path)
    with pytest.raises(ValueError, match="20,000,000 rows"):
        read_frame(path)
    with pytest.raises(DataError, match="not a readable parquet file"):
        read(path)


def test_a_column_that_lacks_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"
    GOOD.to_parquet(path)
    assert list(read_frame(path, ["query_id"]).columns) == ["query_id"]
    with pytest.raises(ValueError, match="relevance"):
        read_frame(path, ["query_id", "relevance"])


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "scores.parquet")
    with pytest.raises(ValueError, match="not a file"):
        read_frame(tmp_path / "scores.parquet")
