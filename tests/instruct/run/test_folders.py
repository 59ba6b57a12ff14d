"""Whose folder, what replaces it, one run at a time, and what a dead run left."""

import ctypes
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import SCRIPT_ENV

from instruct.command.commands import AT_END, command
from instruct.errors import UserError
from instruct.run import folders
from instruct.run.folders import WRITTEN, atomic_folder, check_ours, claim, clear_leftovers


def write(folder: Path, text: str, **ours) -> None:
    with atomic_folder(folder, **ours) as beside:
        (beside / "train.jsonl").write_text(text)


def script(text: str, *args, **more) -> subprocess.Popen:
    command = [sys.executable, "-c", text, *map(str, args)]
    return subprocess.Popen(command, env=SCRIPT_ENV, text=True, stdout=subprocess.PIPE, **more)


def a_dead_pid() -> int:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    return dead.pid


################
# Whose folder
################


def test_a_folder_of_ours_is_replaced_whole(tmp_path):
    write(tmp_path / "out", "old")
    with atomic_folder(tmp_path / "out") as beside:
        (beside / "test.jsonl").write_text("new")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [WRITTEN, "test.jsonl"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "foreign", ["thesis.tex", "thesis/final.tex", ".git/HEAD", "link", "empty"]
)
def test_what_somebody_put_into_ours_is_named_and_stays(tmp_path, foreign):
    write(tmp_path / "out", "old")
    theirs = tmp_path / "out" / foreign
    theirs.parent.mkdir(exist_ok=True)
    if foreign == "link":
        theirs.symlink_to("/")
    elif foreign == "empty":
        theirs.mkdir()
    else:
        theirs.write_text("ten years")
    with pytest.raises(UserError, match=f"holds {foreign}, which this command did not write"):
        write(tmp_path / "out", "new")
    assert theirs.exists() and (tmp_path / "out/train.jsonl").read_text() == "old"


def test_what_was_put_there_while_the_command_ran_stays_too(tmp_path):
    write(tmp_path / "out", "old")
    with pytest.raises(UserError, match="late.txt"), atomic_folder(tmp_path / "out"):
        (tmp_path / "out/late.txt").write_text("mine")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        WRITTEN,
        "late.txt",
        "train.jsonl",
    ]


def test_a_file_of_ours_that_was_edited_is_not_replaced(tmp_path):
    write(tmp_path / "out", "old")
    (tmp_path / "out/train.jsonl").write_text("old, and corrected by hand")
    with pytest.raises(UserError, match="train.jsonl, which was changed"):
        write(tmp_path / "out", "new")


def test_an_earlier_versions_folder_is_known_by_its_names_and_its_report(tmp_path):
    ours = {"names": ["train.jsonl", "report.json"], "report_keys": ["in", "kept"]}
    out = tmp_path / "out"
    out.mkdir()
    (out / "train.jsonl").write_text("somebody's own")
    for report in (None, "{}", "[]", "not JSON", '{"in": 3}'):
        if report is not None:
            (out / "report.json").write_text(report)
        with pytest.raises(UserError, match="which this command did not write"):
            write(out, "new", **ours)
    assert (out / "train.jsonl").read_text() == "somebody's own"
    (out / "report.json").write_text('{"in": 3, "kept": {}}')
    (out / "notes.md").write_text("mine")
    with pytest.raises(UserError, match="notes.md"):
        write(out, "new", **ours)
    (out / "notes.md").unlink()
    write(out, "new", **ours)
    assert (out / "train.jsonl").read_text() == "new"


