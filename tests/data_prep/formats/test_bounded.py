"""Rows and files of any length are read in bounded memory; what is too long is malformed."""

import json
import pickle
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prompt_tools import adds_up, fails, rows_of, run

from data_prep.formats import bounded, log_files

LIMIT = 1_000


@pytest.fixture
def short_rows(monkeypatch):
    """Limits of a thousandth, so that small files meet them."""
    monkeypatch.setattr(bounded, "LONGEST_ROW", LIMIT)
    monkeypatch.setattr(bounded, "BLOCK", 64)
    # as in earnest, a chunk of more than a row is smaller than the longest row
    monkeypatch.setattr(log_files, "CHUNK_BYTES", LIMIT // 2)


def test_a_row_that_is_too_long_is_malformed_and_counted(tmp_path, short_rows):
    long = "1" * 5_000
    json_lines = "".join(json.dumps({"prompt": p}) + "\n" for p in ("first", long, "last"))
    (tmp_path / "log.jsonl").write_text(json_lines)
    # one cell of several lines, with quotes in it; many cells; one cell
    several = '"' + "a,b" * 200 + "\n" + 'say ""no"" ' * 100 + '\n"'
    rows = ["prompt,user_id", "first,u", f"{several},u", "x," * 900, f"{long},u", "last,u"]
    (tmp_path / "log.csv").write_text("\n".join(rows))
    pq.write_table(pa.table({"prompt": ["first", long, "last"]}), tmp_path / "log.parquet")
    for name, lines in (("log.jsonl", [2]), ("log.csv", [3, 6, 7]), ("log.parquet", [2])):
        report = run(tmp_path / name, tmp_path / "out", "--splits", "train=1")
        assert adds_up(tmp_path / "out") == report
        assert [r["prompt"] for r in rows_of(tmp_path / "out", "train")] == ["first", "last"], name
        removed = rows_of(tmp_path / "out", "removed")
        assert [r["line"] for r in removed] == lines, name
        assert all(r["reason"] == "malformed" and "longer than" in r["detail"] for r in removed)


def test_a_list_with_a_value_that_is_too_long_is_one_sentence(tmp_path, short_rows, capsys):
    (tmp_path / "log.json").write_text(json.dumps([{"prompt": "a"}, {"prompt": "1" * 5_000}]))
    error = fails(
        capsys,
        "--input",
        tmp_path / "log.json",
        "--output_dir",
        tmp_path / "out",
        "--num_proc",
        "1",
    )
    assert "item 2" in error and "longer than" in error and "one row a line" in error


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_memory_does_not_grow_with_a_line(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(bounded, "LONGEST_ROW", 1 << 20)
    monkeypatch.setattr(bounded, "BLOCK", 1 << 16)
    path = tmp_path / f"log.{ending}"
    with open(path, "wb") as out:
        out.write(b"prompt\n")
        for _ in range(64):
            out.write(b"1" * (1 << 20))
    tracemalloc.start()
    rows = [row for chunk in log_files.read_chunks(str(path)) for row in log_files.parse(chunk)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [line for line, _ in rows][-1] == 2 and "longer than" in rows[-1][1]
    assert peak < 16 << 20


def test_batches_are_cut_and_joined_by_bytes_and_rows():
    sizes = [10, 2_000, 10, 10, 700, 700, *[1] * 50]
    texts = [str(i % 10) * size for i, size in enumerate(sizes)]
    shared = pa.array(["s" * 500] * len(sizes)).dictionary_encode()
    whole = pa.RecordBatch.from_pydict({"text": pa.array(texts), "shared": shared})
    chunks = list(bounded.in_chunks([whole.slice(0, 20), whole.slice(20)], 3_000, 5))
    assert [row for chunk in chunks for row in chunk.to_pylist()] == whole.to_pylist()
    assert all(len(c) <= 5 and (c.nbytes <= 3_000 or len(c) == 1) for c in chunks)
    # nor does a chunk carry what it was cut from to another process
    assert all(len(pickle.dumps(c)) < c.nbytes + 3_000 for c in chunks)
    assert len(chunks) < 20


def test_parquet_is_read_by_bytes(tmp_path):
    texts = [str(i % 10) * 10_000 for i in range(2_000)]
    # the same ten texts: in the file they take little
    pq.write_table(pa.table({"prompt": texts, "i": range(2_000)}), tmp_path / "log.parquet")
    with open(tmp_path / "log.parquet", "rb") as raw:
        read = list(bounded.record_batches(raw, 1 << 20))
    assert [row["i"] for batch in read for row in batch.to_pylist()] == list(range(2_000))
    assert max(batch.nbytes for batch in read) < 4 << 20
