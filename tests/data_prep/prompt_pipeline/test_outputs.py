"""The files that a run leaves: columns, forms, what `load_dataset` makes of them."""

import pyarrow.parquet as pq
from prompt_tools import random_log, rows_of, run, write_lines

from data_prep.formats.forms import request_form


def test_columns_forms_and_what_rides_along(tmp_path):
    log = random_log(1)
    run(write_lines(tmp_path / "log.jsonl", log), tmp_path / "out")
    by_id = {r["id"]: r for r in log}
    assert pq.read_schema(tmp_path / "out/train.parquet").names == [
        "id",
        "prompt",
        "user_id",
        "timestamp",
        "request_form",
        "dup_count",
        "rides",
    ]
    for row in rows_of(tmp_path / "out", "train"):
        origin = by_id[row["id"]]
        assert (row["prompt"], row["user_id"], row["timestamp"], row["rides"]) == tuple(
            origin[c] for c in ("prompt", "user_id", "timestamp", "rides")
        )
        assert row["request_form"] == request_form(row["prompt"])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        ".written",
        "README.md",
        "removed.parquet",
        "report.json",
        "run.json",
        "test.parquet",
        "train.parquet",
        "validation.parquet",
    ]


def test_load_dataset_reads_the_folder(tmp_path):
    from datasets import load_dataset

    report = run(write_lines(tmp_path / "log.jsonl", random_log(5)), tmp_path / "out")
    loaded = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in loaded.items()} == report["splits"]


def test_an_empty_split_is_said_and_harms_no_other(tmp_path, capsys):
    from datasets import load_dataset

    log = [{"prompt": f"please tell me about thing {i}", "user_id": "one"} for i in range(5)]
    report = run(write_lines(tmp_path / "log.jsonl", log), tmp_path / "out")
    (filled,) = [name for name, n in report["splits"].items() if n]
    empty = [name for name in report["splits"] if name != filled]
    assert f"no prompt is in {', '.join(empty)} (" in capsys.readouterr().err
    for name in empty:
        file = pq.ParquetFile(tmp_path / f"out/{name}.parquet")
        # its columns are there; no row group is what makes `datasets` take it
        assert "prompt" in file.schema_arrow.names and file.num_row_groups == 0
    loaded = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(rows) for name, rows in loaded.items()} == {filled: 5}