def test_home_the_current_folder_and_a_disk_are_never_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home/here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "home/here")
    for place in ("/", Path.home(), ".", "..", "/proc"):
        with pytest.raises(UserError, match="is not replaced"):
            check_ours(place)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        write(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_link_stays_a_link_and_what_it_leads_to_is_asked(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link", "one")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real/train.jsonl").exists()
    (tmp_path / "real/thesis.tex").write_text("ten years")
    with pytest.raises(UserError, match="thesis.tex"):
        write(tmp_path / "link", "two")
    assert (tmp_path / "real/thesis.tex").exists()


@pytest.mark.parametrize(
    "name", ["a'b\"c", "run[1]", "mit Leerzeichen", "Ü 学习", ".hidden", "a.1.b"]
)
def test_names_of_any_kind(tmp_path, name):
    claim(tmp_path / name)
    write(tmp_path / name, "old")
    write(tmp_path / name, "new")
    left = tmp_path / f".{name}.{a_dead_pid()}.part"
    left.mkdir()
    clear_leftovers(tmp_path / name)
    AT_END.close()
    assert [p.name for p in tmp_path.iterdir()] == [name]


################
# Killed at any moment
################

REPLACES = """
import os, signal, sys
from pathlib import Path
from instruct.run import folders
out, at, exchange = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "exchange"
if not exchange:
    folders._exchange = lambda *args: False
else:  # the call is no audit event
    real = folders._exchange
    def told(*args):
        sys.audit("os.rename")
        done = real(*args)
        sys.audit("os.rename")
        return done
    folders._exchange = told
seen = 0
def count(event, args):
    global seen
    if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "open"):
        if event != "open" or ".part" in str(args[0]):
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
folders.claim(out)
with folders.atomic_folder(out) as beside:
    (beside / "train.jsonl").write_text("new")
    (beside / "sub").mkdir()
    (beside / "sub" / "x").write_text("new")
"""


@pytest.mark.parametrize("how", ["exchange", "two renames"])
def test_killed_at_any_file_event_the_old_or_the_new_is_there(tmp_path, how):
    killed = 0
    for at in range(1, 60):
        base = tmp_path / str(at)
        write(base / "out", "old")
        process = script(REPLACES, base / "out", at, how)
        if process.wait() == 0:
            break
        killed += 1
        # 1. at this moment
        if how == "exchange":
            assert (base / "out/train.jsonl").read_text() in ("old", "new")
        # 2. for the next command, whichever it is
        claim(base / "out")
        AT_END.close()
        assert (base / "out/train.jsonl").read_text() in ("old", "new")
        write(base / "out", "newer")
        assert (base / "out/train.jsonl").read_text() == "newer"
        assert [p.name for p in base.iterdir()] == ["out"]
    assert killed >= 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no such call elsewhere")
@pytest.mark.parametrize("code", ["EINVAL", "ENOSYS", "ENOTSUP", "EXDEV", "EPERM", "EACCES"])
def test_where_names_cannot_change_places_they_are_renamed(tmp_path, monkeypatch, code):
    class Library:
        def renameat2(self, *args):
            ctypes.set_errno(getattr(errno, code))
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *args, **more: Library())
    write(tmp_path / "out", "old")
    write(tmp_path / "out", "new")
    assert (tmp_path / "out/train.jsonl").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


################
# Leftovers
################


def test_leftovers_of_the_dead_go_and_what_they_moved_away_comes_back(tmp_path):
    dead = a_dead_pid()
    for name in (f".out.{dead}.old", f".out.{dead}.part", f".out.{os.getpid()}.part"):
        (tmp_path / name).mkdir()
    (tmp_path / f".out.{dead}.old/train.parquet").write_text("kept")
    (tmp_path / f".other.{dead}.part").mkdir()
    (tmp_path / ".out.notes.part").mkdir()  # no number: nobody's
    clear_leftovers(tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [f".out.{os.getpid()}.part", f".other.{dead}.part", ".out.notes.part", "out"]
    )
    assert (tmp_path / "out/train.parquet").read_text() == "kept"


