"""Who owns an output folder, what replaces it, and what a killed run left beside it.

A command *claims* its output first: one run at a time, and what a dead one left is cleaned up.
A folder is then written beside its place (`.NAME.PID.part`) and swapped in, and only ever in the
place of a folder that this repo wrote: every file in it is listed in its `.written`.
"""

import contextlib
import errno
import fnmatch
import json
import os
import shutil
import socket
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import psutil

from instruct.command.commands import AT_END
from instruct.errors import UserError
from instruct.files import DISK, sync, sync_folder
from instruct.processes import is_main_process

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

WRITTEN = ".written"  # in a folder: {file: bytes} of what the command wrote; no data ending
ENDS = ("part", "old")  # being written; moved away by a run without RENAME_EXCHANGE
# what `save_pretrained` of a model and its tokenizer writes
MODEL_FILES = (
    "model*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "additional_chat_templates/*",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.py",
)
TRIES = 10  # at a lock; holders remove it one after another, but not for ever

# {lock file: its descriptor} of this process; None where the file system has no locks
_held: dict[Path, int | None] = {}


################
# One run at a time
################


def claim(output: str | Path) -> None:
    """Makes this process the only one that writes `output` (a folder or a file), until it ends.

    Leftovers of dead runs are cleared. Under torchrun or accelerate only the main process claims;
    claimed twice by one process is claimed once. The kernel frees the lock of a killed process.
    On a file system without locks it says so, goes on, and clears nothing.

    Raises:
        UserError: another living process has it.
    """
    if not is_main_process():
        return
    output = real(output)
    lock = _lock_file(output)
    if lock not in _held:
        descriptor = _locked(lock, output)
        _held[lock] = descriptor
        AT_END.callback(_release, lock, os.getpid())
    clear_leftovers(output)


def real(output: str | Path) -> Path:
    """The absolute path behind symlinks: one folder has one lock, and a link to it stays a link."""
    return Path(os.path.realpath(output))


def _lock_file(output: Path) -> Path:
    beside = output.parent / f".{output.name}.lock"
    if output.is_dir() and not os.access(output.parent, os.W_OK):
        # a mounted folder, say; Trainer pushes no `_*`
        return output / "_lock"
    return beside


def _locked(lock: Path, output: Path) -> int | None:
    """The descriptor of the lock, held; None, and a line that says so, where there are no locks."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
    # /proc, or behind a link to nowhere
    except FileNotFoundError as error:
        raise UserError(f"{lock.parent}: no folder can be made there; give another path") from error
    was_there = lock.exists()
    for _ in range(TRIES):
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            # by the name that was given: nobody asked for a lock; /proc says there is no such file
            why = DISK.get(error.errno, "no file can be made there; give another path")
            raise UserError(f"{output}: nothing can be written in its folder: {why}") from error
        try:
            if fcntl:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            told = _told_of_holder(descriptor)
            os.close(descriptor)
            raise UserError(f"{output}: another run {told}, then run this again") from error
        except OSError:
            os.close(descriptor)
            break
        # else the holder before us removed the file that we opened
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), lock.stat()):
                _note_holder(descriptor, lock, output)
                return descriptor
        os.close(descriptor)
    print(
        f"{output}: this file system has no locks; start one run at a time in it. What a killed "
        f"one left stays: {output.parent}/.{output.name}.*.part can go, .old is the earlier output"
    )
    if not was_there:
        lock.unlink(missing_ok=True)
    return None


def _note_holder(descriptor: int, lock: Path, output: Path) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{socket.gethostname()} {os.getpid()}".encode(), 0)
    except OSError as error:
        lock.unlink(missing_ok=True)
        os.close(descriptor)
        # with the name, which a call on a descriptor does not know
        raise OSError(error.errno, error.strerror, str(output)) from error


def _told_of_holder(descriptor: int) -> str:
    host, _, pid = os.read(descriptor, 300).decode(errors="replace").rpartition(" ")
    # another host's number is here somebody else's, or nobody's
    if host == socket.gethostname():
        return f"(process {pid}) is writing there; wait until it ends or stop it (kill {pid})"
    where = f"process {pid} on {host}" if host else f"process {pid or '?'}"
    return f"({where}) is writing there; wait until it ends or stop it there"


def _release(lock: Path, owner: int) -> None:
    descriptor = _held.pop(lock, None)
    # a forked child that ends by itself: the lock is its parent's
    if descriptor is None or os.getpid() != owner:
        return
    # removed while it is held, so that nobody else's is; one that stays (a disk that became
    # read-only) is free all the same
    with contextlib.suppress(OSError):
        lock.unlink()
    os.close(descriptor)


def _forget_in_child() -> None:
    # a forked helper that outlives us would else hold the lock; closing its copy frees nothing here
    for descriptor in _held.values():
        if descriptor is not None:
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


################
# What dead processes left
################


def record_beside(output: Path) -> Path:
    """Where a command that writes one file keeps its record; read as rows by nobody."""
    return output.with_name(f"{output.name}.run")


def clear_leftovers(output: str | Path) -> None:
    """Of dead processes: what was being written goes, what was moved away comes back.

    Beside `output`, also of its record, and, where it is a folder, in it. What a living process
    writes stays, and so does everything where this process got no lock.
    """
    # another host may be writing: its processes are not seen from here
    if None in _held.values():
        return
    output = Path(output)
    for place in (output, record_beside(output)):
        # newest first: of several moved away, the last one comes back
        for left in sorted(_leftovers(place.parent, place.name), key=_mtime, reverse=True):
            # killed between two renames: the earlier output is only here
            if left.name.endswith(".old") and not place.exists():
                left.rename(place)
            else:
                remove(left)
    if output.is_dir():
        for left in _leftovers(output):
            place = output / left.name[1:].rsplit(".", 2)[0]
            if left.name.endswith(".old") and not place.exists():
                left.rename(place)
            else:
                remove(left)


def _leftovers(folder: Path, name: str | None = None) -> list[Path]:
    """`.NAME.PID.part` and `.NAME.PID.old` of dead processes in a folder."""
    if not folder.is_dir():
        return []
    found = []
    for path in folder.iterdir():
        parts = path.name.rsplit(".", 2)
        named = len(parts) == 3 and parts[1].isdigit() and parts[2] in ENDS and parts[0][:1] == "."
        if named and (name is None or parts[0] == f".{name}") and not _writer_lives(path, parts[1]):
            found.append(path)
    return found


def _writer_lives(left: Path, pid: str) -> bool:
    try:
        started = psutil.Process(int(pid)).create_time()
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, OverflowError):
        return True  # there, but not ours to look at
    # a process that started later only has the writer's number; 2 s: both clocks are coarse
    return started < _mtime(left) + 2


def _mtime(path: Path) -> float:
    return path.lstat().st_mtime


def remove(path: Path) -> None:
    """Removes a file, a link or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


################
# Whose folder
################


def check_ours(
    folder: str | Path,
    names: Collection[str] = (),
    report_keys: Collection[str] = (),
    changed: bool = False,
) -> None:
    """Refuses an output folder with anything in it that this repo did not write.

    Args:
        names: patterns of what the command writes. They count for a folder without `.written`
            alone, as earlier versions left it.
        report_keys: keys of the `report.json` by which such a folder is known.
        changed: whether files of the command that were changed by hand since are let pass.

    Raises:
        UserError: a foreign entry, or a place that cannot be replaced as a whole.
    """
    folder = real(folder)
    if folder.is_file():
        raise UserError(f"{folder} is a file; give a folder that is not there yet")
    cwd = Path.cwd()
    if folder in (cwd, Path.home(), *cwd.parents) or os.path.ismount(folder):
        raise UserError(
            f"{folder} is not replaced: it is your home, the folder you are in or a whole disk; "
            "give a new folder in it"
        )
    foreign = None
    if folder.is_dir():
        foreign = _foreign_entry(folder, names, report_keys, changed)
    if foreign:
        raise UserError(f"{folder} {foreign}; give another folder, or move that away")


def _foreign_entry(
    folder: Path, names: Collection[str], report_keys: Collection[str], changed: bool
) -> str | None:
    """What is in a folder that is not ours, in words; None where all is."""
    written = _written(folder)
    known = written is not None or set(report_keys) <= set(report_in(folder))
    # one by one: somebody's home may hold millions
    for name, size in walk(folder):
        if not known:
            return f"holds {name}, which this command did not write (no report of it)"
        if name == WRITTEN:
            continue
        if written is None:
            listed = any(fnmatch.fnmatchcase(name, pattern) for pattern in names)
        else:
            listed = name in written
        if not listed:
            return f"holds {name}, which this command did not write"
        if written is not None and written[name] != size and not changed:
            return f"holds {name}, which was changed by hand since"
    return None


def walk(folder: Path) -> Iterator[tuple[str, int]]:
    """(path in the folder, bytes) of all files, links and empty folders; links are not followed."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = folder / entry.name
        is_folder = entry.is_dir(follow_symlinks=False)
        if is_folder and any(os.scandir(path)):
            yield from ((f"{entry.name}/{name}", size) for name, size in walk(path))
        else:
            yield entry.name, 0 if is_folder else entry.stat(follow_symlinks=False).st_size


def _written(folder: Path) -> dict[str, int] | None:
    try:
        listed = json.loads((folder / WRITTEN).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return listed if isinstance(listed, dict) else None


def json_in(file: Path) -> dict:
    """The JSON object in a file, empty where there is none that can be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def report_in(folder: Path) -> dict:
    """The `report.json` of a folder, empty where there is none that can be read."""
    return json_in(folder / "report.json")


################
# A folder, whole or not at all
################


@contextlib.contextmanager
def atomic_folder(
    path: str | Path,
    names: Collection[str] = (),
    report_keys: Collection[str] = (),
    changed: bool = False,
) -> Iterator[Path]:
    """Yields an empty folder beside `path`, which takes its place when the block ends well.

    Args:
        names, report_keys: what earlier versions wrote there, see `check_ours`.
        changed: whether files that were changed by hand since are replaced as well.

    Raises:
        UserError: `path` holds something that this repo did not write; nothing was changed.
    """
    path = real(path)
    check_ours(path, names, report_keys, changed)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    # of a killed run whose pid came again
    remove(beside)
    beside.mkdir()
    try:
        yield beside
        (beside / WRITTEN).write_text(json.dumps(dict(walk(beside)), indent=1) + "\n", "utf-8")
        for file, _ in walk(beside):
            sync(beside / file)
        for folder in (beside, *(p for p in beside.rglob("*") if p.is_dir())):
            sync_folder(folder)
        # again: the block may have taken hours
        check_ours(path, names, report_keys, changed)
        swap(beside, path)
    finally:
        # after the swap it is the earlier output
        if beside.exists():
            shutil.rmtree(beside, ignore_errors=True)


def swap(beside: Path, path: Path) -> None:
    """Puts `beside` in the place of `path`, whose earlier content is then in `beside`."""
    if not path.exists():
        beside.rename(path)
    elif not _exchange(beside, path):
        # without that call, `clear_leftovers` brings the earlier one back after a kill between
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        path.rename(old)
        beside.rename(path)
        shutil.rmtree(old)
    sync_folder(path.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Two names change places in one step; False where the system cannot (Linux can)."""
    if not sys.platform.startswith("linux"):
        return False
    # imported here: only this call needs it
    import ctypes

    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return True
    code = ctypes.get_errno()
    # this file system cannot, or a sandbox or a mount point forbids it; two renames may do
    cannot = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV, errno.EPERM, errno.EACCES)
    if code in cannot:
        return False
    raise OSError(code, os.strerror(code), str(other))
