"""Files of every format: the same rows, and one sentence where a file is broken."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prompt_tools import SPLITS, fails, rows_of, run, write_lines

from data_prep.formats import log_files


def test_every_format_gives_the_same_rows(tmp_path):
    log = [
        {
            "id": f"r{i}",
            "prompt": f'prompt {i}, "quoted"\nline é',
            "user_id": f"u{i % 3}",
            "timestamp": 10 + i,
        }
        for i in range(30)
    ]
    table = pa.Table.from_pylist(log)
    pq.write_table(table, tmp_path / "a.parquet")
    write_lines(tmp_path / "a.jsonl", log)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    (tmp_path / "a.json").write_text(json.dumps(log))
    import csv

    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(log[0]))
        writer.writeheader()
        writer.writerows(log)
    (tmp_path / "folder/deep").mkdir(parents=True)
    write_lines(tmp_path / "folder/1.jsonl", log[:10])
    pq.write_table(table.slice(10), tmp_path / "folder/deep/2.parquet")
    results = {}
    for source in ("a.parquet", "a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "folder", "a.j*l"):
        run(tmp_path / source, tmp_path / "out")
        results[source] = {
            n: [(r["id"], r["prompt"], r["user_id"]) for r in rows_of(tmp_path / "out", n)]
            for n in SPLITS
        }
    assert all(result == results["a.parquet"] for result in results.values())


def test_hub_ids_and_hub_paths(tmp_path, monkeypatch):
    """No Hub here: the two clients are replaced, what they are asked for is checked."""
    import datasets
    import fsspec
    import huggingface_hub

    log = [{"prompt": f"prompt {i}", "user_id": "u"} for i in range(5)]
    asked = []
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda name, split: asked.append((name, split)) or datasets.Dataset.from_list(log),
    )
    report = run("someone/their-log", tmp_path / "out")
    # the first rows first: they tell the log's shape
    assert asked == [("someone/their-log", "train")] * 2 and report["in"] == 5
    write_lines(tmp_path / "log.jsonl", log)

    class Local(fsspec.implementations.local.LocalFileSystem):
        def open(self, path, mode):
            return open(path.removeprefix("hf://"), mode)

    monkeypatch.setattr(huggingface_hub, "HfFileSystem", Local)
    assert run(f"hf://{tmp_path}/log.jsonl", tmp_path / "out")["in"] == 5


def test_malformed_csv_and_parquet_rows(tmp_path):
    (tmp_path / "log.csv").write_bytes(
        b'prompt,user_id\nfine,u\n"two\nlines",u\nthree,u,more\nbad\xff,u\n,u\nlast,u\n'
    )
    run(tmp_path / "log.csv", tmp_path / "out", "--splits", "train=1")
    assert [(r["line"]) for r in rows_of(tmp_path / "out", "removed")] == [5, 6, 7]
    assert [r["prompt"] for r in rows_of(tmp_path / "out", "train")] == [
        "fine",
        "two\nlines",
        "last",
    ]
    broken = pa.Array.from_buffers(pa.string(), 2, pa.array([b"fine", b"\xff"]).buffers())
    pq.write_table(pa.table({"prompt": broken}), tmp_path / "log.parquet")
    run(tmp_path / "log.parquet", tmp_path / "out")
    assert [(r["line"], r["detail"]) for r in rows_of(tmp_path / "out", "removed")] == [
        (2, "prompt is not UTF-8 text")
    ]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("missing.jsonl", None, "no such file"),
        ("empty.jsonl", b"", "no prompt in it"),
        ("bad.jsonl", b"x\ny\n", "bad.jsonl, line 1: not valid JSON"),
        ("cut.jsonl.gz", gzip.compress(b'{"prompt": "x"}\n' * 999, mtime=0)[:40], "broken gzip"),
        ("fake.parquet", b"PAR1", "cannot be read"),
        ("list.json", b"[{]", "not valid JSON"),
        ("notes.md", b"hello", "unknown file ending"),
        ("head.csv", b"prompt,prompt\na,b\n", "two columns have one name"),
        ("fake.jsonl.gz", b"plain", "line 1: not valid JSON"),
        ("pointer.jsonl.gz", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("page.json", b"<!DOCTYPE html><html>", "a web page"),
    ],
)
def test_wrong_files_are_one_sentence(tmp_path, capsys, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    error = fails(
        capsys, "--input", tmp_path / name, "--output_dir", tmp_path / "out", "--num_proc", "1"
    )
    assert (
        sentence in error
        and name in error
        and "Traceback" not in error
        and not (tmp_path / "out").exists()
    )


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (b'{"a": 1}\n', {"a": 1}),
        (b' {"a": 1}\r\n', {"a": 1}),
        (b"\n", "not valid JSON (Expecting value, column 1)"),
        (b'{"a": 1} x\n', "not valid JSON (Extra data, column 10)"),
        (b'{"a": 1}{}\n', "not valid JSON (Extra data, column 9)"),
        (b"null\n", "not an object but NoneType"),
        (b"\xef\xbb\xbf{}\n", "not valid JSON (Unexpected UTF-8 BOM"),
    ],
)
def test_a_line_is_read_as_json_reads_it(line, row):
    found = log_files._parse_line(line)
    assert found == row if isinstance(row, dict) else found.startswith(row)
