"""Processes: which one speaks for a run, what was typed to start it, and whom it ends with."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

# what the command lines of launchers hold, as a word of its own or at a word's end
LAUNCHERS = (
    "accelerate",
    "accelerate-launch",
    "accelerate.commands.launch",
    "accelerate.commands.accelerate_cli",
    "torchrun",
    "torch.distributed.run",
    "torch.distributed.launch",
    "deepspeed",
)
# set by accelerate launch and by torchrun for what they start, and by nobody else
LAUNCHED = ("ACCELERATE_DYNAMO_MODE", "TORCHELASTIC_RUN_ID")
GRACE = 2  # seconds from SIGTERM to the hard end


def is_main_process() -> bool:
    """Whether this process speaks and writes for the run: the first of all, on the first node."""
    # by the launchers' own variable: asking torch would start the process group
    return os.environ.get("RANK", "0") == "0"


def command_line(pid: int) -> list[str]:
    """The words of a process' command line, empty where it is gone or cannot be seen."""
    file = Path(f"/proc/{pid}/cmdline")
    if Path("/proc/self/cmdline").exists():
        try:
            return [os.fsdecode(word) for word in file.read_bytes().split(b"\0")[:-1]]
        except OSError:
            return []
    try:  # macOS
        shown = subprocess.run(
            ["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
    except OSError:
        return []
    return shown.stdout.split()


def is_launcher(pid: int) -> bool:
    """Whether a process is accelerate launch, torchrun or deepspeed."""
    # the interpreter, its flags and the program; what comes after are the script's own words
    words = command_line(pid)[:4]
    return any(
        Path(word).name in LAUNCHERS or word.endswith(("accelerate/commands/launch.py",))
        for word in words
    )


def typed() -> str:
    """What a user types to start this command again, launcher included, without a token."""
    words = command_line(os.getppid()) if is_launcher(os.getppid()) else []
    words = list(words or sys.orig_argv)
    for at, word in enumerate(words):
        if "token" in word and word.startswith("--"):
            # its value, as the next word or after "="
            if "=" in word:
                words[at] = word.split("=")[0] + "=…"
            elif at + 1 < len(words):
                words[at + 1] = "…"
    return shlex.join(words)


def end_with_parent() -> None:
    """Under accelerate launch, torchrun or deepspeed this process ends when they do.

    Without it a trainer whose launcher was killed would write on, beside the next one. A process
    that a shell started (also with nohup, setsid or &) outlives that shell.
    """
    parent = os.getppid()
    launched = any(name in os.environ for name in LAUNCHED)
    if not is_launcher(parent):
        # given to init: the launcher was killed while this process was importing
        if launched and parent == 1:
            print("the launcher of this run was killed, so it ends too", file=sys.stderr)
            raise SystemExit(143)
        return
    if sys.platform.startswith("linux"):
        _signal_at_parents_death()
    # elsewhere the only one, here for a main thread that is deep in a long call
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _signal_at_parents_death(number: int = signal.SIGTERM) -> None:
    """Asks the kernel (Linux) for a signal at the parent's death."""
    import ctypes

    set_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(set_death_signal, int(number), 0, 0, 0)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    if not sys.platform.startswith("linux"):
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    # not sys.exit, which would end this thread alone
    os._exit(143)
