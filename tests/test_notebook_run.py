"""notebooks/colab.ipynb: how it runs a command, shows what comes of it, and ends it."""

import io
import sys
import time
from contextlib import redirect_stdout

import psutil
import pytest
from notebook_tools import RUN, Player


@pytest.fixture
def helpers(tmp_path, monkeypatch) -> dict:
    """What the notebook's second cell defines."""
    return Player(monkeypatch, tmp_path).play(until=RUN)


def printed_by(helpers: dict, source: str) -> str:
    with redirect_stdout(io.StringIO()) as out:
        helpers["run"](sys.executable, "-c", source)
    # after the echo of the command
    return out.getvalue().partition(f"{source}'\n")[2] or out.getvalue()


def test_lines_come_when_they_are_printed(helpers, tmp_path):
    """The command waits until what it said was seen; it does not flush.

    Its echo has other letters than what it says.
    """
    seen = tmp_path / "seen"

    class Screen(io.StringIO):
        def write(self, text):
            if "here I am" in text:
                seen.touch()
            return super().write(text)

    source = (
        "import pathlib, time\nprint('here', 'I', 'am')\nend = time.monotonic() + 30\n"
        f"seen = pathlib.Path({str(seen)!r})\n"
        "while not seen.exists():\n    assert time.monotonic() < end; time.sleep(0.02)"
    )
    with redirect_stdout(Screen()):
        helpers["run"](sys.executable, "-c", source)


def test_a_command_that_fails_stops_the_notebook_with_its_last_lines(helpers):
    source = "import sys; print('before'); sys.exit('error: my sentence')"
    with redirect_stdout(io.StringIO()), pytest.raises(helpers["Stop"]) as stopped:
        helpers["run"](sys.executable, "-c", source)
    first, *last = str(stopped.value).splitlines()
    assert first.startswith("exit code 1 of ") and last == ["before", "error: my sentence"]
    # as Jupyter shows it: without Python's own lines above
    assert stopped.value._render_traceback_() == [f"Stopped: {stopped.value}"]


def test_a_command_that_is_not_there_stops_it_too(helpers):
    with redirect_stdout(io.StringIO()), pytest.raises(OSError):
        helpers["run"]("no-such-command")


BARS = """
import os, time
def say(text):
    os.write(1, text.encode())
    time.sleep(0.05)
for i in range(0, 101, 10):
    say(f"\\r{i:3d}%|bar| {i}/100 [00:01<00:00]")
    if i == 50:
        # as tqdm draws a bar below another, and wipes it
        for j in range(0, 101, 20):
            say(f"\\n\\rbelow: {j:3d}%|bar| {j}/100 [00:01<00:00]\\x1b[A")
        say("\\n\\r" + " " * 40 + "\\r\\x1b[A")
say("\\na line\\r\\n\\n")
say("\\r 10%|bar| 1/10 [00:01<00:09]")
say("\\nerror: it failed\\n")
"""


def test_bars_are_one_line_that_moves_and_lines_stay_lines(helpers):
    lines = printed_by(helpers, BARS).split("\n")
    stays = [line.split("\r")[-1].rstrip() for line in lines]
    bars = ["100%|bar| 100/100 [00:01<00:00]", " 10%|bar| 1/10 [00:01<00:09]"]
    assert stays == [bars[0], "a line", "", bars[1], "error: it failed", ""]
    # it did move, and what was longer before is covered
    states = lines[0].split("\r")
    assert any(state.startswith("below:  60%") for state in states)
    longest = 0
    for state in states:
        assert len(state) >= longest or state == states[0]
        longest = len(state.rstrip())


def test_a_line_that_a_library_prints_onto_a_bar_stays(helpers):
    source = 'print("\\r 10%|bar| 1/10 [00:01<00:09]UserWarning: look")\nprint("done")'
    assert "UserWarning: look\n" in printed_by(helpers, source)


def test_a_character_in_two_pieces_is_one(helpers):
    first, second = r'os.write(1, b"\xe2\x94")', r'os.write(1, b"\x81\n")'
    printed = printed_by(helpers, f"import os, time\n{first}; time.sleep(0.2)\n{second}")
    assert "━\n" in printed and "\ufffd" not in printed


def test_tqdm_moves_once_a_second(helpers):
    source = "import time\nfrom tqdm import tqdm\nfor _ in tqdm(range(400)):\n    time.sleep(0.002)"
    assert printed_by(helpers, source).count("\r") <= 6


def test_passwords_of_addresses_are_not_shown(helpers):
    with redirect_stdout(io.StringIO()) as out, pytest.raises(helpers["Stop"]) as stopped:
        helpers["run"](
            sys.executable, "-c", "raise SystemExit(3)", "https://me:secret@example.org/x"
        )
    assert "secret" not in out.getvalue() + str(stopped.value)


LAUNCHER = """
import pathlib, subprocess, sys, time
stubborn = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
try:
    time.sleep(1)
    pathlib.Path("child").write_text(str(child.pid))
    time.sleep(600)
except KeyboardInterrupt:
    pathlib.Path("ended_well").touch()
"""


def test_an_interrupt_ends_the_command_and_all_that_it_started(helpers, tmp_path):
    """As Jupyter's stop button: an exception in the middle of reading."""

    def interrupted(output):
        end = time.monotonic() + 60
        while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
            assert time.monotonic() < end
            time.sleep(0.02)
        raise KeyboardInterrupt

    helpers["show"] = interrupted
    with redirect_stdout(io.StringIO()), pytest.raises(KeyboardInterrupt):
        helpers["run"](sys.executable, "-c", LAUNCHER)
    assert (tmp_path / "ended_well").exists()
    child = int((tmp_path / "child").read_text())
    end = time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, "a grandchild lives on"
        time.sleep(0.02)


def test_how_long_it_took_is_said_of_a_cell_that_fails_too(helpers):
    with redirect_stdout(io.StringIO()) as out, pytest.raises(ValueError):
        with helpers["timed"]("Something"):
            raise ValueError
    assert out.getvalue() == "━━ Something\n━━ Something: took 0 min 0 s\n"
