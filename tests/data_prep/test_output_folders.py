"""How every data command treats its output: whose it is, full disks, kills, two at once."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from command_tools import stops
from conftest import REPO, SCRIPT_ENV, write_jsonl
from prompt_tools import SPLITS, adds_up, random_log, rows_of, write_lines

from data_prep import comparisons, demonstrations, label, prompts, sample
from instruct.files import load_rows
from instruct.run.folders import WRITTEN

FOLDERS = {"comparisons": comparisons, "demonstrations": demonstrations, "prompts": prompts}
FILES = {"sample": sample, "label": label}
COMMANDS = FOLDERS | FILES


@pytest.fixture()
def call(tmp_path, tiny_model) -> Callable[[str, Path], list[str]]:
    """The arguments of a command that writes to a path, its input in `tmp_path/in`."""
    source = tmp_path / "in"
    source.mkdir()
    texts = [f"tell me of {what}" for what in ("tea", "rain", "chess", "snow")]
    ranked = {"completions": ["x", "y"], "ranks": [1, 2]}
    rows = {
        "comparisons": [{"prompt": text, **ranked} for text in texts],
        "demonstrations": [{"prompt": text, "completion": "I like it"} for text in texts],
        "prompts": [{"prompt": text, "user_id": text} for text in texts],
        "sample": [{"prompt": text, "id": text} for text in texts],
        "label": [{"prompt": text, "completions": ["I love it", "bad"]} for text in texts],
    }
    more = {
        "comparisons": ["--validation", 0],
        "demonstrations": ["--validation", 0],
        "prompts": ["--num_proc", 1, "--splits", "train=1"],
        "sample": ["--model_name_or_path", tiny_model, "--max_new_tokens", 2, "--num_outputs", 2],
        "label": ["--labeler", "scripted"],
    }

    def arguments(name: str, output: Path) -> list[str]:
        file = write_jsonl(source / f"{name}.jsonl", rows[name])
        flag = "--output_dir" if name in FOLDERS else "--output"
        return list(map(str, ["--input", file, flag, output, *more[name]]))

    return arguments


def output_of(name: str, folder: Path) -> Path:
    return folder / ("out" if name in FOLDERS else "out.jsonl")


def in_folder(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def names_in(folder: Path) -> list[str]:
    """What lies there, but the record that `sample` keeps beside its output."""
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".run")


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize(
    "files",
    [
        {"thesis/final.tex": "ten years"},
        {"thesis/final.tex": "ten years", "report.json": "{}"},
        {"train.jsonl": '{"mine": 1}\n', "README.md": "my data"},
        {"train.parquet": "mine", "report.json": '{"in": 3}'},
    ],
)
def test_a_folder_of_somebodys_files_is_left_as_it_is(tmp_path, call, capsys, name, files):
    for file, text in files.items():
        (tmp_path / "home" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "home" / file).write_text(text)
    error = stops(COMMANDS[name].main, call(name, tmp_path / "home"), capsys)
    assert "which this command did not write" in error and error.count("\n") == 1
    assert {f: (tmp_path / "home" / f).read_text() for f in in_folder(tmp_path / "home")} == files
    assert names_in(tmp_path) == ["home", "in"]


@pytest.mark.parametrize("name", FOLDERS)
def test_an_output_of_an_earlier_version_is_replaced(tmp_path, call, name):
    out = tmp_path / "out"
    COMMANDS[name].main(call(name, out))
    whole = in_folder(out)
    (out / WRITTEN).unlink()
    COMMANDS[name].main(call(name, out))
    assert in_folder(out) == whole and WRITTEN in whole
    # as data it is not there
    assert len(load_rows(out)) == len(load_rows(tmp_path / "in" / f"{name}.jsonl"))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_second_run_beside_a_living_one_is_refused(tmp_path, call, capsys, name):
    holds = "import sys, time; from instruct.run.folders import claim; claim(sys.argv[1]); "
    holds += "print(1, flush=True); time.sleep(60)"
    out = output_of(name, tmp_path)
    command = [sys.executable, "-c", holds, str(out)]
    first = subprocess.Popen(command, env=SCRIPT_ENV, stdout=subprocess.PIPE)
    first.stdout.readline()
    assert f"another run (process {first.pid})" in stops(
        COMMANDS[name].main, call(name, out), capsys
    )
    first.kill()
    first.wait()
    COMMANDS[name].main(call(name, out))
    assert names_in(tmp_path) == ["in", out.name]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_dead_runs_leftovers_go(tmp_path, call, name):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    out = output_of(name, tmp_path)
    (tmp_path / f".{out.name}.{dead.pid}.part").mkdir()
    # of the record of a command that writes one file
    (tmp_path / f".{out.name}.run.{dead.pid}.part").write_text("{")
    COMMANDS[name].main(call(name, out))
    # where the output is there already, too
    (tmp_path / f".{out.name}.{dead.pid}.old").mkdir()
    COMMANDS[name].main(call(name, out))
    assert names_in(tmp_path) == ["in", out.name]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_no_more_is_one_sentence(tmp_path, call, capsys, monkeypatch, name, code):
    out, fsync = output_of(name, tmp_path), os.fsync

    def refuses(*args):
        raise OSError(code, os.strerror(code))

    # where every file and every folder passes
    monkeypatch.setattr(os, "fsync", refuses)
    error = stops(COMMANDS[name].main, call(name, out), capsys)
    assert error.count("error:") == 1 and "Traceback" not in error
    assert {errno.ENOSPC: "space left", errno.EROFS: "read-only"}[code] in error.lower()
    monkeypatch.setattr(os, "fsync", fsync)
    assert set(names_in(tmp_path)) <= {"in", f"{out.name}.partial"}
    COMMANDS[name].main(call(name, out))
    assert names_in(tmp_path) == ["in", out.name]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_in_the_way_is_one_sentence(tmp_path, call, capsys, name):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file/out.jsonl", tmp_path / "file/a/out.jsonl"):
        error = stops(COMMANDS[name].main, call(name, place), capsys)
        assert "file" in error and "Traceback" not in error
    taken = tmp_path / "file" if name in FOLDERS else tmp_path / "in"
    assert "file" in stops(COMMANDS[name].main, call(name, taken), capsys)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["comparisons", "demonstrations", "sample", "label"])
@pytest.mark.parametrize("folder", ["a'b\"c", "run[1]", "two words", "Ü 学习", "*?{x}"])
def test_paths_of_any_kind(tmp_path, call, name, folder):
    out = output_of(name, tmp_path / folder)
    COMMANDS[name].main(call(name, out))
    assert names_in(tmp_path / folder) == [out.name]
    assert len(load_rows(out)) == 4
    # and as an input
    argv = call(name, tmp_path / folder / f"second{out.suffix}")
    argv[1] = write_jsonl(tmp_path / folder / "in.jsonl", load_rows(argv[1]).to_list())
    COMMANDS[name].main(argv)


def test_samples_that_are_there_need_no_batches_any_more(tmp_path, call):
    sample.main(call("sample", tmp_path / "out.jsonl"))
    (tmp_path / "out.jsonl.partial").write_text("{}\n")
    sample.main(call("sample", tmp_path / "out.jsonl"))
    assert names_in(tmp_path) == ["in", "out.jsonl"]


def test_killed_prompts_leave_no_process(tmp_path):
    rows = [{"prompt": f"tell me of tea {i} " * 40, "user_id": i % 99} for i in range(60_000)]
    log = write_jsonl(tmp_path / "log.jsonl", rows)
    command = [sys.executable, "-m", "data_prep.prompts", "--input", log, "--num_proc", "2"]
    run = subprocess.Popen(
        [*command, "--output_dir", str(tmp_path / "out")],
        cwd=REPO,
        env=SCRIPT_ENV,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    helpers, started = [], time.time()
    # a fork server, a tracker of resources and two workers
    while len(helpers) < 4 and run.poll() is None and time.time() < started + 60:
        time.sleep(0.1)
        helpers = psutil.Process(run.pid).children(recursive=True)
    assert len(helpers) == 4
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert psutil.wait_procs(helpers, timeout=10)[1] == []


def test_prompts_killed_at_any_moment_leave_no_half_output(tmp_path):
    source = write_lines(tmp_path / "log.jsonl", random_log(6, 3_000))
    command = [
        sys.executable,
        "-m",
        "data_prep.prompts",
        "--input",
        str(source),
        "--output_dir",
        str(tmp_path / "out"),
        "--num_proc",
        "1",
    ]
    started = time.time()
    subprocess.run(command, cwd=REPO, check=True, capture_output=True)
    whole, took = {n: rows_of(tmp_path / "out", n) for n in SPLITS}, time.time() - started
    shutil.rmtree(tmp_path / "out")
    killed = 0
    for share in (0.5, 0.7, 0.8, 0.9, 0.97):
        process = subprocess.Popen(
            command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(took * share)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        if (tmp_path / "out").exists():
            adds_up(tmp_path / "out")
    assert killed >= 1
    assert (
        list(tmp_path.glob(".out.*")) or (tmp_path / "out").exists()
    )  # a killed run may leave its work folder
    subprocess.run(command, cwd=REPO, check=True, capture_output=True)
    assert {n: rows_of(tmp_path / "out", n) for n in SPLITS} == whole
    assert not list(tmp_path.glob(".out.*"))  # and the next run clears it


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("free", [0, 4096])  # a page: the lock fits, the output does not
def test_a_disk_that_really_is_full(tmp_path, call, capsys, name, free):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        ballast = disk / "ballast"
        with pytest.raises(OSError, match="No space"):
            ballast.write_bytes(b"x" * (1 << 17))
        os.truncate(ballast, ballast.stat().st_size - free)
        out = output_of(name, disk)
        error = stops(COMMANDS[name].main, call(name, out), capsys)
        assert "space left" in error and "Traceback" not in error
        ballast.unlink()
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        COMMANDS[name].main(call(name, out))
        assert names_in(disk) == [out.name]
        # and one that cannot be written
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        again = out.with_name(f"again{out.suffix}")
        assert "read-only" in stops(COMMANDS[name].main, call(name, again), capsys).lower()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
