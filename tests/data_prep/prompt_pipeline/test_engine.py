"""DuckDB and Spark: the same bytes, and limits told in one sentence."""

import contextlib
import importlib.util
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prompt_tools import SPLITS, fails, random_log, rows_of, run, write_lines

from data_prep.prompt_pipeline.engine import Engine


def test_what_cannot_be_written_or_held_is_one_sentence(tmp_path, capsys, monkeypatch):
    source = write_lines(tmp_path / "log.jsonl", [{"prompt": "x"}])
    (tmp_path / "file").write_text("")
    assert "cannot be written" in fails(
        capsys, "--input", source, "--output_dir", tmp_path / "file/out", "--num_proc", "1"
    )
    write_lines(
        tmp_path / "log.jsonl",
        [{"prompt": f"{i} {'long ' * 30}", "user_id": str(i)} for i in range(5_000)],
    )
    error = fails(
        capsys,
        "--input",
        source,
        "--output_dir",
        tmp_path / "out",
        "--num_proc",
        "1",
        "--memory_limit",
        "1MB",
    )
    assert "--memory_limit" in error and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name",
    ["a'b\"c", "run[1]", "a*b?", "sp ace", "ünï", "a{b,c}", "a\\b", "row=1", "#%20", "~", "a;b"],
)
def test_any_path_works(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    log = [{"prompt": "tell me of tea", "id": 1}, {"prompt": "mail jo@acme.org", "id": 2}]
    near = ["--near_duplicates", "0.9"] if importlib.util.find_spec("rensa") else []
    run(write_lines(folder / f"{name}.jsonl", log), folder / name, *near)
    assert [r["id"] for r in rows_of(folder / name, "removed")] == [2]
    written = [name, f"{name}.jsonl", f"{name}.key"]
    # nothing beside them, nor where another reading of the name would lead
    assert sorted(os.listdir(folder)) == sorted(written) and os.listdir(tmp_path) == [name]


def test_a_name_is_no_pattern(tmp_path):
    for row, name in enumerate(["run[1]", "run1", "run*", "run?"]):
        (tmp_path / name / "rows").mkdir(parents=True)
        pq.write_table(pa.table({"row": [row]}), tmp_path / name / "rows/part-0.parquet")
    for row, name in enumerate(["run[1]", "run1", "run*", "run?"]):
        engine = Engine("duckdb", tmp_path / name, None, "")
        with contextlib.closing(engine):
            written = engine.write(engine.read(tmp_path / name / "rows"), "copy")
            assert pq.read_table(written).to_pylist() == [{"row": row}], name


SPARK_VARIANTS = [
    pytest.param(["--pii", "redact", "--prefix_chars", "40", "--max_per_user", "3"], id="redact"),
    pytest.param(
        ["--exclude", "EVAL", "--seed", "4", "--turns", "all"], id="exclude", marks=pytest.mark.slow
    ),
]


@pytest.mark.parametrize("flags", SPARK_VARIANTS)
def test_spark_gives_the_same_bytes(tmp_path, flags):
    pytest.importorskip("pyspark", reason="needs the spark extra")
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        pytest.skip("Spark needs Java, and there is none on this machine")
    write_lines(
        tmp_path / "eval.jsonl", [{"q": "Tell me about the moon and the tides, one two three four"}]
    )
    flags = [str(tmp_path / "eval.jsonl") if flag == "EVAL" else flag for flag in flags]
    log = random_log(7)
    log += [
        {"id": 10**6, "prompt": "nul \0 and 'quotes' \\d \\x a@b.org"},
        {"id": 10**6, "prompt": "same id, \ud83d\ude00"},
        "broken",
    ]
    log += [
        {
            "id": 1,
            "prompt": "Tell me about the moon and the tides, one two three four five six seven "
            "eight nine",
        }
    ]
    source = write_lines(tmp_path / "log.jsonl", log)
    (tmp_path / "key").write_text("the same secret for both")
    (tmp_path / "key").chmod(0o600)
    flags += ["--pii_key_file", str(tmp_path / "key")]
    run(source, tmp_path / "duckdb", *flags)
    # Spark takes paths for patterns
    spark = tmp_path / "sp[a]rk {x} 'é"
    run(source, spark, *flags, "--backend", "pyspark", "--spark_master", "local[2]")
    for name in (*SPLITS, "removed"):
        first, second = (folder / f"{name}.parquet" for folder in (tmp_path / "duckdb", spark))
        assert first.read_bytes() == second.read_bytes(), name
    assert len(rows_of(spark, "train")) > 20
    assert len({r["reason"] for r in rows_of(spark, "removed")}) >= 3
