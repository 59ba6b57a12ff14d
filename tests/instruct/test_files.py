"""Rows through every format, bad rows by file and line, outputs whole or not at all."""

import gzip

import pytest

from instruct.files import UserError, command, load_rows, write_rows
from instruct.folders import atomic_folder


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "parquet"])
def test_rows_go_through_every_format(tmp_path, ending):
    rows = [
        {"prompt": "é\n", "completions": ["a", "b"], "ranks": [1, 2]},
        {"prompt": "x", "completions": ["c"], "ranks": [1]},
    ]
    write_rows(tmp_path / f"rows.{ending}", rows)
    assert load_rows(tmp_path / f"rows.{ending}").to_list() == rows
    assert [p.name for p in tmp_path.iterdir()] == [f"rows.{ending}"]


def test_folder_gives_the_split_asked_for(tmp_path):
    for split in ("train", "test", "removed"):
        write_rows(tmp_path / f"{split}.parquet", [{"prompt": split}])
    assert load_rows(tmp_path, split="test")["prompt"] == ["test"]
    with pytest.raises(UserError, match="no column 'completion'"):
        load_rows(tmp_path, split="test", columns=["prompt", "completion"])


def test_bad_rows_are_named_by_file_and_line(tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(UserError, match=r"bad\.jsonl, line 2"):
        load_rows(bad)
    bad.write_text("[1]\n")
    with pytest.raises(UserError, match="line 1: expected a JSON object"):
        load_rows(bad)
    with gzip.open(tmp_path / "bin.jsonl.gz", "wb") as out:
        out.write(b"\xff\xfe")
    with pytest.raises(UserError, match="UTF-8"):
        load_rows(tmp_path / "bin.jsonl.gz")
    with pytest.raises(UserError, match="no such file"):
        load_rows(tmp_path / "gone.jsonl")
    with pytest.raises(UserError, match="neither a file or folder here nor a dataset"):
        load_rows("nobody/nothing")


def test_atomic_folder_keeps_the_old_one_when_the_block_fails(tmp_path):
    with atomic_folder(tmp_path / "out") as beside:
        (beside / "a").write_text("1")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out") as beside:
        (beside / "a").write_text("2")
        raise RuntimeError
    assert (tmp_path / "out" / "a").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_command_turns_a_user_error_into_one_sentence(capsys):
    @command
    def main():
        raise UserError("rows.jsonl, line 3: no prompt")

    with pytest.raises(SystemExit) as stop:
        main()
    assert (
        stop.value.code == 2 and capsys.readouterr().err == "error: rows.jsonl, line 3: no prompt\n"
    )
