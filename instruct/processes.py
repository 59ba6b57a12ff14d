"""Processes: which one speaks for a run, what was typed to start it, and whom it ends with."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

# programs and modules that start trainers
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


class Launcher(NamedTuple):
    """What started this process and is watched by it."""

    pid: int
    words: list[str]  # its command line


_launcher: Launcher | None = None
_overwrites: bool | None = None  # None: not a recipe


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
    program = program_of(command_line(pid))
    return Path(program).name in LAUNCHERS or program.endswith("accelerate/commands/launch.py")


def program_of(words: list[str]) -> str:
    """What a command line runs: the script or module of an interpreter, else its first word."""
    if not _is_python(words):
        return words[0] if words else ""
    rest = iter(words[1:])
    for word in rest:
        if word in ("-m", "-X", "-W"):
            value = next(rest, "")
            if word == "-m":
                return value
        elif not word.startswith("-"):
            return word
    return ""


def _is_python(words: list[str]) -> bool:
    return bool(words) and Path(words[0]).name.startswith("python")


def without_flag(words: list[str], flag: str, least: str, instead: str | None = None) -> list[str]:
    """A command line less a flag and its value, however argparse lets it be written.

    Args:
        flag: as `--hub_token`; with dashes, with `=` and abbreviated it is found as well.
        least: its shortest beginning that stands for no other flag.
        instead: what stands in the place of the value; without it the flag goes, too.
    """
    kept, is_value = [], False
    for word in words:
        name, equals, _ = word.partition("=")
        # a flag that may stand alone is followed by the next one
        if is_value and not word.startswith("--"):
            kept += [instead] if instead else []
            is_value = False
            continue
        name = "--" + name[2:].replace("-", "_") if name.startswith("--") else ""
        named = name.startswith(least) and flag.startswith(name)
        is_value = named and not equals
        if not named:
            kept.append(word)
        elif instead:
            kept.append(word.split("=")[0] + (f"={instead}" if equals else ""))
    return kept


def without_token(words: list[str], instead: str | None = None) -> list[str]:
    """A command line less `--hub_token`, or with `instead` for its value."""
    return without_flag(words, "--hub_token", "--hub_t", instead)


def without_overwrite(words: list[str]) -> list[str]:
    """A command line less `--overwrite_output_dir`: it would remove what was just made."""
    return without_flag(words, "--overwrite_output_dir", "--ov")


def _words() -> list[str]:
    # kept from the start: by now the launcher may be gone
    if _launcher:
        return list(_launcher.words)
    # a command that still imports does not know its launcher yet
    parent = os.getppid()
    return command_line(parent) if is_launcher(parent) else list(sys.orig_argv)


def note_overwrites(value: bool) -> None:
    """Tells whether a recipe is run with `--overwrite_output_dir`, typed or in its YAML file."""
    global _overwrites
    _overwrites = value


def less_overwrite() -> str:
    """What differs in "the same command again" so that it continues; empty where nothing does."""
    if _overwrites:
        return " with --overwrite_output_dir False"
    typed_it = _overwrites is None and without_overwrite(_words()) != _words()
    return " without --overwrite_output_dir" if typed_it else ""


def typed() -> str:
    """What a user types to go on with this command, launcher included, without a token."""
    words = without_token(_words(), instead="HIDDEN")
    # one that is off stays: it may win over the file
    words = words if _overwrites is False else without_overwrite(words)
    words += ["--overwrite_output_dir", "False"] if _overwrites else []
    return shlex.join(words)


def end_with_parent() -> None:
    """Under accelerate launch, torchrun or deepspeed this process ends when they do.

    Without it a trainer whose launcher was killed would write on, beside the next one. A process
    that a shell started (also with nohup, setsid or &) outlives that shell.
    """
    global _launcher
    parent = os.getppid()
    launched = any(name in os.environ for name in LAUNCHED)
    if not is_launcher(parent):
        # given to init: the launcher was killed while this process was importing. In a container
        # process 1 may be a Python program of the user's that started this one
        if launched and parent == 1 and not _is_python(command_line(1)):
            print("the launcher of this run was killed, so it ends too", file=sys.stderr)
            raise SystemExit(143)
        return
    _launcher = Launcher(pid=parent, words=command_line(parent))
    if sys.platform.startswith("linux"):
        _signal_at_parents_death()
    # elsewhere the only one, here for a main thread that is deep in a long call
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def launcher_pid() -> int | None:
    """The process that launched this one and lives; None where there is none."""
    return None if _launcher is None or launcher_is_gone() else _launcher.pid


def launcher_is_gone() -> bool:
    """Whether this process was launched, and only it is left."""
    return _launcher is not None and os.getppid() != _launcher.pid


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
