"""Ctrl-C while a command still imports (torch takes seconds) is one line, too. Imported first.

From `command` on, Ctrl-C is Python's `KeyboardInterrupt` again, which unwinds what has begun.
"""

import os
import signal
import sys
import threading
from pathlib import Path

from instruct.processes import is_main_process, program_of, typed

COMMANDS_IN = ("data_prep", "recipes")


def said_by_ctrl_c() -> str:
    """The last line of a command that is stopped."""
    return f"stopped by Ctrl-C; to continue: {typed()}"


def _leave(number, frame) -> None:
    if is_main_process():
        print(said_by_ctrl_c(), file=sys.stderr, flush=True)
    # nothing has begun that could be left half-done; an exception would pass through C code that
    # makes other errors of it
    os._exit(130)


def leave_at_once() -> None:
    """Ctrl-C ends this process at once, where it runs one of our commands; no test, no notebook."""
    program = program_of(sys.orig_argv)
    ours = program.split(".")[0] in COMMANDS_IN or Path(program).parent.name in COMMANDS_IN
    # a handler of the user's own stays, and so does deafness (of what a shell started with &)
    untouched = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours and untouched and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _leave)


def raise_again() -> None:
    """Ctrl-C is a `KeyboardInterrupt` from here on."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


leave_at_once()
