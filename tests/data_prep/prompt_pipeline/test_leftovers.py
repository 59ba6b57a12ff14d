"""Killed at any moment: no half output, and the next run clears up."""

import os
import shutil
import signal
import subprocess
import sys
import time

from conftest import REPO
from prompt_tools import SPLITS, adds_up, random_log, rows_of, write_lines

from instruct.folders import clear_leftovers


def test_a_folder_moved_away_by_a_killed_run_comes_back(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".out.{dead.pid}.old").mkdir()
    (tmp_path / f".out.{dead.pid}.old" / "train.parquet").write_text("kept")
    (tmp_path / f".out.{dead.pid}.part").mkdir()
    (tmp_path / f".out.{os.getpid()}.part").mkdir()  # of a run that lives
    clear_leftovers(tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f".out.{os.getpid()}.part", "out"]
    assert (tmp_path / "out/train.parquet").read_text() == "kept"


def test_killed_at_any_moment_leaves_no_half_output(tmp_path):
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
