"""torture.py's runs: a stage in a fork of this process, what it printed, left and wrote."""

import json
import os
import random
import secrets
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LIMIT = 120  # seconds; a run takes a few
FILE_EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")

# Not the same in two unbroken runs: times, and hashes and pickles of what holds times.
VOLATILE_KEYS = {"seconds", "timestamp", "total_flos", "created", "pid"}
VOLATILE_ENDS = ("_runtime", "_per_second")
NOT_COMPARED = ("training_args.bin", "files.json", "README.md", "report.md", "events.out")


@dataclass
class Stage:
    """A command, and how it is run on the inputs in `source`."""

    name: str
    module: str
    argv: Callable[[Path], list]
    entry: str = "main"
    trains: bool = False

    def main(self) -> Callable:
        return getattr(sys.modules[self.module], self.entry)


################
# One run: a fork of this process
################


@dataclass
class Outcome:
    """How a run ended: exit code (negative: the signal), what it printed, processes it left."""

    code: int
    said: str
    left: int
    seconds: float

    @property
    def one_sentence(self) -> bool:
        """Refused with one line that starts with `error:`, and no traceback."""
        # a progress bar may be drawn once more after it
        lines = self.said.replace("\r", "\n").splitlines()
        told = sum("error: " in line for line in lines)
        return self.code == 2 and told == 1 and "Traceback" not in self.said


def watch_files(root: Path, at: Callable[[int, str], None]) -> None:
    """Calls `at(number, event)` before each change to a file under `root`, in this process."""
    me, below, count = os.getpid(), str(root), 0

    def hook(name: str, args: tuple) -> None:
        nonlocal count
        if os.getpid() != me:
            return
        if name == "open":
            path, _, flags = args
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            hit = isinstance(path, str | bytes | os.PathLike) and writes
            hit = hit and os.fsdecode(path).startswith(below)
        else:
            # of a whole tree, files are removed by their names alone
            hit = name in FILE_EVENTS
            hit = hit and (str(args[0]).startswith(below) or name in ("os.remove", "os.rmdir"))
        if hit:
            count += 1
            at(count, f"{name} {args[0]}")

    sys.addaudithook(hook)


def run_forked(stage: Stage, root: Path, at: Callable[[int, str], None] | None = None) -> int:
    """Starts `stage` in a fork with a session of its own; its output goes to `root`.log."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        os.setsid()
        # a shell starts what runs in its background deaf to Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)
        log = os.open(f"{root}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        # helper processes would else import this program first, for seconds
        vars(sys.modules["__main__"]).pop("__file__", None)
        # a run makes a secret of its own where it finds none: the same one here, to compare bytes
        secrets.token_hex = lambda size: "5e" * size
        argv = [str(word) for word in stage.argv(root)]
        sys.argv = [stage.name, *argv]
        if at is not None:
            watch_files(root, at)
        stage.main()(argv)
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def session_members(session: int) -> list[int]:
    """Living processes of a session, from /proc/PID/stat (a name may hold spaces)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, of = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue  # gone meanwhile
            if int(of) == session and state != "Z":
                found.append(int(entry.name))
    return found


def wait_for(pid: int, root: Path) -> Outcome:
    started = time.monotonic()
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() - started > LIMIT:
            os.kill(pid, signal.SIGKILL)
            ended = os.waitpid(pid, 0)
            break
        time.sleep(0.005)
    seconds = time.monotonic() - started
    # helpers notice that their parent is gone within a moment
    patience = time.monotonic() + 10
    while (left := session_members(pid)) and time.monotonic() < patience:
        time.sleep(0.05)
    for helper in left:
        os.kill(helper, signal.SIGKILL)
    said = Path(f"{root}.log").read_text(errors="replace")
    return Outcome(os.waitstatus_to_exitcode(ended[1]), said, len(left), seconds)


def run(stage: Stage, root: Path, at: Callable[[int, str], None] | None = None) -> Outcome:
    return wait_for(run_forked(stage, root, at), root)


################
# What a run left
################


def without_volatile(value):
    if isinstance(value, dict):
        return {
            key: without_volatile(item)
            for key, item in value.items()
            if key not in VOLATILE_KEYS and not key.endswith(VOLATILE_ENDS) and "time/" not in key
        }
    return [without_volatile(item) for item in value] if isinstance(value, list) else value


def content(file: Path) -> bytes:
    """A file's bytes; of JSON and JSONL what is in it, less times."""
    raw = file.read_bytes()
    try:
        if file.name == ".written":
            # sizes of the files beside it, of which some hold times
            return json.dumps(sorted(json.loads(raw))).encode()
        if file.suffix == ".json":
            return json.dumps(without_volatile(json.loads(raw)), sort_keys=True).encode()
        if file.suffix == ".jsonl":
            rows = [without_volatile(json.loads(line)) for line in raw.splitlines()]
            return json.dumps(rows, sort_keys=True).encode()
    except ValueError:
        return raw
    return raw


def tree(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): content(path)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def differing(got: dict[str, bytes], expected: dict[str, bytes], ignored: set[str]) -> list[str]:
    """Files that are missing or hold something else."""
    return [
        name
        for name, known in expected.items()
        if name not in got or (name not in ignored and got[name] != known)
    ]


def damage(file: Path, how: str) -> None:
    size = file.stat().st_size
    if how == "removed":
        file.unlink()
    elif how == "truncated":
        os.truncate(file, size // 2)
    else:
        file.write_bytes(bytes(size) if how == "zeroed" else random.Random(0).randbytes(size))
