"""Narrow tables and staged texts, walked side by side."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.prompt_pipeline.row_stream import RowStream, with_texts


def write_parts(folder, rows, cuts):
    folder.mkdir()
    for i, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(rows)], strict=True)):
        pq.write_table(pa.Table.from_pylist(rows[start:end]), folder / f"part-{i}.parquet")


def test_texts_are_joined_by_place(tmp_path):
    rng = random.Random(0)
    rows = [{"row": 3 * i, "prompt": f"p{i}", "history": None if i % 2 else "h"} for i in range(90)]
    for case, wanted in enumerate([rng.sample(range(90), 20), [0, 89], range(90), [5]]):
        narrow = [{"row": 3 * i, "flag": i % 3 == 0} for i in sorted(wanted)]
        write_parts(tmp_path / f"rows{case}", rows, [10, 11, 40])
        write_parts(tmp_path / f"narrow{case}", narrow, [len(narrow) // 2])
        joined = with_texts(tmp_path / f"narrow{case}", tmp_path / f"rows{case}", ["prompt"])
        assert [line for batch in joined for line in batch.to_pylist()] == [
            {"row": 3 * i, "prompt": f"p{i}", "flag": i % 3 == 0} for i in sorted(wanted)
        ]


def test_no_rows_and_too_few(tmp_path):
    write_parts(tmp_path / "rows", [{"row": 1, "prompt": "p"}], [])
    (tmp_path / "none").mkdir()
    pq.write_table(pa.table({"row": pa.array([], pa.int64())}), tmp_path / "none/part-0.parquet")
    assert list(with_texts(tmp_path / "none", tmp_path / "rows", ["prompt"])) == []
    with pytest.raises(RuntimeError, match="bug"):
        RowStream(tmp_path / "rows").take(2)
