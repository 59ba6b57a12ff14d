"""A run's last line: said once, also by several processes, and not buried by their launcher.

accelerate launch and torchrun answer a child's exit code with a traceback of their own, after what
the child said; neither has a way to be told not to. So the process that fails ends the others and
the launcher itself: a launcher that is gone prints nothing, and its exit code is not 0.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import psutil

from instruct.processes import is_launcher, is_main_process, launcher_pid

PATIENCE = 10  # seconds in which the process that speaks ends the others


def say_last(line: str) -> None:
    """Prints `line` to stderr as the last of this run; of several processes the first to fail.

    What a launcher started ends with it: the caller has given back what it holds.
    """
    launchers = [] if _restarts() else _launchers()
    if not launchers or not _same_stderr(launchers[-1].pid):
        print(line, file=sys.stderr, flush=True)
        return
    # of several that fail together the main one knows why; it ends this one meanwhile
    if not is_main_process():
        time.sleep(1)
    claim = _claimed(launchers[-1].pid)
    if claim is None:
        time.sleep(PATIENCE)  # another one speaks, and ends this one: what came after followed
        return
    # told of its parent's end, it would say that it was stopped
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for process in launchers[0].children():
        if process.pid != os.getpid():
            _end(process.pid, signal.SIGKILL)
    print(line, file=sys.stderr, flush=True)
    # the one that a shell waits for first: it must not see the others end
    for process in reversed(launchers):
        _end(process.pid, signal.SIGKILL if _catches_sigterm(process.pid) else signal.SIGTERM)


def _restarts() -> bool:
    """Whether torchrun starts what fails once more (`--max_restarts`): it has to live for that."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS") or 0) > 0


def _launchers() -> list[psutil.Process]:
    """What launched this process, then what launched that: accelerate launch starts deepspeed's."""
    pid, found = launcher_pid(), []
    with contextlib.suppress(psutil.Error):  # it is gone
        process = psutil.Process(pid) if pid is not None else None
        while process is not None and is_launcher(process.pid):
            found.append(process)
            process = process.parent()
    return found


def _same_stderr(launcher: int) -> bool:
    """Whether a launcher's own stderr is this process' (Linux); one with `--tee` has its own."""
    try:
        return os.path.samestat(os.stat(f"/proc/{launcher}/fd/2"), os.fstat(2))
    except OSError:
        return False


def _claimed(launcher: int) -> socket.socket | None:
    """The right to speak for a launcher's run, held while the socket is open; None: taken."""
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        # an abstract name (Linux): no file, and gone with whoever holds it
        claim.bind(f"\0instruct-recipes-{os.getuid()}-{launcher}")
    except OSError:
        claim.close()
        return None
    return claim


def _catches_sigterm(pid: int) -> bool:
    # torchrun does, and prints; one killed harder looks out of memory to who reads exit codes
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        caught = next(line.split()[1] for line in lines if line.startswith("SigCgt"))
        return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)
    return True


def _end(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):  # gone already, or not ours to end
        os.kill(pid, number)
