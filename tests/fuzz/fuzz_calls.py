"""Runs a command in this process and judges how it ended.

It may end well, with every row used or reported, or in one sentence and exit code 2. Anything else
is a fault: a traceback, exit code 1, a hang, a half-written file.
"""

import contextlib
import faulthandler
import io
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from accelerate.state import AcceleratorState, GradientState
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

LIMIT = 60  # seconds for one input: ten times what the slowest takes
# flags of every type get each of them
BAD_VALUES = ("0", "-1", "nan", "inf", "-inf", "1.5", "", "x", "None", "[]", "{}", "off", "日本")


class Hang(BaseException):
    """Not an Exception: no command may take it for one of its errors."""


@dataclass
class Ended:
    """How a call ended: exit code, and what was printed."""

    code: int
    out: str
    err: str


def call(main: Callable, argv: list) -> Ended:
    """Runs `main(argv)`.

    Raises:
        AssertionError: it neither ended well nor in one sentence.
        Hang: it took longer than `LIMIT`.
    """
    out, err = io.StringIO(), io.StringIO()
    shown = logging.StreamHandler(err)
    logging.getLogger().addHandler(shown)
    code, trace = 0, ""
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _limited():
            main([str(a) for a in argv])
    except SystemExit as stop:
        code = stop.code or 0
        trace = "".join(traceback.format_exception(stop.__cause__)) if stop.__cause__ else ""
    except Exception:
        code, trace = 1, traceback.format_exc()
    finally:
        logging.getLogger().removeHandler(shown)
        # a run's precision must not be the next one's
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    ended = Ended(code, out.getvalue(), err.getvalue())
    said = ended.err.strip().splitlines()[-1:] or [""]
    one = sum(line.startswith("error: ") for line in ended.err.splitlines()) == 1
    good = code == 0 or (code == 2 and one and said[0].startswith("error: "))
    assert good, f"{argv}\nexit code {code}\n{ended.err[-2000:]}\n{trace[-4000:]}"
    assert "Traceback" not in ended.err, ended.err[-4000:]
    return ended


# formats of which a row makes several of ours, or several make one
SEVERAL = ("OpenAssistant trees", "OpenAssistant messages", "an answer a row", "PandaLM")


def rows_used(ended: Ended, path: str, rows: int) -> int | None:
    """How many rows of a file were used; every other one was told.

    Returns:
        None where that is not the number of rows made of them.
    """
    read = rf"^{re.escape(path)}: read as: (.+), (\d+) of (\d+) rows"
    name, used, total = re.findall(read, ended.out, re.M)[0]
    one_by_one = len(re.findall(rf"^{re.escape(path)}, \w+ \d+: ", ended.out, re.M))
    more = sum(map(int, re.findall(rf"^{re.escape(path)}: (\d+) more do not", ended.out, re.M)))
    assert int(total) == rows == int(used) + one_by_one + more, ended.out
    return None if name in SEVERAL else int(used)


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(number, frame):
        raise Hang(f"no end after {LIMIT} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    # a hang in C code hears no signal: then at least it says where, and ends
    faulthandler.dump_traceback_later(3 * LIMIT, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def fresh_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=_memory()))
    try:
        yield folder
        # nobody is writing any more
        half = [p.name for p in folder.rglob("*") if p.name.endswith((".part", ".old"))]
        assert not half, half
    finally:
        shutil.rmtree(folder)


def _memory() -> str | None:
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


def fuzz(check: Callable, count: int, number: int, **strategies: st.SearchStrategy) -> None:
    """Calls `check` with so many drawn inputs; the same for the same number."""

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        # none is kept between runs: the number alone decides
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(**strategies)
    def checked(**drawn):
        check(**drawn)

    checked()


@st.composite
def flags(draw, known: dict[str, tuple | st.SearchStrategy]) -> list[str]:
    """None of these flags, or one or two with a right or a wrong value.

    Args:
        known: flag -> right values.
    """
    argv = []
    for name in draw(st.lists(st.sampled_from(sorted(known)), max_size=2, unique=True)):
        right = st.sampled_from(known[name]) if known[name] else st.nothing()
        value = draw(right | st.sampled_from(BAD_VALUES))
        # `--flag -inf` would be two flags to argparse
        argv.append(f"--{name}={value}")
    return draw(st.sampled_from([[], argv]))
