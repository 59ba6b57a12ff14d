"""The line that an evaluation ends with can be pasted into the shell it was started from."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO

from instruct.evaluation.terminal import next_command

REPORT = {"models": {"sft": {"path": "out/sft", "mode": "chat"}}}


@pytest.fixture()
def in_venv(tmp_path, monkeypatch) -> Path:
    """The repo's folder with a venv in it that nobody activated; PATH begins with it (`make`)."""
    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "prefix", str(venv))
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    monkeypatch.setattr(sys, "executable", str(venv / "bin" / "python"))
    monkeypatch.setenv("PATH", f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.chdir(tmp_path)
    return venv


def word(report: dict = REPORT) -> str:
    return shlex.split(next_command(report))[0]


def test_without_activation_it_is_the_interpreters_path(in_venv, monkeypatch, tmp_path):
    assert word() == ".venv/bin/python"
    # the user's own environment is another one
    monkeypatch.setenv("VIRTUAL_ENV", "/somewhere/else")
    assert word() == ".venv/bin/python"
    # from a folder that does not hold it
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert word() == str(in_venv / "bin" / "python")


def test_activated_it_is_python(in_venv, monkeypatch):
    monkeypatch.setenv("VIRTUAL_ENV", str(in_venv))
    assert word() == "python"


def test_without_any_venv_it_is_python_where_that_is_this_one(in_venv, monkeypatch):
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)
    assert word() == "python"
    monkeypatch.setenv("PATH", "/nowhere")
    assert word() == ".venv/bin/python"


@pytest.mark.parametrize("below", [".", "docs"])
def test_pasted_into_a_fresh_shell_it_runs(below, monkeypatch):
    """With the PATH of a user who has activated nothing, in the folder it was printed in."""
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.chdir(REPO / below)
    python, chat, *rest = shlex.split(next_command(REPORT))
    assert rest == ["--models", "sft=out/sft"]
    assert Path(chat).is_file() and Path(chat).resolve() == REPO / "recipes" / "chat.py"
    assert (chat == "recipes/chat.py") == (below == ".")
    venv = os.path.dirname(sys.executable)
    path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if p != venv)
    line = shlex.join([python, "-c", "import transformers.utils"])
    env = {**os.environ, "PATH": path}
    if sys.prefix != sys.base_prefix:
        subprocess.run(line, shell=True, cwd=REPO / below, env=env, check=True, timeout=300)