def test_leftovers_in_the_folder_go_too(tmp_path):
    dead = a_dead_pid()
    (tmp_path / "out").mkdir()
    (tmp_path / f"out/.report.json.{dead}.part").write_text("half")
    (tmp_path / f"out/.merged.{dead}.old").mkdir()
    (tmp_path / f"out/.merged.{dead}.part").mkdir()
    clear_leftovers(tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["merged"]


def test_a_process_that_only_has_the_writers_number_is_not_the_writer(tmp_path):
    left = tmp_path / f".out.{os.getpid()}.part"
    left.write_text("half")
    # written an hour before this process began
    os.utime(left, (time.time() - 36_000,) * 2)
    clear_leftovers(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


################
# One run at a time
################

HOLDS = """
import sys, time
from instruct.run.folders import claim
claim(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_run_is_refused_until_the_first_is_dead(tmp_path):
    first = script(HOLDS, tmp_path / "out")
    assert first.stdout.readline() == "held\n"
    (tmp_path / "link").symlink_to("out")
    for same in ("out", "./out/../out", "link"):
        with pytest.raises(UserError, match=rf"another run \(process {first.pid}\)"):
            claim(tmp_path / same)
    claim(tmp_path / "another")
    first.kill()
    first.wait()
    # the kernel freed it; the file that is left is no obstacle
    claim(tmp_path / "out")
    claim(tmp_path / "out")
    AT_END.close()
    assert [p.name for p in tmp_path.iterdir()] == ["link"]


def other_inode(one, other) -> bool:
    return False


@pytest.mark.parametrize("code", ["ENOLCK", "EIO", "EACCES", "ENOTCONN", "unstable inodes"])
def test_without_locks_a_run_goes_on_and_removes_nothing(tmp_path, monkeypatch, capsys, code):
    def flock(*args):
        raise OSError(getattr(errno, code), code)

    left = tmp_path / f".out.{a_dead_pid()}.part"  # of a run on another host, perhaps
    left.mkdir()
    if code == "unstable inodes":
        monkeypatch.setattr(folders.os.path, "samestat", other_inode)
    else:
        monkeypatch.setattr(folders.fcntl, "flock", flock)
    claim(tmp_path / "out")
    claim(tmp_path / "out")
    assert capsys.readouterr().out.count("has no locks; start one run at a time") == 1
    assert list(tmp_path.iterdir()) == [left]
    # a forked helper has nothing to close
    child = os.fork()
    if child == 0:
        os._exit(1 if folders._held else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    AT_END.close()
    monkeypatch.undo()
    claim(tmp_path / "out")
    AT_END.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("here", [True, False])
def test_a_process_of_another_host_is_not_to_be_killed_here(tmp_path, monkeypatch, here):
    host = folders.socket.gethostname()
    first = script(HOLDS, tmp_path / "out")
    first.stdout.readline()
    assert (tmp_path / ".out.lock").read_text() == f"{host} {first.pid}"
    if not here:
        monkeypatch.setattr(folders.socket, "gethostname", lambda: "elsewhere")
    with pytest.raises(UserError) as error:
        claim(tmp_path / "out")
    first.kill()
    assert (f"kill {first.pid}" in str(error.value)) is here
    assert (f"on {host}" in str(error.value)) is not here


CLAIMS = "import sys; from instruct.run.folders import claim; claim(sys.argv[1])"


def test_a_notebook_holds_a_folder_only_while_a_command_runs(tmp_path):
    ends = []

    @command
    def cli():
        claim(tmp_path / "out")
        ends.append(script(CLAIMS, tmp_path / "out", stderr=subprocess.DEVNULL).wait())
        if len(ends) > 1:
            raise UserError("enough")

    cli()
    ends.append(script(CLAIMS, tmp_path / "out").wait())
    with pytest.raises(SystemExit):
        cli()
    ends.append(script(CLAIMS, tmp_path / "out").wait())
    # refused while the command runs, free after it, also after one that failed
    assert ends == [1, 0, 1, 0]


def test_only_the_main_process_claims(tmp_path, monkeypatch):
    first = script(HOLDS, tmp_path / "out")
    first.stdout.readline()
    monkeypatch.setenv("RANK", "1")
    claim(tmp_path / "out")
    first.kill()


def test_a_helper_that_outlives_the_run_does_not_hold_its_lock(tmp_path):
    helper = "import os\nif os.fork() == 0:\n    print(0, flush=True)\n    time.sleep(5)\n"
    forks = HOLDS.replace("print(", helper + "print(")
    first = script(forks, tmp_path / "out", start_new_session=True)
    # both have said so: the fork is done on either side
    first.stdout.readline(), first.stdout.readline()
    os.kill(first.pid, signal.SIGKILL)
    os.waitpid(first.pid, 0)
    claim(tmp_path / "out")
    AT_END.close()
    os.killpg(first.pid, signal.SIGKILL)


def test_a_folder_in_a_place_that_cannot_be_written_is_locked_inside(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(folders.os, "access", lambda path, mode: False)  # root may write anywhere
    claim(tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["_lock"]
    AT_END.close()
    assert list((tmp_path / "out").iterdir()) == []


def test_a_copied_folder_is_still_ours(tmp_path):
    write(tmp_path / "out", "old")
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    write(tmp_path / "copy", "new")
    assert json.loads((tmp_path / "copy" / WRITTEN).read_text()) == {"train.jsonl": 3}


def test_where_nothing_can_be_made_is_told_by_the_name_that_was_given():
    if not Path("/proc/self").is_dir():
        pytest.skip("no /proc here")
    with pytest.raises(UserError, match="/out.jsonl: nothing can be written in its folder: no f"):
        claim(Path("/proc/self/out.jsonl"))
