"""A run's last line: under a launcher it comes after the launcher's own traceback, and once.

accelerate launch and torchrun answer a child's exit with a traceback of their own, which buries
what the child said. So a small process waits for the launcher's end and then says it.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

from instruct.processes import is_launcher, is_main_process, launcher_pid

# Waits for the process of a pidfd, whoever reaps it, then writes its standard input to stderr.
SPEAKER = """
import os, select, sys
line = sys.stdin.buffer.read()
end = select.poll()
end.register(int(sys.argv[1]), select.POLLIN)
end.poll(60_000)
os.write(2, line)
"""


def say_last(line: str) -> None:
    """Prints `line` to stderr as the last thing of this run; of several processes, the first."""
    launcher = launcher_pid()
    if launcher is None or not _outlives(launcher):
        # without a launcher's end to wait for there is one process, or one that speaks for all
        if launcher is None or is_main_process():
            print(line, file=sys.stderr, flush=True)
        return
    top = _topmost(launcher)
    claim = _claimed(top)
    if claim is None:
        return  # another process was first: what came after is its consequence
    watched = os.pidfd_open(top)
    speaker = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", SPEAKER, str(watched)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        pass_fds=(watched, claim.fileno()),
        # a launcher ends the sessions of its children
        start_new_session=True,
    )
    speaker.stdin.write(f"{line}\n".encode(sys.stderr.encoding or "utf-8", "backslashreplace"))
    speaker.stdin.close()
    # its speaker is not waited for, and Python would warn of that
    speaker.returncode = 0


def is_said() -> bool:
    """Whether another process of this run has the last word already."""
    launcher = launcher_pid()
    if launcher is None or not _outlives(launcher):
        return False
    claim = _claimed(_topmost(launcher))
    if claim is not None:
        claim.close()
    return claim is None


def _parent(pid: int) -> int:
    # after the name in brackets, which may hold anything: state, parent
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _topmost(pid: int) -> int:
    """The launcher that was started first: accelerate launch starts deepspeed's."""
    parent = _parent(pid)
    return _topmost(parent) if is_launcher(parent) else pid


def _outlives(launcher: int) -> bool:
    """Whether a process may live on after this launcher, and can learn of its end."""
    if not hasattr(os, "pidfd_open") or not Path("/proc/self/stat").exists():
        return False  # not Linux
    # a container, a service and a job of SLURM end with their first process
    try:
        return _parent(_topmost(launcher)) > 1 and "SLURM_STEP_ID" not in os.environ
    except OSError:
        return False  # it is gone


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
