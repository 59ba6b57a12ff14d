"""Flags that cannot be are told in one sentence, before anything is read."""

import pytest
from prompt_tools import fails, run, write_lines


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--splits", "train=0.9,test=0.2"], "add up to 1.1"),
        (["--splits", "train"], "NAME=SHARE"),
        (["--splits", "removed=1"], "needs a name"),
        (["--splits", "train=1", "--max_per_user", "0"], "--max_per_user 0"),
        (["--prefix_chars", "-1"], "--prefix_chars -1"),
        (["--near_duplicates", "7"], "--near_duplicates"),
        (["--near_duplicates", "0.8", "--backend", "pyspark"], "duckdb only"),
        (["--memory_limit", "lots"], "--memory_limit lots"),
        (["--splits", "a=1", "--pii_splits", "train"], "no split named train"),
        (["--pii", "maybe"], "invalid choice"),
        (["--prompt_column", "text"], "no column 'text'"),
        (["--exclude", "/nowhere/x.jsonl"], "/nowhere/x.jsonl"),
        (["--user_column", "who"], "who"),
        (["--nonsense", "1"], "--nonsense"),
        (["--phone_regions", "us", "XQ"], "--phone_regions XQ"),
    ],
)
def test_wrong_flags_are_one_sentence(tmp_path, capsys, flags, sentence):
    source = write_lines(tmp_path / "log.jsonl", [{"prompt": "x", "user_id": "u"}])
    error = fails(
        capsys, "--input", source, "--output_dir", tmp_path / "out", "--num_proc", "1", *flags
    )
    assert sentence in error and "Traceback" not in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.jsonl"]  # nothing is left behind


def test_an_output_folder_of_something_else_is_left_alone(tmp_path, capsys):
    source = write_lines(tmp_path / "log.jsonl", [{"prompt": "x"}])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    assert "thesis.txt" in fails(capsys, "--input", source, "--output_dir", tmp_path / "mine")
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"
    run(source, tmp_path / "out")
    assert (
        run(source, tmp_path / "out", "--seed", "3")["options"]["seed"] == 3
    )  # an earlier run is replaced whole
