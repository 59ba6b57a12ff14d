"""Rows through every format, bad rows by file and line, outputs whole or not at all."""

import errno
import gzip
import os
import signal
import subprocess
import sys

import pytest
from conftest import SCRIPT_ENV

from instruct import files
from instruct.command.commands import command
from instruct.errors import UserError
from instruct.files import atomic_file, check_output, load_rows, write_rows
from instruct.processes import typed
from instruct.run.folders import atomic_folder


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
        out.write(b"\xff\xfd")
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


################
# A command's end
################


@command
def fails_with(error: BaseException):
    raise error


def ends(error: BaseException, capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        fails_with(error)
    return stop.value.code, capsys.readouterr().err


def from_a_library(error: Exception) -> RuntimeError:
    wrapped = RuntimeError("could not save")
    wrapped.__cause__ = error
    return wrapped


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left", "/d/out.jsonl"), "/d/out.jsonl: no space left"),
        (OSError(errno.ENOSPC, "x", "/d/.o.1.part", None, "/d/o"), "/d/o: no space left"),
        (OSError(errno.EDQUOT, "x"), "your quota on this disk is used up"),
        (OSError(errno.EROFS, "x", "/d/o"), "/d/o: this disk is read-only"),
        (PermissionError(errno.EACCES, "x", "/d/o"), "/d/o: no permission"),
        (NotADirectoryError(errno.ENOTDIR, "x", "/d/o"), "/d/o: a part of this path is a file"),
        (FileExistsError(errno.EEXIST, "x", "/d"), "/d: this is a file, not a folder"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "no space left"),
        (RuntimeError("enforce fail at inline_container.cc:664] . unexpected pos"), "no space"),
        (from_a_library(OSError(errno.ENOSPC, "x")), "no space left"),
        (from_a_library(Exception("write failed (os error 30)")), "this disk is read-only"),
    ],
)
def test_a_disk_that_cannot_be_written_is_one_sentence(error, sentence, capsys):
    code, said = ends(error, capsys)
    assert code == 2 and said.startswith(f"error: {sentence}") and said.count("\n") == 1
    assert said.endswith("then run the same command again\n")


def test_after_a_full_disk_nobody_is_told_to_overwrite(monkeypatch, capsys):
    monkeypatch.setattr(sys, "orig_argv", ["python", "sft.py", "--overwrite_output_dir", "True"])
    _, said = ends(OSError(errno.ENOSPC, "x"), capsys)
    assert said.endswith("then run the same command again without --overwrite_output_dir\n")


def test_what_was_dealt_with_before_says_nothing_of_what_came_later(capsys):
    bug = KeyError("x")
    bug.__context__ = PermissionError(errno.EACCES, "x", "/d/o")
    assert ends(bug, capsys)[0] == 1


def test_ctrl_c_is_one_line_that_ends_in_what_to_type(capsys):
    code, said = ends(KeyboardInterrupt(), capsys)
    assert code == 130 and said == f"stopped by Ctrl-C; to continue: {typed()}\n"


WAITS = """
import sys, time
from pathlib import Path
from instruct.command.commands import command
from instruct.files import atomic_file
from instruct.run.folders import atomic_folder, claim
@command
def main():
    claim(sys.argv[1])
    with atomic_folder(sys.argv[1]) as beside, atomic_file(sys.argv[1] + ".json") as file:
        (beside / "x").write_text("half")
        file.write_text("half")
        print("writing", flush=True)
        time.sleep(60)
main()
"""


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [(signal.SIGINT, 130, "stopped by Ctrl-C"), (signal.SIGTERM, 143, "stopped by SIGTERM")],
)
def test_a_signal_leaves_nothing_half_written_and_no_traceback(tmp_path, number, code, line):
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS, str(tmp_path / "out")],
        env=SCRIPT_ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job is started with Ctrl-C ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    process.stdout.readline()
    process.send_signal(number)
    said = process.communicate()[1]
    assert process.returncode == code and list(tmp_path.iterdir()) == []
    assert said.startswith(f"{line}; to continue: ") and said.endswith(f" {tmp_path / 'out'}\n")


def full_disk(*args, **more):
    raise OSError(errno.ENOSPC, "No space left on device", "somewhere")


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_on_a_full_disk_the_old_file_stays_and_nothing_is_beside(tmp_path, monkeypatch, broken):
    write_rows(tmp_path / "r.jsonl", [{"a": 1}])
    monkeypatch.setattr(f"instruct.files.os.{broken}", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_rows(tmp_path / "r.jsonl", [{"a": 2}])
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["r.jsonl"]
    assert load_rows(tmp_path / "r.jsonl")["a"] == [1]


@pytest.mark.parametrize("sync", [files.sync, files.sync_folder])
@pytest.mark.parametrize("code", ["EINVAL", "ENOSYS", "EPERM", "EACCES", "ENOTCONN", "ESTALE"])
def test_a_disk_that_cannot_sync_is_no_reason_to_stop(tmp_path, monkeypatch, sync, code):
    def fsync(descriptor):
        raise OSError(getattr(errno, code), code)

    path = tmp_path if sync is files.sync_folder else tmp_path / "x"
    (tmp_path / "x").write_text("1")
    monkeypatch.setattr(files.os, "fsync", fsync)
    sync(path)
    for code in ("ENOSPC", "EDQUOT", "EIO", "EROFS"):
        with pytest.raises(OSError, match=code):
            sync(path)


def test_files_and_names_are_on_disk_before_a_command_goes_on(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def noted(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr("instruct.files.os.fsync", noted)
    with atomic_file(tmp_path / "a.json") as beside:
        beside.write_text("{}")
    assert synced == [str(beside), str(tmp_path)]
    synced.clear()
    with atomic_folder(tmp_path / "out") as beside:
        (beside / "sub").mkdir()
        (beside / "sub/x").write_text("1")
    assert {str(beside / "sub/x"), str(beside / "sub"), str(beside)} < set(synced)
    assert synced[-1] == str(tmp_path)


def test_a_file_that_could_not_be_written_is_told_before_the_work(tmp_path):
    for name in ("rows.csv", "rows"):
        with pytest.raises(UserError, match="rows are written as"):
            check_output(tmp_path / name)
    with pytest.raises(UserError, match="this is a folder"):
        check_output(tmp_path)
