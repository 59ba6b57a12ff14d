"""Ctrl-C at any moment of a command is one line: also while libraries are being imported."""

import signal
import subprocess
import sys

import pytest
from conftest import REPO, SCRIPT_ENV

from instruct.command import ctrl_c

SLOW = "print('importing', flush=True); import time; time.sleep(60)\n"
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
STARTS = [
    *([f"recipes/{name}.py"] for name in ("sft", "reward", "ppo", "evaluate", "chat")),
    ["-m", "recipes.sft"],
    *(["-m", f"data_prep.{name}"] for name in ("demonstrations", "comparisons", "prompts")),
]


@pytest.mark.parametrize("start", STARTS, ids=" ".join)
def test_ctrl_c_while_libraries_are_imported_is_one_line(tmp_path, start):
    for name in ("torch", "transformers", "accelerate", "trl", "duckdb", "numpy"):
        (tmp_path / f"{name}.py").write_text(SLOW)
    env = {**SCRIPT_ENV, "PYTHONPATH": f"{tmp_path}:{SCRIPT_ENV['PYTHONPATH']}"}
    command = [sys.executable, *start, "--output_dir", "a b"]
    run = subprocess.Popen(command, cwd=REPO, env=env, text=True, **PIPES)
    assert run.stdout.readline() == "importing\n"
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=30)
    assert run.returncode == 130
    assert said == f"stopped by Ctrl-C; to continue: {' '.join(command[:-1])} 'a b'\n"


def test_a_library_of_ours_changes_no_signal_of_a_program_that_imports_it():
    assert signal.getsignal(signal.SIGINT) is not ctrl_c._leave
    code = "import signal, data_prep, recipes.chat; h = signal.getsignal(signal.SIGINT); "
    code += "print(h is signal.default_int_handler)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, env=SCRIPT_ENV, capture_output=True, text=True
    )
    assert done.stdout == "True\n", done.stderr
